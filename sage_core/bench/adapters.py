"""Our hooks against peft's injected LoRA layers on the bundled model: are the tensors the same, and what does
it cost?

    python -m sage_core.bench.adapters --out DIR      # a CPU, two threads; about four minutes

Both sides run in turn in one process, so that the ratios hold on a noisy machine. Only here does peft take
the place of `Adapter`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
import timeit
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from ..cycle import run as cycle
from ..diffusion.checkpointing import SWITCHES, checkpoint_blocks
from ..diffusion.model import DiffusionModel
from ..errors import SageError
from ..files import write_text
from ..lora.adapter import Adapter
from ..lora.surfaces import linear_layers, surface_layers
from ..memory import rehearsal
from ..methods.table import METHODS
from ..models import load_model
from ..progress import Event
from ..spec import ErasureSpec
from . import random_models

SIDES = ("ours", "peft")
Run = tuple[float, float, dict[str, torch.Tensor]]  # seconds in all, seconds of the median step, the tensors


class Parts(dict):
    """The down, up or alpha of every layer, put into peft's layer too: another rank may be assigned."""

    def __init__(self, adapter: PeftAdapter, part: str):
        self.adapter, self.part = adapter, part

    def __setitem__(self, key: str, value: torch.Tensor | float) -> None:
        layer, name = self.adapter.wrapped[key], self.adapter.name
        if isinstance(value, torch.Tensor):
            value = getattr(layer, self.part)[name].weight = nn.Parameter(value.detach())
        else:
            layer.lora_alpha[name] = value
        layer.r[name] = len(layer.lora_A[name].weight)
        layer.scaling[name] = self.adapter.strength * layer.lora_alpha[name] / layer.r[name]
        super().__setitem__(key, value)


class PeftAdapter(Adapter):
    """`Adapter` without hooks, on peft's layers; `create` is inherited, and so are its draws."""

    roots: list[nn.Module]  # modules that hold the layers
    _names = itertools.count()

    def __init__(self, layers: dict[str, nn.Linear], weights: dict[str, tuple], strength: float = 1.0):
        self.layers, self.strength, self._enabled = layers, strength, True
        self.name, self.wrapped, self.places = f"sage{next(self._names)}", {}, {}
        for root in self.roots:
            self._inject(root, weights)
        self.down, self.up, self.alpha = (Parts(self, p) for p in ("lora_A", "lora_B", "lora_alpha"))
        for key in layers:
            self.down[key], self.up[key], self.alpha[key] = weights[key]
        SWITCHES.add(self)

    def _inject(self, root: nn.Module, weights: dict[str, tuple]) -> None:
        """Made on the meta device: else peft would draw from torch's global generator."""
        from peft import LoraConfig, inject_adapter_in_model

        keys = {id(layer): key for key, layer in self.layers.items()}
        found = [(path, keys[id(m)]) for path, m in root.named_modules() if id(m) in keys]
        paths = {path.removesuffix(".base_layer"): key for path, key in found}  # under another adapter's
        ranks = {path: len(weights[key][0]) for path, key in paths.items()}
        alphas = {path: weights[key][2] for path, key in paths.items()}
        if not paths:
            return
        rank, alpha = (Counter(d.values()).most_common(1)[0][0] for d in (ranks, alphas))
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=list(paths),
            rank_pattern={p: r for p, r in ranks.items() if r != rank},
            alpha_pattern={p: a for p, a in alphas.items() if a != alpha},
            init_lora_weights=False,
        )
        inject_adapter_in_model(config, root, self.name, low_cpu_mem_usage=True)
        for path, key in paths.items():
            self.wrapped[key], self.places[key] = root.get_submodule(path), (root, path)
            self.wrapped[key].set_adapter(list(self.wrapped[key].lora_A))  # all that are stacked there

    @property
    def enabled(self) -> bool:
        return self._enabled

    @enabled.setter
    def enabled(self, on: bool) -> None:
        """peft's flag alone: `enable_adapters` sets requires_grad too. All adapters of a layer obey it."""
        if on != self._enabled:
            self._enabled = on
            for layer in self.wrapped.values():
                layer.__dict__["_disable_adapters"] = not on

    def remove(self) -> None:
        """Put the original modules back; under another adapter, take this one out."""
        for key, (root, path) in self.places.items():
            parent, _, child = path.rpartition(".")
            if len(self.wrapped[key].lora_A) > 1:
                self.wrapped[key].delete_adapter(self.name)
            else:
                setattr(root.get_submodule(parent), child, self.layers[key])
                root.__dict__.pop("peft_config", None)
        self.places = {}


def adapter_class(model: DiffusionModel, side: str) -> type[Adapter]:
    """peft's has to know the whole model, since it replaces layers in it."""
    roots = [*model.text.encoders, model.unet]
    return Adapter if side == "ours" else type("Bound", (PeftAdapter,), {"roots": roots})


