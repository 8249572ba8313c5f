"""Several erasures as one LoRA file, for hosts and workflows with room for one: the same change as the files
stacked.

A stack adds its LoRAs' changes, sum_i s_i alpha_i / rank_i up_i down_i, and that sum is a LoRA again, of the
ranks' sum: the down matrices below each other, the up matrices, scaled, beside each other. Nothing is trained
and nothing is approximated. With the model at hand they can be fitted to each other first (jobs/join.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..diffusion.architecture import FAMILIES
from ..errors import SageError
from .adapter import Adapter
from .file import LoraFile, read_lora, write_lora
from .metadata import (
    BASE_VERSIONS,
    CHECK_KEY,
    COST_KEY,
    LEFT_KEY,
    LOSSES_KEY,
    RESOLUTION_KEY,
    RESULT_KEY,
    SPEC_KEY,
    SPECS_KEY,
    now,
)

SIDES = {BASE_VERSIONS[name]: family.sample_size for name, family in FAMILIES.items()}
Fit = Callable[[list[LoraFile], list[float]], list[LoraFile]]
MAX_RANK = 1024  # of the joined file, as of any erasure
ONE_ERASURE = (
    COST_KEY,
    SPEC_KEY,
    SPECS_KEY,
    RESULT_KEY,
    LOSSES_KEY,
    LEFT_KEY,
    CHECK_KEY,
)  # metadata that says nothing of the whole


def merge_loras(
    files: list[Path], out: Path, strengths: list[float] | None = None, fit: Fit | None = None
) -> LoraFile:
    """Write the sum of erasure LoRAs, each times its strength (1 where none is given), to `out`, and return
    what was written.

    fit: changes the files' matrices before they are summed, so that they fit each other.

    Raises SageError where a file is none of ours, two are not of one architecture, or the sum of the ranks is
    above 1024.
    """
    if len(files) < 2:
        raise SageError("Joining takes at least two LoRA files.")
    strengths = [1.0] * len(files) if strengths is None else strengths
    if bad := [s for s in strengths if not math.isfinite(s)]:
        raise SageError(f"A strength is a number, not {bad[0]}.")
    if len(strengths) != len(files):
        raise SageError(
            f"There are {len(files)} files and {len(strengths)} strengths; give one a file, or none."
        )
    parts = [read_lora(file) for file in files]
    summands = parts if fit is None else fit(parts, strengths)
    layers = joined_layers(summands, strengths, [Path(f).name for f in files])
    paths = {name: path for part in parts for name, path in (part.paths or {}).items()}
    merged = LoraFile(layers, joined_metadata(parts, strengths, Path(out).stem), paths or None)
    if merged.rank > MAX_RANK:
        raise SageError(
            f"Joined, the files are of rank {merged.rank}; up to {MAX_RANK} can be written. Join fewer of"
            " them."
        )
    # A matrix in half precision times a strength is no half-precision number any more.
    dtype = torch.float16 if all(exact(part, s) for part, s in zip(summands, strengths)) else torch.float32
    write_lora(Path(out), Adapter({}, layers), merged.metadata, dtype, merged.paths)
    return merged


def joined_layers(
    parts: list[LoraFile], strengths: list[float], names: list[str]
) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """(down, up, alpha) of every layer that any of the files has; alpha is the rank, so that hosts scale by
    one.
    """
    layers: dict[str, tuple[torch.Tensor, torch.Tensor, float]] = {}
    for part, strength, file in zip(parts, strengths, names):
        for name, (down, up, alpha) in part.layers.items():
            up = up * (strength * alpha / len(down))
            if name in layers:
                first_down, first_up, _ = layers[name]
                if (first_down.shape[1:], first_up.shape[0]) != (down.shape[1:], up.shape[0]):
                    raise SageError(
                        f"{file}: {name!r} is {down.shape[1]} to {up.shape[0]} wide, in {names[0]}"
                        f" {first_down.shape[1]} to {first_up.shape[0]}; they were made for different models."
                    )
                down, up = torch.cat([first_down, down]), torch.cat([first_up, up], dim=1)
            layers[name] = (down, up, float(len(down)))
    return layers


def exact(part: LoraFile, strength: float) -> bool:
    """Whether half precision holds the file's matrices, scaled, without rounding."""
    scaled = ((down, up * (strength * alpha / len(down))) for down, up, alpha in part.layers.values())
    return all(torch.equal(m.half().float(), m) for pair in scaled for m in pair)


def _side(part: LoraFile) -> int:
    """The side in pixels that a file was trained at; its architecture's own where the file is older than that
    key, or says something else.
    """
    width = part.metadata.get(RESOLUTION_KEY, "").partition("x")[0]
    known = width.isascii() and width.isdecimal() and len(width) < 6 and int(width) > 0
    return int(width) if known else SIDES.get(part.metadata.get("ss_base_model_version"), 512)


def joined_metadata(parts: list[LoraFile], strengths: list[float], title: str) -> dict[str, str]:
    """The first file's, with the list of all erasures; what the files do not agree on is left out."""
    versions = {part.metadata.get("ss_base_model_version") for part in parts}
    if len(versions) > 1:
        raise SageError(
            "The files were made for different architectures"
            f" ({', '.join(sorted(str(v) for v in versions))}); they cannot be joined."
        )
    specs = [
        spec | {"strength": s * spec.get("strength", 1.0)}
        for part, s in zip(parts, strengths)
        for spec in part.specs()
    ]
    first, rank = parts[0].metadata, str(sum(part.rank for part in parts))
    same = {
        k: v
        for k, v in first.items()
        if k not in ONE_ERASURE and all(part.metadata.get(k) == v for part in parts)
    }
    sizes = [_side(part) for part in parts]
    same[RESOLUTION_KEY] = f"{max(sizes)}x{max(sizes)}"
    concepts = ", ".join(repr(spec["concept"]) for spec in specs)
    return same | {
        "modelspec.title": title,
        "modelspec.date": now(),
        "modelspec.description": f"Erases {concepts}. Load it with strength 1.0 on model and CLIP.",
        "modelspec.tags": "concept erasure, " + ", ".join(dict.fromkeys(spec["method"] for spec in specs)),
        "ss_output_name": title,
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        SPECS_KEY: json.dumps(specs, ensure_ascii=False),
    }
