"""One LoRA file measured against its model: what `evaluate` and a batch with requirements do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..diffusion.cost import Cost
from ..diffusion.knowledge import Judge
from ..diffusion.model import DiffusionModel
from ..errors import SageError
from ..guard import RULE, Guard, not_guarded
from ..lora.file import attach, read_lora
from ..spec import ErasureSpec
from .agreement import second_opinion
from .attacks.base import Attack
from .further import Further
from .judge import ModelJudge
from .judges.choose import Opened, own_or_model
from .keeping.columns import COLUMNS, PREFIX
from .keeping.keep import Keeper, Keeping
from .kept import NOTHING_KEPT, Kept, about_model, file_digest
from .measure import Evaluation, evaluate, measure_original
from .protocols.base import OnEvent, Protocol, Subject
from .require import Requirement, all_hold, check_columns, check_report
from .scenes import InScenes


@dataclass(frozen=True)
class Measuring:
    """How a file is measured.

    images: pictures a cell. attacks: run where a probe judges, and elsewhere only if they were asked for.
    judges: see judges/choose.py; the first fills the report's columns, the others judge the same pictures.
    further: cells beyond the four. requirements: claims for the report to check. guarded: concepts that a
    guard keeps away from the erased model's pictures. scenes: the suite whose prompts the four cells ask
    for, see scenes.py; "": the judge's own prompts. protocols: the field's, with so many pictures of each
    class; None: as papers draw. keeping: measure what was kept in more ways. kept: where finished
    measurements are saved, and found.
    """

    images: int = 16
    seed: int = 0
    attacks: tuple[Attack, ...] = ()
    asked: bool = False
    judges: tuple[Opened, ...] = (own_or_model,)
    further: Further = field(default_factory=Further)
    requirements: tuple[Requirement, ...] = ()
    guarded: tuple[str, ...] = ()
    scenes: str = ""
    protocols: tuple[Protocol, ...] = ()
    protocol_images: int | None = None
    kept: Kept = NOTHING_KEPT
    keeping: Keeping | None = None

    def check(self) -> None:
        """Raises SageError for cells of one name, and for a claim about a column that the report will not
        have.
        """
        self.further.check()
        lists = [own.name for own in self.further.lists]
        if taken := [name for name in lists if name.startswith(PREFIX)]:
            raise SageError(f"The name {taken[0]!r} of a list of prompts is taken; give another: NAME=FILE.")
        drifts = (f"drift.{name}" for name in lists)
        protocols = (column for protocol in self.protocols for column in protocol.columns)
        kept = COLUMNS if self.keeping else ()
        check_columns(self.requirements, (*self.further.cells, *drifts, *protocols, *kept))


def measure_file(
    model: DiffusionModel,
    path: Path,
    how: Measuring,
    lora: dict,
    on_event: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Hang the file on the model, measure before and after, take it off. `lora`: for the report.

    The report has the file's metadata, and the model's fingerprint. With requirements it has them, and
    "holds": whether all do. Raises SageError where the file is no erasure of this kind of model, or the model
    draws no pictures.
    """
    file = read_lora(path)
    spec = ErasureSpec.from_json(file.spec())
    model.knowledge.check([spec.concept])
    if model.vae is None:
        raise SageError(
            "The checkpoint has no autoencoder, so no picture can be drawn; evaluate with a checkpoint that"
            " has one."
        )
    untouched, erased = _kept(model, path, how)
    adapter = attach(model, file, path.name)
    try:
        with adapter.off():
            first, *others = [make(model, spec) for make in how.judges]
            subject = Subject(model, adapter, spec, (first, *others))
            for protocol in how.protocols:  # before hours of drawing
                protocol.check(subject.judges)
            attacks = how.attacks if how.asked or _is_attacked(model, first) else ()
            if how.scenes:
                first = InScenes(first, model, spec, how.scenes)
            base = measure_original(
                model, spec, how.images, how.seed, attacks, on_event, first, how.further, untouched
            )
            keeper = None
            if how.keeping is not None:
                keeper = Keeper(model, spec, subject.judges, how.keeping, how.images, how.seed)
                keeper.original(base, on_event)
            if how.guarded:
                names = [ErasureSpec(concept).concept for concept in how.guarded]
                if note := not_guarded(names, model.knowledge.styles):
                    on_event(note)
                model.guard = Guard(model, names)
        evaluation = evaluate(
            model, base, spec, Cost(), 0.0, lora, how.images, how.seed, attacks, on_event, erased
        )
        if keeper is not None:
            evaluation.report["keeping"] = keeper.erased(evaluation, on_event)
        if how.protocols:
            evaluation.report["protocols"] = _by_protocol(subject, how, on_event)
    finally:
        model.guard = None
        adapter.remove()
    opinions = []
    names = {first.name}
    for judge in others:
        if judge.name in names:  # without a probe of its own, the untouched model is auto as well
            continue
        names.add(judge.name)
        on_event(f"judging the same pictures by {judge.name}")
        opinions.append(second_opinion(judge, base, evaluation, spec, untouched))
    evaluation.report["metadata"] = file.metadata
    evaluation.report["model"] = {"source": model.source, "sha256": model.fingerprint}
    if (cost := file.cost()) is not None:
        evaluation.report["cost"] |= cost
    if how.guarded:
        evaluation.report["guarded"] = list(how.guarded)
    if opinions:
        evaluation.report["further_judges"] = opinions
    if how.requirements:
        results = check_report(how.requirements, evaluation.report)
        evaluation.report |= {"requirements": results, "holds": all_hold(results)}
    return evaluation


def _by_protocol(subject: Subject, how: Measuring, on_event: OnEvent) -> dict[str, dict]:
    """What every protocol measured, by its name."""
    return {p.name: p.run(subject, how.protocol_images, how.seed, on_event) for p in how.protocols}


def _kept(model: DiffusionModel, path: Path, how: Measuring) -> tuple[Kept, Kept]:
    """For measurements of the untouched model, and of the erased one."""
    if how.kept.folder is None:
        return how.kept, how.kept
    known = "model" in how.kept.about  # by whoever measures several files
    untouched = how.kept if known else how.kept.also(model=about_model(model))
    guarded = [*how.guarded, RULE] if how.guarded else []
    return untouched, untouched.also(lora=file_digest(path), guarded=guarded)


def _is_attacked(model: DiffusionModel, judge: Judge) -> bool:
    """Elsewhere the attack would take as many passes again as a training of thousands of steps."""
    return model.knowledge.judge is not None and not isinstance(judge, ModelJudge)
