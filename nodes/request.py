"""What a user typed into the nodes, as erasure specs and safe file names.

Knows neither `comfy` nor torch's weights.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path, PurePath

from ..sage_core.errors import SageError
from ..sage_core.files import output_path, slug
from ..sage_core.spec import ErasureSpec, parse_concepts

FOLDER = "sage"  # below models/loras
EFFORTS = {"quick": 0.5, "standard": 1.0, "thorough": 2.0}
MAX_CONCEPTS = 20
MAX_PROMPTS = 16  # in one comparison
AUTOMATIC = "as the method has it"
GUESSED = "automatic"  # of a concept's kind


def parse_words(text: str) -> tuple[str, ...]:
    """Words that must stay: one a line, or separated by commas."""
    return tuple(dict.fromkeys(" ".join(w.split()) for w in re.split(r"[\n,]", text) if w.strip()))


def specs(
    concepts: str,
    method: str,
    effort: str,
    seed: int,
    retain: str = "",
    surface: str = AUTOMATIC,
    rank: int = 0,
    steps: int = 0,
    strength: float = 0.0,
    resolution: int = 0,
    kind: str = GUESSED,
    exclude: str = "",
    search: bool = True,
    check: bool = True,
    becomes: str = "",
) -> list[ErasureSpec]:
    """One spec for each concept. Zero and "as the method has it" mean the method's default. Raises SageError.

    The specs are not resolved: what kind a concept is can depend on the model.
    """
    from ..sage_core.methods.table import METHODS

    if method not in METHODS:
        raise SageError(f"There is no method {method!r}; choose one of {', '.join(METHODS)}.")
    if effort not in EFFORTS:
        raise SageError(f"There is no effort {effort!r}; choose one of {', '.join(EFFORTS)}.")
    if not math.isfinite(strength):
        raise SageError(f"The strength is {strength}; it is a number from 0 (the method's default) to 10.")
    wanted = [
        ErasureSpec(
            name,
            synonyms,
            parse_words(retain),
            method,
            seed,
            None if surface == AUTOMATIC else surface,
            steps or None,
            rank or None,
            eta=strength or None,
            resolution=resolution or None,
            kind=None if kind == GUESSED else kind,
            exclude=parse_words(exclude),
            search=None if search else False,
            check=None if check else False,
            becomes=becomes.strip(),
        )
        for name, synonyms in _few(concepts)
    ]
    return wanted if steps else [_with_effort(spec, EFFORTS[effort]) for spec in wanted]


def _with_effort(spec: ErasureSpec, share: float) -> ErasureSpec:
    """With that share of the method's own steps."""
    return dataclasses.replace(spec, steps=max(1, round(spec.recipe().steps * share)))


def _few(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """Concepts and their synonyms; a node waits for all of them."""
    found = parse_concepts(text)
    if len(found) > MAX_CONCEPTS:
        raise SageError(
            f"{len(found)} concepts are given; at most {MAX_CONCEPTS} can be erased by one node: split them"
            " over several."
        )
    return found


def prompts_each(concepts: int) -> int:
    """How many test prompts each of several concepts gets, so that all fit into one comparison."""
    return 8 if concepts == 1 else max(1, min(4, MAX_PROMPTS // concepts))


def few(groups: list[list[str]]) -> list[str]:
    """The prompts of several concepts, each once; the first of every concept before any other is left out."""
    in_turn = [
        group[i] for i in range(max(map(len, groups), default=0)) for group in groups if i < len(group)
    ]
    chosen = set(list(dict.fromkeys(in_turn))[:MAX_PROMPTS])
    return [p for p in dict.fromkeys(p for group in groups for p in group) if p in chosen]


def lora_stem(pattern: str, concept: str, several: bool) -> str:
    """The file's name without suffix:

    `%concept%` becomes the concept; where several are erased, every name holds its own.
    """
    pattern = pattern.strip().removesuffix(".safetensors") or "erased-%concept%"
    if several and "%concept%" not in pattern:
        pattern += "-%concept%"
    return pattern.replace("%concept%", slug(concept))


def lora_path(folder: Path, stem: str) -> Path:
    """`stem` below `folder`/sage.

    Raises SageError for names that would leave it or that a file system refuses.
    """
    return output_path(folder / FOLDER, stem + ".safetensors", ".safetensors")


def listed_name(path: PurePath, loras: PurePath) -> str:
    """A LoRA file as ComfyUI's lists name it: relative to the folder, with the system's own separator."""
    return str(path.relative_to(loras))
