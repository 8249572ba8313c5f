"""Where the LoRA of an erasure goes, and whether it is there already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..diffusion.model import DiffusionModel
from ..errors import SageError
from ..files import slug
from ..lora.file import LoraFile, read_lora
from ..lora.metadata import SCHEDULE_KEY
from ..methods.recipe import Recipe
from ..spec import ErasureSpec

MOST_ALIKE = 10_000  # files of one name, numbered


def stems(concepts: list[str]) -> list[str]:
    """A file name for each, different even where two concepts are spelt alike."""
    seen: Counter[str] = Counter()
    names = []
    for concept in concepts:
        name = slug(concept)
        seen[name.lower()] += 1
        count = seen[name.lower()]
        names.append(f"erased-{name}" if count == 1 else f"erased-{name}-{count}")
    return names


def is_of(file: LoraFile, recipe: Recipe, model: DiffusionModel) -> bool:
    """Whether a file is this very erasure of this model, trained for the way in which the model is
    sampled.
    """
    try:
        made = ErasureSpec.from_json(file.spec()).recipe(model.knowledge.styles)
    except SageError:
        return False
    sampling = file.metadata.get("modelspec.prediction_type"), file.metadata.get(SCHEDULE_KEY, "")
    return (
        made.fingerprint() == recipe.fingerprint()
        and file.metadata.get("sage.model_sha256") == model.fingerprint
        and sampling == (model.prediction, model.schedule)
    )


def found(path: Path, recipe: Recipe, model: DiffusionModel) -> LoraFile | None:
    """The file at `path` if it is this very erasure; None for other, damaged and foreign files."""
    try:
        file = read_lora(path)
    except SageError:
        return None
    return file if is_of(file, recipe, model) else None


def place(first: Path, recipe: Recipe, model: DiffusionModel) -> tuple[Path, LoraFile | None]:
    """Where this erasure's file goes, and the file if it is there already.

    A file of another erasure is never overwritten: the next free number is taken. Raises SageError after
    10,000 of them.
    """
    return _free(first, lambda path: found(path, recipe, model))


def place_joined(first: Path, parts: list[LoraFile], model: DiffusionModel) -> tuple[Path, LoraFile | None]:
    """The same of a file that joins these, each at full strength."""
    wanted = [spec | {"strength": spec.get("strength", 1.0)} for part in parts for spec in part.specs()]

    def same(path: Path) -> LoraFile | None:
        try:
            file = read_lora(path)
            made_for = file.metadata.get("sage.model_sha256")
            return file if file.specs() == wanted and made_for == model.fingerprint else None
        except SageError:
            return None

    return _free(first, same)


def _free(first: Path, wanted: Callable[[Path], LoraFile | None]) -> tuple[Path, LoraFile | None]:
    """The first path that is free or holds what is wanted, and that file."""
    for number in range(1, MOST_ALIKE):
        path = first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")
        if not path.exists():
            return path, None
        file = wanted(path)
        if file is not None:
            return path, file
    raise SageError(f"There are {MOST_ALIKE:,} files named like {first.name}; choose another name.")
