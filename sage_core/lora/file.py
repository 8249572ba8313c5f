"""LoRA files: written, read, inspected and hung on a model.

Keys as ComfyUI, diffusers, Forge and A1111 all read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..diffusion.model import DiffusionModel
from ..diffusion.weights import copied, opened, refuse_nan
from ..errors import SageError, shown
from ..files import parse_json, write_atomically
from .adapter import Adapter
from .metadata import CHECK_KEY, COST_KEY, LEFT_KEY, LOSSES_KEY, RESULT_KEY, SPEC_KEY, SPECS_KEY
from .surfaces import linear_layers

SUFFIXES = (".lora_down.weight", ".lora_up.weight", ".alpha")
PEFT_SUFFIXES = (".lora_A.weight", ".lora_B.weight")  # of transformers' LoRAs; see docs/lora-format.md
PEFT_PARTS = {
    "transformer.": "lora_unet_",
    "diffusion_model.": "lora_unet_",  # Z-Image's, the only ones that every host reads for it
    "text_encoder.": "lora_te1_",
    "text_encoder_2.": "lora_te2_",
}
HUGE = 1e30  # a loss above it is none


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds: (down, up, alpha) per layer name, and its metadata (strings).

    paths: where diffusers has each layer, if the file names them so; None for kohya's names.
    """

    layers: dict[str, tuple[torch.Tensor, torch.Tensor, float]]
    metadata: dict[str, str]
    paths: dict[str, str] | None = None

    @property
    def rank(self) -> int:
        return max(down.shape[0] for down, _, _ in self.layers.values())

    def spec(self) -> dict:
        """The erasure that made the file.

        Raises SageError where the file is none of ours, or holds several erasures.
        """
        if SPECS_KEY in self.metadata:
            raise SageError(
                f"The file is {len(self.specs())} erasures joined"
                f" ({', '.join(s['concept'] for s in self.specs())}); take one of the files that it was"
                " made of."
            )
        try:
            spec = parse_json(self.metadata[SPEC_KEY])
        except (KeyError, ValueError) as error:
            raise SageError(
                "The file carries no erasure spec: it was not made by this tool, or its metadata was"
                " stripped."
            ) from error
        if not isinstance(spec, dict):
            raise SageError(
                "The erasure spec in the file's metadata is not a JSON object; the file was altered."
            )
        return spec

    def specs(self) -> list[dict]:
        """The erasures in the file: one, or as many as were joined.

        Raises SageError where the file is none of ours.
        """
        if SPECS_KEY not in self.metadata:
            return [self.spec()]
        specs = self._json(SPECS_KEY)
        if isinstance(specs, list) and specs and all(map(_is_joined, specs)):
            return specs
        raise SageError("The list of erasures in the file's metadata cannot be read; the file was altered.")

    def result(self) -> dict | None:
        """The measured result, where there is one: {"before": {cell: share}, "after": ..., "drift": ...}."""
        result = self._json(RESULT_KEY)
        right = isinstance(result, dict) and all(
            _are_numbers(result.get(when)) for when in ("before", "after")
        )
        return result if right else None

    def losses(self) -> list[dict[str, float]]:
        """Of every step by name; none where the file does not say."""
        steps = self._json(LOSSES_KEY)
        right = isinstance(steps, list) and all(
            _are_numbers(s) and s and all(v is not None and abs(v) < HUGE for v in s.values()) for s in steps
        )
        return steps if right else []

    def left(self) -> list[tuple[int, float]]:
        """(steps done, share of the concept that was left) of every look, see cycle/watch.py; empty where the
        file does not say.
        """
        curve = self._json(LEFT_KEY)
        right = isinstance(curve, list) and all(map(_is_look, curve))
        return [(step, share) for step, share in curve] if right else []

    def check(self) -> object:
        """What the last check found, as domain.check.Checked.to_json wrote it; None where there was none."""
        return self._json(CHECK_KEY)

    def cost(self) -> dict | None:
        """{"unet_forwards", "unet_backwards", "seconds"} of the erasure; None where the file does not say."""
        cost = self._json(COST_KEY)
        names = ("unet_forwards", "unet_backwards", "seconds")
        if not isinstance(cost, dict) or not all(_is_count(cost.get(name)) for name in names):
            return None
        return {name: cost[name] for name in names}

    def _json(self, key: str) -> object:
        try:
            return parse_json(self.metadata[key])
        except (KeyError, ValueError):
            return None


