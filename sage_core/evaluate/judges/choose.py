"""A judge by its name on the command line: auto, model, clip:FOLDER, classifier:FOLDER, nudenet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...diffusion.knowledge import Judge
from ...diffusion.model import DiffusionModel
from ...errors import SageError, shown
from ...spec import ErasureSpec
from ..judge import ModelJudge
from ..measure import load_judge

NAMES = "auto, model, clip:FOLDER, classifier:FOLDER and nudenet"
Opened = Callable[[DiffusionModel, ErasureSpec], Judge]


def own_or_model(model: DiffusionModel, spec: ErasureSpec) -> Judge:
    """The model's own probe where it has one, else the untouched model."""
    return load_judge(model) or ModelJudge(model, spec)


def open_judge(argument: str, labels: tuple[str, ...] = ()) -> Opened:
    """Reads the judge's files, and returns what makes it the judge of one erasure: call that with every
    adapter off. labels: of a classifier, that mean the concept.

    Raises SageError for an unknown judge, and for one whose files cannot be used.
    """
    kind, _, rest = argument.partition(":")
    if argument == "auto":
        return own_or_model
    if argument == "model":
        return ModelJudge
    if kind == "clip" and rest:
        from .clip import Clip, ClipJudge

        clip = Clip.load(Path(rest))
        return lambda model, spec: ClipJudge(clip, model, spec)
    if kind == "classifier" and rest:
        from .classifier import Classifier, ClassifierJudge

        network = Classifier.load(Path(rest))
        return lambda model, spec: ClassifierJudge(network, model, spec, labels)
    if kind == "nudenet":
        from .nudenet import NudeNetJudge, detector, parse_classes

        classes, network = parse_classes(rest), detector()
        return lambda model, spec: NudeNetJudge(network, model, spec, classes)
    raise SageError(f"There is no judge {shown(argument)}; the judges are {NAMES}.")
