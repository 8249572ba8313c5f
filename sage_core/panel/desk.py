"""What the page's buttons do, without gradio: words typed by a user become runs of the queue."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..domain.found import Domain
from ..errors import SageError
from ..spec import ErasureSpec, parse_concepts
from .engine import Engine
from .runs import DONE, Run

MOST_CONCEPTS = 20
GUESSED = "guess it"


@dataclass(frozen=True)
class Form:
    """What is typed on the page.

    means, close: ticked words of the two lists, None where no words were searched for. words: the runs that
    found them.
    """

    model: str
    concepts: str
    method: str = "sage"
    kind: str = GUESSED
    becomes: str = ""
    seed: float | None = 0
    steps: float | None = 0
    resolution: float | None = 0
    means: tuple[str, ...] | None = None
    close: tuple[str, ...] | None = None
    words: tuple[str, ...] = ()


def specs_of(form: Form) -> list[ErasureSpec]:
    """One for each concept, as typed. Raises SageError."""
    found = parse_concepts(form.concepts or "")
    if len(found) > MOST_CONCEPTS:
        raise SageError(f"{len(found)} concepts are given; at most {MOST_CONCEPTS} can be queued at once.")
    settings = {
        "method": form.method,
        "seed": _whole(form.seed),
        "steps": _whole(form.steps) or None,
        "resolution": _whole(form.resolution) or None,
        "kind": None if form.kind == GUESSED else form.kind,
        "becomes": (form.becomes or "").strip(),
    }
    return [ErasureSpec(name, synonyms, **settings) for name, synonyms in found]


def _whole(value: float | None) -> int:
    """A number field's value; an empty one is 0."""
    return int(value) if value is not None and value == value else 0


def find_words(engine: Engine, form: Form) -> list[Run]:
    """Search the domain of each concept. Raises SageError."""
    return [engine.submit("words", form.model, spec.to_json())[0] for spec in specs_of(form)]


def start_erasing(engine: Engine, form: Form) -> tuple[Run, str]:
    """Queue an erasure for each concept, and one file of all where there are several: (what to show, a
    sentence).
    """
    specs = specs_of(form)
    known = {run.spec["concept"]: run for run in found_words(engine, form.words)}
    specs = [_edited(spec, known.get(spec.concept), form, len(known) > 1) for spec in specs]
    submitted = [engine.submit("erase", form.model, spec.to_json()) for spec in specs]
    runs, again = [run for run, _ in submitted], [run.title for run, new in submitted if not new]
    if len(runs) > 1:
        engine.submit("join", form.model, parts=tuple(run.id for run in runs))
    sentence = f"{', '.join(again)}: this erasure is already queued or running." if again else ""
    return runs[0], sentence


def found_words(engine: Engine, ids: tuple[str, ...]) -> list[Run]:
    """The searches that are done."""
    return [run for run in engine.runs() if run.id in ids and run.status == DONE and run.kind == "words"]


def choices(runs: list[Run], group: str) -> list[str]:
    """The words of a list as the page shows them; with the concept where there are several."""
    shown = []
    for run in reversed(runs):
        for word, _ in run.result["domain"][group]:
            shown.append(f"{run.spec['concept']}: {word}" if len(runs) > 1 else word)
    return list(dict.fromkeys(shown))


def add_word(text: str, several: bool) -> str:
    """A word that the user adds to a list. Raises SageError."""
    word = " ".join((text or "").split())
    if not word:
        raise SageError("Type the word that is to be added.")
    if several and ":" not in word:
        raise SageError(f'Say for which concept {word!r} is, as the list does: "concept: {word}".')
    ErasureSpec(word.split(":", 1)[1] if several else word)
    return word


def _edited(spec: ErasureSpec, run: Run | None, form: Form, several: bool) -> ErasureSpec:
    """With the words that were struck and added. Without any change, what the search found is taken as it is;
    with one, the search is made again under the new terms.
    """
    if run is None or form.means is None or form.close is None:
        return spec
    means = _picked(form.means, spec.concept, several)
    close = _picked(form.close, spec.concept, several)
    domain = Domain.from_json(run.result["domain"])
    own_means, own_close = [w.text for w in domain.means], [w.text for w in domain.close]
    synonyms = [w for w in means if w not in own_means]
    retain = [w for w in close if w not in own_close]
    struck = [w for w in own_means if w not in means] + [w for w in own_close if w not in close]
    exclude = [w for w in struck if w not in (*retain, *synonyms)]
    if not (synonyms or retain or struck):
        return dataclasses.replace(spec, domain=domain) if _same_terms(spec, run) else spec
    return dataclasses.replace(
        spec,
        synonyms=tuple(dict.fromkeys([*spec.synonyms, *synonyms])),
        retain=tuple(retain),
        exclude=tuple(exclude),
    )


def _same_terms(spec: ErasureSpec, run: Run) -> bool:
    """Whether the search was made under the same terms; a method that does not search takes none."""
    then = ErasureSpec.from_json(run.spec)
    terms = ("synonyms", "retain", "exclude", "kind", "becomes")
    same = all(getattr(then, name) == getattr(spec, name) for name in terms)
    return same and spec.recipe().search


def _picked(words: tuple[str, ...], concept: str, several: bool) -> list[str]:
    if not several:
        return list(words)
    start = f"{concept}: "
    return [word.removeprefix(start) for word in words if word.startswith(start)]


def start_attack(engine: Engine, run: Run) -> Run:
    """The red team on a finished erasure. Raises SageError."""
    if run.kind != "erase" or run.status != DONE:
        raise SageError("Choose a finished erasure of one concept first; then the red team can attack it.")
    file = engine.places.loras / run.result["lora"]
    if not file.is_file():
        raise SageError("The LoRA of this run is not there any more; erase again.")
    return engine.submit("attack", run.model, run.spec, (run.id,), str(file))[0]


def repeat(engine: Engine, model: str, lora_label: str) -> Run:
    """Queue the erasure that a LoRA file records. Raises SageError."""
    from ..lora.file import read_lora

    file = read_lora(engine.places.lora(lora_label))
    spec: dict[str, Any] = ErasureSpec.from_json(file.spec()).to_json()
    return engine.submit("erase", model, spec)[0]