@contextlib.contextmanager
def using(model: DiffusionModel, side: str) -> Iterator[None]:
    """Inside, the cycle and the rehearsal make that side's adapters."""
    kind = adapter_class(model, side)
    with patch.object(cycle, "Adapter", kind), patch.object(rehearsal, "Adapter", kind):
        yield


def erasure(model: DiffusionModel, side: str, method: str, steps: int | None = None) -> Run:
    """One erasure of "dog", its adapter made and removed."""
    marks: list[float] = []

    def note(event: Event) -> None:
        if event.phase == "erase":
            marks.append(time.monotonic())

    gc.collect()  # what the other side left in cycles slows torch's allocations of this one
    began = time.monotonic()
    with using(model, side):
        done = cycle.erase(model, ErasureSpec("dog", method=method, steps=steps), note)
    tensors = done.adapter.tensors()
    done.adapter.remove()
    seconds = time.monotonic() - began
    return seconds, statistics.median([b - a for a, b in itertools.pairwise(marks)] or [0.0]), tensors


def alternated(model: DiffusionModel, method: str, steps: int | None, repeats: int) -> dict:
    """Seconds of both sides in turn, best and median, and whether the first pair's tensors are the same."""
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for i in range(repeats):
        for side in SIDES if i % 2 else SIDES[::-1]:
            runs[side].append(erasure(model, side, method, steps))
    out: dict = {"repeats": repeats}
    for place, what in enumerate(("seconds", "step_seconds")):
        for how in (min, statistics.median):
            own, theirs = (how([run[place] for run in runs[side]]) for side in SIDES)
            if own:
                name = f"{what}_{'best' if how is min else 'median'}"
                out[name] = {"ours": own, "peft": theirs, "ratio": theirs / own}
    own, theirs = (runs[side][0][2] for side in SIDES)
    same = sum(torch.equal(v, theirs[k]) for k, v in own.items())
    return out | {
        "tensors": len(own),
        "identical": same,
        "farthest": max(far(theirs[k], own[k]) for k in own),
    }


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative difference."""
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-30))


def hung(model: DiffusionModel, layers: dict, side: str, seed: int = 0, strength: float = 1.0) -> Adapter:
    """An adapter of rank 8 that changes something."""
    draw, weights = torch.Generator().manual_seed(seed), {}
    for key, layer in layers.items():
        down, up = (
            torch.randn(s, generator=draw) / 20 for s in ((8, layer.in_features), (layer.out_features, 8))
        )
        weights[key] = (down.requires_grad_(True), up.requires_grad_(True), 8.0)
    return adapter_class(model, side)(layers, weights, strength)


def gradients(model: DiffusionModel, side: str, checkpointing: bool, switched: bool = True) -> list | str:
    """Of a loss that holds a prediction of the frozen model too; the error's name where there is one.

    switched: whether the blocks that are computed again learn if the adapter was on (SWITCHES).
    """
    adapter = hung(model, surface_layers(model, "both"), side)
    if not switched:
        SWITCHES.discard(adapter)
    checkpoint_blocks(model.unet, checkpointing)
    try:
        z = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
        t, cond = torch.full((2,), 500), model.encode(["a dog", "a cat"])
        with adapter.off():
            frozen = model.predict_noise(z, t, cond)
        (model.predict_noise(z, t, cond) - 2 * frozen).square().mean().backward()
        return [p.grad for p in adapter.parameters()]
    except RuntimeError as error:
        return type(error).__name__
    finally:
        checkpoint_blocks(model.unet, False)
        adapter.remove()


def checkpointed(model: DiffusionModel) -> dict:
    """Farthest gradient from ours without checkpointing."""
    plain, out = gradients(model, "ours", False), {}
    for side, on, switched in (*itertools.product(SIDES, (False, True), (True,)), ("peft", True, False)):
        got = gradients(model, side, on, switched)
        name = f"{side}{', checkpointing' if on else ''}{'' if switched else ', blocks not told'}"
        out[name] = got if isinstance(got, str) else max(far(a, b) for a, b in zip(got, plain))
    return out


@torch.no_grad()
def hanging(model: DiffusionModel) -> dict:
    """Two adapters at strengths: the prediction, the names that are left, and microseconds of one `off()`."""
    layers, names = surface_layers(model, "both"), list(linear_layers(model))
    modules = [id(m) for m in model.unet.modules()]
    z, t, cond = torch.ones(1, *model.latent_shape), torch.full((1,), 500), model.encode(["a dog"])
    predicted, out = {}, {}
    for side in SIDES:
        first, second = hung(model, layers, side, 1, 0.7), hung(model, layers, side, 2, -0.4)
        predicted[side] = model.predict_noise(z, t, model.encode(["a dog"]))
        out[f"names_found_{side}"] = len(set(linear_layers(model)) & set(names))
        with first.off():
            out[f"other_stays_on_{side}"] = not torch.equal(model.encode(["a dog"]).hidden, cond.hidden)
        first.remove()
        switches = {"": "with a.off(): pass"}
        if side == "peft":
            switches["_enable_adapters"] = (
                "for on in (0, 1):\n for m in a.wrapped.values(): m.enable_adapters(on)"
            )
        for name, code in switches.items():
            taken = timeit.timeit(code, globals={"a": second}, number=100)
            out[f"off_microseconds_{side}{name}"] = 1e4 * taken
        second.remove()
        restored = list(linear_layers(model)) == names and [id(m) for m in model.unet.modules()] == modules
        out[f"restored_{side}"] = restored
    return out | {"names": len(names), "stack_identical": torch.equal(predicted["ours"], predicted["peft"])}


def computed_in(model: DiffusionModel) -> str:
    """The type that peft's own matrices get and give."""
    adapter, seen = hung(model, surface_layers(model, "text"), "peft"), []
    first = next(iter(adapter.wrapped.values())).lora_A[adapter.name]
    first.register_forward_hook(lambda module, args, out: seen.append(f"{args[0].dtype} -> {out.dtype}"))
    model.encode(["a dog"])
    adapter.remove()
    return seen[0].replace("torch.", "")