def _are_numbers(values: object) -> bool:
    """A name's number each, or null."""
    return isinstance(values, dict) and all(v is None or isinstance(v, (int, float)) for v in values.values())


def _is_count(value: object) -> bool:
    """A number from 0 on that is one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < HUGE


def _is_look(look: object) -> bool:
    """[a step, a share]."""
    right = isinstance(look, list) and len(look) == 2 and not any(isinstance(v, bool) for v in look)
    return (
        right
        and isinstance(look[0], int)
        and isinstance(look[1], (int, float))
        and look[0] >= 0
        and 0 <= look[1] <= 1
    )


def _is_joined(spec: object) -> bool:
    """One erasure of several."""
    return (
        isinstance(spec, dict)
        and all(isinstance(spec.get(k), str) for k in ("concept", "method"))
        and isinstance(spec.get("strength", 1.0), (int, float))
    )


def write_lora(
    path: Path,
    adapter: Adapter,
    metadata: dict[str, str],
    dtype: torch.dtype = torch.float16,
    paths: Mapping[str, str | tuple[str, ...]] | None = None,
) -> None:
    """Write atomically; alphas stay float32, since a rounded alpha would scale every layer.

    paths: by a layer's name, where diffusers has it, or its parts where it splits the layer. With them the
    file has diffusers' names and no alpha (lora_A, lora_B), the only ones that every host reads for SD3 and
    newer flows; without them it has kohya's.
    """
    from safetensors.torch import save_file

    if paths is None:
        tensors = {k: v if k.endswith(".alpha") else v.to(dtype) for k, v in adapter.tensors().items()}
    else:
        tensors = {k: v.to(dtype) for k, v in peft_tensors(adapter, paths).items()}
    refuse_nan(tensors, "The trained LoRA")
    write_atomically(path, lambda p: save_file(tensors, p, metadata={"format": "pt", **metadata}))


def peft_tensors(adapter: Adapter, paths: Mapping[str, str | tuple[str, ...]]) -> dict[str, torch.Tensor]:
    """lora_A and lora_B of every layer under diffusers' names; alpha / rank is in lora_B.

    A layer with several names is split exactly: each part has the whole lora_A and its rows of lora_B.
    """
    tensors = {}
    for name, down in adapter.down.items():
        own = paths[name]
        parts = (own,) if isinstance(own, str) else own
        scale = adapter.alpha[name] / len(down)
        ups = (scale * adapter.up[name].detach()).cpu().chunk(len(parts))
        for part, up in zip(parts, ups):
            tensors[f"{part}.lora_A.weight"] = down.detach().cpu().clone().contiguous()
            tensors[f"{part}.lora_B.weight"] = up.clone().contiguous()
    return tensors


def _is_peft(key: str) -> bool:
    """A matrix under diffusers' names."""
    return key.startswith(tuple(PEFT_PARTS)) and key.endswith(PEFT_SUFFIXES)


