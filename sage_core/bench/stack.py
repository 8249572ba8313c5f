"""Erasures together: one LoRA each on top of each other, the same joined to one, and one LoRA trained on all
at once: `python -m sage_core.bench.stack --out DIR`.

What is asked (SepME, arXiv 2402.05947): does every concept stay away however many others are erased, is the
rest still there, and does taking one LoRA away bring back that concept and no other? On the bundled model,
judged by its probe. Every measured state of the model is one JSON file; stop at any time, it resumes where it
was.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..cycle.run import erase
from ..demo.vocabulary import BUNDLED, canonical
from ..diffusion.knowledge import Prompt
from ..diffusion.model import DiffusionModel
from ..evaluate.cells import EVALUATION_SEED
from ..evaluate.measure import load_judge
from ..files import write_text
from ..lora.file import load_lora
from ..lora.merge import merge_loras
from ..models import load_model
from ..spec import ErasureSpec
from .study import mean

CONCEPTS = (
    "lion",
    "castle",
    "hamburger",
    "robot",
    "turtle",
    "pineapple",
    "airplane",
    "umbrella",
    "penguin",
    "sunflower",
)
COUNTS = (1, 2, 5, 10)


def prompts_for(concepts: tuple[str, ...], images: int) -> list[Prompt]:
    """For every concept `images` prompts, half of them with other words for it; three times as many with
    neighbours that are not erased, and with other things. A concept's prompts are the same in every list that
    holds it.
    """
    erased = [BUNDLED.find(c) for c in concepts]
    rows = []
    for c in erased:
        words = itertools.cycle([c.name, *c.synonyms])
        for i in range(images):
            word = next(words) if i % 2 else c.name
            rows.append(Prompt("erased", _prompt(word, i), c.name, _seed(c, i)))
    near = list(dict.fromkeys(n for c in erased for n in BUNDLED.near(c) if n not in erased))
    groups = {c.group for c in erased}
    others = [c for c in BUNDLED.judged() if c not in erased and c not in near]
    far = [c for c in others if c.group not in groups] or others
    for cell, things in (("near", near), ("far", far)):
        count = 3 * images
        if len(things) > count:
            chosen = [things[i * len(things) // count] for i in range(count)]
        else:
            chosen = itertools.islice(itertools.cycle(things), count)
        for i, c in enumerate(chosen):
            rows.append(Prompt(cell, _prompt(c.name, i), c.name, _seed(c, i)))
    return rows


def _prompt(word: str, i: int) -> str:
    return canonical(BUNDLED.styles[i % len(BUNDLED.styles)], word)


def _seed(concept, i: int) -> int:
    return EVALUATION_SEED + 100 * BUNDLED.concepts.index(concept) + i


@dataclass
class Stacks:
    """The work, its folder, and which pictures the original model drew right (computed once a prompt).
    strength: of every LoRA of a stack; one that was trained on all at once has 1.
    """

    model: DiffusionModel
    out: Path
    method: str
    images: int
    strength: float = 1.0

    def __post_init__(self) -> None:
        self.judge, self.right = load_judge(self.model), {}

    @property
    def weaker(self) -> str:
        """What is added to the names of files that depend on the strength."""
        return "" if self.strength == 1 else f"-at-{self.strength:g}"

    def joined(self, files: list[Path]) -> Path:
        """One file for all of them, made if it is not there yet."""
        path = self.out / f"{'+'.join(file.stem for file in files)}{self.weaker}.safetensors"
        if not path.exists():
            merge_loras(files, path, [self.strength] * len(files))
        return path

    def lora(self, concepts: tuple[str, ...]) -> Path:
        """The file for which these concepts were trained at once, as words of one erasure, made if it is not
        there yet.
        """
        path = (
            self.out / f"{'+'.join(concepts)}-at-once.safetensors"
            if len(concepts) > 1
            else self.out / f"{concepts[0]}.safetensors"
        )
        if not path.exists():
            erasure = erase(self.model, ErasureSpec(concepts[0], concepts[1:], method=self.method))
            try:
                write_text(
                    path.with_suffix(".json"),
                    json.dumps({"passes": erasure.cost.passes, "seconds": round(erasure.seconds, 1)}),
                )
                erasure.save(path, self.model)
            finally:
                erasure.adapter.remove()
        return path

    def look(self, prompts: list[Prompt]) -> list[bool]:
        images = self.model.generate([p.text for p in prompts], [p.seed for p in prompts])
        return self.judge.sees(images, [p.expected for p in prompts], prompts)

    def stacked(self, name: str, concepts: tuple[str, ...], files: list[Path]) -> dict:
        return self.measured(name + self.weaker, concepts, files, self.strength)

    def measured(
        self, name: str, concepts: tuple[str, ...], files: list[Path], strength: float = 1.0
    ) -> dict:
        """Shares of pictures seen under these LoRAs, among prompts that the original model gets right."""
        path = self.out / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        prompts = prompts_for(concepts, self.images)
        new = [p for p in prompts if p not in self.right]
        self.right.update(zip(new, self.look(new) if new else []))
        with together(self.model, files, strength):
            after = dict(zip(prompts, self.look(prompts)))
        kept = {p: s for p, s in after.items() if self.right[p]}
        data = {
            "seen": {
                c: share(
                    s for p, s in kept.items() if p.cell == "erased" and p.expected == BUNDLED.find(c).name
                )
                for c in concepts
            }
        }
        data |= {cell: share(s for p, s in kept.items() if p.cell == cell) for cell in ("near", "far")}
        write_text(path, json.dumps(data))
        return data


def share(values) -> float | None:
    value = mean(float(v) for v in values)
    return value if value is None else round(value, 4)


@contextlib.contextmanager
def together(model: DiffusionModel, files: list[Path], strength: float = 1.0) -> Iterator[None]:
    """Inside, all these LoRAs hang on the model, each at that strength."""
    adapters = []
    try:
        for file in files:
            adapters.append(load_lora(model, file, strength))
        yield
    finally:
        for adapter in adapters:
            adapter.remove()


def run(stacks: Stacks, concepts: tuple[str, ...], counts: tuple[int, ...], say=print) -> dict:
    """All stacks, all single LoRAs for many, and the largest stack less one of its LoRAs, each in turn."""
    result = {"stacked": {}, "joined": {}, "one": {}, "without": {}}
    for n in counts:
        some = concepts[:n]
        files = [stacks.lora((c,)) for c in some]
        result["stacked"][n] = stacks.stacked(f"stack-{n}", some, files)
        say(f"{n} stacked: {result['stacked'][n]}")
        if n > 1:
            result["joined"][n] = stacks.measured(f"joined-{n}{stacks.weaker}", some, [stacks.joined(files)])
            say(f"{n} joined: {result['joined'][n]}")
            file = stacks.lora(some)
            result["one"][n] = stacks.measured(f"one-{n}", some, [file]) | json.loads(
                file.with_suffix(".json").read_text(encoding="utf-8")
            )
            say(f"{n} at once: {result['one'][n]}")
    largest = concepts[: max(counts)]
    for gone in largest if len(largest) > 1 else ():
        files = [stacks.lora((c,)) for c in largest if c != gone]
        result["without"][gone] = stacks.stacked(f"without-{gone}", largest, files)
        say(f"without {gone}'s: {result['without'][gone]['seen']}")
    write_text(stacks.out / f"stack{stacks.weaker}.md", markdown(result))
    write_text(stacks.out / f"stack{stacks.weaker}.json", json.dumps(result, indent=1))
    return result


def markdown(result: dict) -> str:
    """The tables of docs/benchmarks.md."""
    lines = [
        "| concepts | LoRAs | still seen, mean | worst of them | near | far |",
        "|---|---|---|---|---|---|",
    ]
    for n, row in result["stacked"].items():
        lines.append(_line(f"{n} | one each", row))
        if n in result["one"]:
            lines.append(_line(f"{n} | joined to one file", result["joined"][n]))
            lines.append(_line(f"{n} | one, trained on all at once", result["one"][n]))
    lines += [
        "",
        "| LoRA taken away | that concept is seen again | the others, mean | worst of them |",
        "|---|---|---|---|",
    ]
    for gone, row in result["without"].items():
        others = {c: v for c, v in row["seen"].items() if c != gone}
        lines.append(f"| {gone} | {row['seen'][gone]:.2f} | {mean(others.values()):.3f} | {_worst(others)} |")
    return "\n".join(lines) + "\n"


def _line(title: str, row: dict) -> str:
    return (
        f"| {title} | {mean(row['seen'].values()):.3f} | {_worst(row['seen'])} | {row['near']:.3f} |"
        f" {row['far']:.3f} |"
    )


def _worst(seen_by_concept: dict[str, float]) -> str:
    concept = max(seen_by_concept, key=seen_by_concept.get)
    return f"{seen_by_concept[concept]:.2f} ({concept})" if seen_by_concept[concept] else "0.00"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the LoRAs and the measured states; what is there is not made again",
    )
    parser.add_argument("--method", default="sage")
    parser.add_argument("--concepts", default=",".join(CONCEPTS))
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument(
        "--images",
        type=int,
        default=8,
        help="pictures a concept; three times as many of neighbours and of other things",
    )
    parser.add_argument("--strength", type=float, default=1.0, help="of every LoRA of a stack (default 1)")
    args = parser.parse_args()
    concepts, counts = tuple(args.concepts.split(",")), tuple(int(n) for n in args.counts.split(","))
    result = run(
        Stacks(load_model("demo"), args.out, args.method, args.images, args.strength),
        concepts,
        counts,
        lambda text: print(text, flush=True),
    )
    print(markdown(result))


if __name__ == "__main__":
    main()