def step_memory(model: DiffusionModel) -> dict[str, float]:
    """Bytes of a step of sage beyond the frozen weights, rehearsed on tensors without data."""
    spec, training, out = ErasureSpec("dog").resolved([]), METHODS["sage"].training, {}
    for checkpointing, side in itertools.product((False, True), SIDES):
        ghost = rehearsal.skeleton(model)
        with using(ghost, side):
            name = f"{side}{', checkpointing' if checkpointing else ''}"
            out[name] = rehearsal.step_bytes(ghost, spec, training, checkpointing, 3)
    return out


def real_size(dtype: torch.dtype) -> DiffusionModel:
    """SD 1.5 without data."""
    with patch.object(random_models, "_fill", lambda module, dtype: torch.nn.Module.to(module, dtype)):
        return random_models.random_model("sd1", "full", dtype)


def imports(repeats: int) -> dict[str, float]:
    """Best seconds of a process that loads the bundled model: diffusers imports peft where there is one."""
    load = "from sage_core.models import load_model; load_model('demo')"
    lines = {"without": f"import sys; sys.modules['peft'] = None; {load}", "with": load}
    seconds: dict[str, list[float]] = {name: [] for name in lines}
    for _, (name, line) in itertools.product(range(repeats), lines.items()):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", line], check=True)
        seconds[name].append(time.monotonic() - began)
    return {name: min(taken) for name, taken in seconds.items()}


def measure(repeats: int) -> Iterator[tuple[str, dict]]:
    """Every part of the result by its name."""
    model = load_model("demo")
    for side in SIDES:
        erasure(model, side, "rece")  # the first of all warms up
    yield "sage", alternated(model, "sage", None, repeats)
    yield "rece", alternated(model, "rece", None, 3 * repeats)
    for method in ("esd", "age"):
        yield f"{method}, 10 steps", alternated(model, method, 10, repeats)
    yield "gradients: farthest from ours", checkpointed(model)
    yield "hanging", hanging(model)
    yield "bytes of a step, float32", step_memory(model)
    # A CPU is slow in float16: three steps are enough to compare the tensors.
    for dtype, steps, times in ((torch.bfloat16, 10, repeats), (torch.float16, 3, 1)):
        name, model = str(dtype).removeprefix("torch."), load_model("demo", dtype=dtype)
        yield f"peft in {name}", {"computes": computed_in(model)}
        yield f"sage in {name}, {steps} steps", alternated(model, "sage", steps, times)
        yield f"rece in {name}", alternated(model, "rece", None, times)
        yield f"bytes of a step, {name}", step_memory(model)
    for dtype in (torch.float32, torch.bfloat16):
        yield f"bytes of a step, SD 1.5 {str(dtype)[6:]}", step_memory(real_size(dtype))
    yield "seconds to load the bundled model", imports(3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5, help="erasures of each side that are timed")
    parser.add_argument("--out", type=Path, help="folder for adapters.json")
    args = parser.parse_args()
    torch.set_num_threads(2)
    try:
        from peft import __version__
    except ImportError as error:
        raise SageError("peft is not installed; run `pip install peft` to compare with it.") from error
    result: dict[str, object] = {"peft": __version__, "torch": torch.__version__}
    for name, part in measure(args.repeats):
        result[name] = part
        print(f"| {name} | | | |", flush=True)
        for key, value in part.items():
            cells = list(value.values()) if isinstance(value, dict) else [value]
            print(
                f"| - {key} | {' | '.join(f'{c:.5g}' if isinstance(c, float) else str(c) for c in cells)} |"
            )
        if args.out:
            write_text(args.out / "adapters.json", json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