def in_kohya_names(
    tensors: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str] | None]:
    """Tensors under kohya's names, and the paths of those that had diffusers' (None: no tensor had)."""
    out, paths = {}, {}
    for key, value in tensors.items():
        base, _, matrix = key.removesuffix(".weight").rpartition(".")
        if not _is_peft(key):
            out[key] = value
        else:
            part = next(p for p in PEFT_PARTS if key.startswith(p))
            name = PEFT_PARTS[part] + base.removeprefix(part).replace(".", "_")
            out[f"{name}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = value
            paths[name] = base
    return out, paths or None


def rewrite_metadata(path: Path, extra: dict[str, str]) -> None:
    """Add metadata to a finished file, atomically (the measured result is only known after the file is
    there).
    """
    from safetensors.torch import save_file

    with opened(path) as f:
        tensors, metadata = copied(f), dict(f.metadata() or {})
    write_atomically(path, lambda p: save_file(tensors, p, metadata={**metadata, **extra}))


def read_lora(path: Path) -> LoraFile:
    """Raises SageError where the file is missing, damaged, not a LoRA in these names, or inconsistent."""
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise SageError(f"{path.name} is not a .safetensors file; only that format is read.")
    if not path.is_file():
        raise SageError(f"There is no LoRA file {str(path)!r}.")
    with opened(path) as f:
        metadata, names = dict(f.metadata() or {}), list(f.keys())
        strange = next((k for k in names if not (k.endswith(SUFFIXES) or _is_peft(k))), None)
        if strange is None:  # else it is refused before gigabytes of another kind of file are read
            tensors = copied(f)
    if strange is not None or not names:
        raise SageError(
            f"{path.name} is not a LoRA in kohya's names or diffusers' (tensor {shown(strange)}); only those"
            " files can be loaded here."
        )
    named, paths = in_kohya_names(tensors)
    return LoraFile(_layers(named, path.name), metadata, paths)


def _layers(
    tensors: dict[str, torch.Tensor], name: str
) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    refuse_nan(tensors, name)
    layers = {}
    for key in (k for k in tensors if k.endswith(".lora_down.weight")):
        base = key.removesuffix(".lora_down.weight")
        down, up = tensors[key], tensors.get(f"{base}.lora_up.weight")
        if (
            up is None
            or down.ndim != up.ndim
            or down.ndim not in (2, 4)
            or up.shape[1] != down.shape[0]
            or not down.numel()
            or not up.numel()
        ):
            raise SageError(
                f"{name}: the two matrices of {shown(base)} do not fit together; the file is damaged."
            )
        alpha = tensors.get(f"{base}.alpha")
        if alpha is not None and alpha.numel() != 1:
            raise SageError(
                f"{name}: the alpha of {shown(base)} is {alpha.numel()} numbers instead of one; the file is"
                " damaged."
            )
        layers[base] = (down.float(), up.float(), float(down.shape[0] if alpha is None else alpha))
    if not layers:
        raise SageError(f"{name} holds no LoRA matrices; it is no LoRA, or was cut off.")
    return layers


def load_lora(model: DiffusionModel, path: str | Path, strength: float = 1.0) -> Adapter:
    """Hang a LoRA file on a model.

    Raises SageError unless every layer lands with fitting shapes; `.remove()` undoes it.
    """
    return attach(model, read_lora(Path(path)), Path(path).name, strength)


def attach(model: DiffusionModel, lora: LoraFile, title: str, strength: float = 1.0) -> Adapter:
    """The same of a file that was read. title: what to call it in an error."""
    known = linear_layers(model)
    lost = [name for name in lora.layers if name not in known]
    if lost:
        raise SageError(
            f"{title}: {len(lost)} of {len(lora.layers)} layers do not exist in this"
            f" {model.family.title} model (first {lost[0]!r}); the LoRA was made for"
            f" {lora.metadata.get('ss_base_model_version', 'another architecture')}."
        )
    layers: dict[str, nn.Linear] = {}
    for name, (down, up, _) in lora.layers.items():
        layer = known[name]
        if (layer.in_features, layer.out_features) != (down.shape[1], up.shape[0]) or down.ndim != 2:
            raise SageError(
                f"{title}: {name!r} is {down.shape[1]} to {up.shape[0]} wide, the model's layer"
                f" {layer.in_features} to {layer.out_features}; the LoRA was made for another architecture."
            )
        layers[name] = layer
    weights = {
        n: (d.to(known[n].weight.device), u.to(known[n].weight.device), a)
        for n, (d, u, a) in lora.layers.items()
    }
    return Adapter(layers, weights, strength)
