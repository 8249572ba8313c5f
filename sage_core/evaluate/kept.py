"""Finished measurements as files: an evaluation that was stopped resumes with what was drawn and judged.

A file's name is the SHA-256 of everything that its content depends on: every weight and setting of the model,
the LoRA file's bytes, the prompts with their tokens and seeds, the judge, the attack, the versions of the
libraries and the code of this package. The same is written into the file and compared when it is read. So two
runs share a file only where it would be the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..diffusion.knowledge import Judge, Prompt
from ..diffusion.model import DiffusionModel, together
from ..errors import SageError
from ..files import write_atomically
from ..progress import Event
from .drawing import draw

PARTS = 16  # pictures that are judged before they are saved
ABOUT = "about"  # the key, in a file's metadata
LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a file holds: a JSON value and tensors by name."""

    value: Any = None
    tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Kept:
    """A folder of finished measurements; without a folder nothing is kept.

    about: what all measurements here depend on, a JSON value. on_part: called as a long measurement advances.
    """

    folder: Path | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    on_part: Callable[[Event], None] = lambda event: None

    def also(self, **about: Any) -> Kept:
        """The same folder, for measurements that depend on more."""
        return dataclasses.replace(self, about={**self.about, **about})

    def get(self, what: Mapping[str, Any], make: Callable[[], Measured]) -> Measured:
        """The measurement that depends on `what`: from its file, or made now and saved."""
        if self.folder is None:
            return make()
        about = json.dumps({**self.about, **what}, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(about.encode()).hexdigest()}.safetensors"
        found = _read(path, about)
        if found is None:
            found = make()
            _write(path, about, found)
        return found


NOTHING_KEPT = Kept()


def _read(path: Path, about: str) -> Measured | None:
    """None where the file is missing, damaged, or about something else."""
    from ..diffusion.weights import copied, opened

    if not path.is_file():
        return None
    try:
        with opened(path) as file:
            metadata, tensors = file.metadata() or {}, copied(file)
        value = json.loads(metadata.get("value", "null"))
    except (SageError, ValueError):
        return None  # it is made again
    return Measured(value, tensors) if metadata.get(ABOUT) == about else None


def _write(path: Path, about: str, measured: Measured) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in measured.tensors.items()}
    metadata = {ABOUT: about, "value": json.dumps(measured.value)}
    write_atomically(path, lambda p: save_file(tensors, p, metadata))


def to_bytes(images: torch.Tensor) -> torch.Tensor:
    """Pictures in [-1, 1] as bytes, as a file holds them."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()


def from_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """The inverse: what is measured is what is saved and shown."""
    return pixels.float() / 127.5 - 1


def drawn(
    model: DiffusionModel,
    prompts: list[Prompt],
    originals: torch.Tensor | None = None,
    kept: Kept = NOTHING_KEPT,
) -> torch.Tensor:
    """Pictures [n, 3, H, W] in [-1, 1] of the prompts (see drawing.draw), in parts that are each kept."""
    from_noise = [i for i, prompt in enumerate(prompts) if prompt.edits < 0]
    edits = [i for i, prompt in enumerate(prompts) if prompt.edits >= 0]
    side = together(model.pixels)
    pictures = torch.empty(0)
    done = 0
    for index in (from_noise, edits):
        start = pictures if originals is None else originals
        for k in range(0, len(index), side):
            part = index[k : k + side]
            images = _draw_part(model, [prompts[i] for i in part], start, kept)
            if not len(pictures):
                pictures = images.new_zeros(len(prompts), *images.shape[1:])
            pictures[part] = images
            done += len(part)
            kept.on_part(Event("draw", done, len(prompts)))
    return pictures


def _draw_part(
    model: DiffusionModel, prompts: list[Prompt], originals: torch.Tensor, kept: Kept
) -> torch.Tensor:
    """All of them from noise, or all of them edits of `originals`."""
    edited = [originals[p.edits] for p in prompts if p.edits >= 0]
    what = {
        "pictures": _as_json(prompts),
        "tokens": [model.text.words(p.text) for p in prompts],
        "originals": digest(*edited),
    }
    make = lambda: Measured(tensors={"pictures": to_bytes(draw(model, prompts, originals))})  # noqa: E731
    return from_bytes(kept.get(what, make).tensors["pictures"])


def judged(
    judge: Judge,
    images: torch.Tensor,
    expected: list[str],
    prompts: list[Prompt],
    kept: Kept = NOTHING_KEPT,
) -> list[bool | None]:
    """The judge's verdicts (see Judge.sees), in parts that are each kept, where the judge has a key."""
    verdicts: list[bool | None] = []
    key = key_of(judge)
    for k in range(0, len(prompts), PARTS):
        part = slice(k, k + PARTS)
        asked = (images[part], expected[part], prompts[part])
        if not key:
            verdicts += judge.sees(*asked)
        else:
            what = {
                "verdicts": key,
                "pictures": digest(images[part]),
                "expected": expected[part],
                "prompts": _as_json(prompts[part]),
            }
            verdicts += kept.get(what, lambda asked=asked: Measured(_plain(judge.sees(*asked)))).value
        kept.on_part(Event("judge", min(k + PARTS, len(prompts)), len(prompts)))
    return verdicts


def _plain(verdicts: Sequence[bool | None]) -> list[bool | None]:
    return [None if verdict is None else bool(verdict) for verdict in verdicts]


def _as_json(prompts: Sequence[Prompt]) -> list[dict]:
    return [dataclasses.asdict(prompt) for prompt in prompts]


def key_of(judge: Judge) -> str:
    """All that its verdicts depend on besides the pictures and prompts; empty where that is not known."""
    return getattr(judge, "key", "")


def about_model(model: DiffusionModel) -> dict[str, Any]:
    """All that a model's pictures depend on besides prompts and adapters."""
    modules = [*model.text.modules, model.unet, *([] if model.vae is None else [model.vae])]
    return {
        "weights": [digest(*_tensors(module)) for module in modules],
        "configs": [_config(module) for module in modules],
        "family": model.family.name,
        "alphas": digest(model.alphas),
        "velocity": model.velocity,
        "pixels": model.pixels,
        "at_once": model.at_once,
        "device": model.device.type,
        "code": code(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [value for _, value in sorted(module.state_dict().items())]


def _config(module: torch.nn.Module) -> str:
    """Heads, layers and scales, which the weights do not say."""
    config = getattr(module, "config", {})
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    own = {key: value for key, value in values.items() if not key.startswith("_")}
    return json.dumps(own, sort_keys=True, default=str)


def digest(*tensors: torch.Tensor) -> str:
    """SHA-256 over kinds, shapes and every bit of the values."""
    whole = hashlib.sha256()
    for tensor in tensors:
        whole.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        whole.update(flat.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@lru_cache(maxsize=1)
def code() -> str:
    """SHA-256 over this package's own source: pictures of another version are not taken for this one's."""
    root = Path(__file__).parent.parent
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        whole.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
