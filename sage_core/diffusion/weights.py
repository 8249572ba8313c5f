"""Tensors out of files, and into modules that are built without data: a file that lies is found out before
memory is taken for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from ..errors import SageError, one_line, shown

WHOLE_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = 2**20  # no number in a configuration is above it
MOST_LAYERS = 200
DEPTHS = (
    "num_hidden_layers",
    "layers_per_block",
    "transformer_layers_per_block",
    "num_encoder_blocks",
    "num_decoder_blocks",
)


@contextlib.contextmanager
def opened(path: Path) -> Iterator:
    """A safetensors file by its header, tensors not yet read.

    Raises SageError where it is no such file, truncated, or its header lies.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as f:
            yield f
    except (
        SafetensorError,
        ValueError,
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:  # what a dtype that torch lacks raises
        raise SageError(
            f"{path.name} cannot be read as safetensors ({one_line(error)}); the file is damaged or something"
            " else: get it again."
        ) from error


def copied(file) -> dict[str, torch.Tensor]:
    """All tensors of an `opened` file, in memory of their own.

    What `get_tensor` returns is mapped from the file, also after it is closed, and Windows neither replaces
    nor deletes a mapped file.
    """
    return {k: file.get_tensor(k).clone() for k in file.keys()}  # noqa: SIM118 (safe_open is not a dict)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, mapped from it.

    Raises SageError where it is not safetensors, is truncated, or its header is wrong.
    """
    with opened(path) as f:
        return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (safe_open is not a dict)


def refuse_nan(parts: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises SageError where a number is not a number, or a tensor holds no real numbers."""
    for key, value in parts.items():
        if value.is_complex() or value.is_quantized:
            raise SageError(
                f"{what} holds numbers of a kind that no weight is ({shown(key)} is {value.dtype}); the file"
                " is broken: use another one."
            )
        if (
            value.is_floating_point()
            and not torch.isfinite(value if value.dtype in WHOLE_FLOATS else _widened(value, key, what)).all()
        ):
            raise SageError(
                f"{what} holds NaN or infinite weights (first in {shown(key)}); the file is broken: use"
                " another one."
            )


def _widened(value: torch.Tensor, key: str, what: str) -> torch.Tensor:
    """Eight-bit numbers, which torch stores and hardly computes with."""
    try:
        return value.float()
    except (RuntimeError, NotImplementedError) as error:
        raise SageError(
            f"{what} is stored as {value.dtype} (first {shown(key)}), which cannot be read here; use a copy"
            " in half precision."
        ) from error


def build(make: Callable[[dict], torch.nn.Module], config: dict, what: str) -> torch.nn.Module:
    """A module of that configuration without data, which `fill` gives it.

    Raises SageError where the library refuses the configuration.
    """
    for key, value in config.items():
        numbers = [
            v
            for v in (value if isinstance(value, (list, tuple)) else [value])
            if isinstance(v, (int, float)) and not isinstance(v, bool)
        ]
        if bad := next(
            (v for v in numbers if not abs(v) <= (MOST_LAYERS if key in DEPTHS else LARGEST)), None
        ):
            raise SageError(
                f"{what} is said to have {key} = {shown(bad)}, which no model has; its configuration was"
                " altered."
            )
    try:
        with torch.device("meta"):
            return make(config)
    except (
        Exception
    ) as error:  # a configuration that the library was not written for: anything may come out of it
        raise SageError(
            f"{what} cannot be built from its configuration ({one_line(error)}); choose another model."
        ) from error


def fill(module: torch.nn.Module, sd: Mapping[str, torch.Tensor], what: str, dtype: torch.dtype) -> None:
    """Give a built module its tensors, in `dtype` and in either spelling of CLIP's names; refuses missing,
    misshapen and non-finite ones.

    Tensors of that precision are taken over, not copied.
    """
    refuse_nan(sd, what)
    flat = not any(k.startswith("text_model.") for k in module.state_dict()) and any(
        k.startswith("text_model.") for k in sd
    )
    sd = {k.removeprefix("text_model.") if flat else k: v.to(dtype) for k, v in sd.items()}
    try:
        missing, _ = module.load_state_dict(sd, strict=False, assign=True)
    except RuntimeError as error:
        raise SageError(
            f"{what} does not have the expected shapes ({str(error).splitlines()[1].strip()}); choose another"
            " checkpoint."
        ) from error
    missing = [k for k in missing if not k.endswith("position_ids")]
    if missing:
        raise SageError(
            f"{what} lacks {len(missing)} tensors (first {missing[0]!r}): the file is incomplete or of an"
            " unknown architecture."
        )
    _number_positions(module)


def _number_positions(module: torch.nn.Module) -> None:
    """CLIP's positions are in no file."""
    for part in module.modules():
        ids = part._buffers.get("position_ids")
        if ids is not None:
            part._buffers["position_ids"] = torch.arange(ids.shape[-1]).expand(1, -1)
