"""The saved state of a run, so that a killed one resumes: tensors and JSON in one safetensors file, no
pickle.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..diffusion.weights import copied, opened
from ..errors import SageError, shown
from ..files import parse_json, write_atomically

FORMAT = 5  # of what is written below
# What a state must share with the run that takes it: another erasure, or another version of its steps.
ERASURE, VERSION = ("recipe", "model", "sampling"), ("format", "method")


@dataclass
class Saved:
    """meta: JSON values. tensors: by names of the form "group.name"."""

    meta: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def group(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one group, by the rest of their names."""
        start = f"{name}."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}

    def add(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Put in a group, as copies in main memory."""
        for key, value in tensors.items():
            self.tensors[f"{name}.{key}"] = value.detach().cpu().clone().contiguous()


@dataclass
class Files:
    """path: of the run's state, None for none; resume: continue from it; save_every: seconds."""

    path: Path | None = None
    resume: bool = False
    save_every: float = 10.0

    def saved(self, identity: dict[str, Any]) -> Saved | None:
        """The state to resume from; None where there is none, or none was asked for."""
        if not self.resume or self.path is None or not self.path.exists():
            return None
        return read(self.path, identity)


def write(path: Path, saved: Saved) -> None:
    """Atomically."""
    from safetensors.torch import save_file

    metadata = {"sage.state": json.dumps({"format": FORMAT, **saved.meta})}
    write_atomically(path, lambda p: save_file(saved.tensors, p, metadata=metadata))


def read(path: Path, expected: dict[str, Any]) -> Saved:
    """Raises SageError where it is damaged, or of another erasure or version than `expected`."""
    try:
        with opened(path) as f:
            meta = parse_json(f.metadata()["sage.state"])
            tensors = copied(f)
        if not isinstance(meta, dict):
            raise ValueError("no JSON object")
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from error
    if any(meta.get(key) != {"format": FORMAT, **expected}[key] for key in VERSION):
        raise SageError(
            f"The saved state {path.name} is of another version, which trained in other steps; delete it and"
            " start again."
        )
    if any(meta.get(key) != expected[key] for key in ERASURE):
        raise SageError(
            f"The saved state {path.name} belongs to another erasure or model; start without resuming, or use"
            " another name."
        )
    return Saved(meta, tensors)


def unreadable(path: Path, error: Exception) -> SageError:
    return SageError(
        f"The saved state {path.name} cannot be read ({shown(error)}); delete it and start again."
    )


@contextlib.contextmanager
def reading(path: Path | None) -> Iterator[None]:
    """Inside, what goes wrong means that the state in this file is damaged: SageError."""
    assert path is not None
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise unreadable(path, error) from error


def adam_tensors(optimizer: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What Adam knows of each parameter, by "number.name"."""
    out = {}
    for i, parameter in enumerate(parameters):
        for key, value in optimizer.state[parameter].items():
            out[f"{i}.{key}"] = value
    return out


def load_adam_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `adam_tensors`."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
