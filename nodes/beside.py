"""LoRAs beside quantised weights. ComfyUI adds a LoRA to such a weight and rounds the sum to 8 or 4 bits,
which loses some of a small change. Here the product is added to the layer's output instead.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import comfy.utils
import torch
import torch.nn.functional as F
from comfy.patcher_extension import PatcherInjection

from .gradients import coarse

UP = (".lora_up.weight", ".lora_B.weight")  # in kohya's names, and in diffusers'
DOWN = (".lora_down.weight", ".lora_A.weight")
NAME = "sage erasure"  # of our injections into a MODEL
OWN = (*UP, *DOWN, ".alpha")  # of a plain LoRA


@dataclass
class Product:
    """What a LoRA adds to one layer's output: x -> up (down x).

    down: [rank, in]. up: [out, rank]. copies: both, by where and in which numbers the layer computes.
    """

    down: torch.Tensor
    up: torch.Tensor
    copies: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __call__(self, layer, args, out):
        x = args[0]
        key = (x.device, x.dtype)
        if key not in self.copies:
            with torch.inference_mode(False), torch.no_grad():  # a backward pass may keep them
                self.copies[key] = (self.down.to(*key), self.up.to(*key))
        down, up = self.copies[key]
        return out + F.linear(F.linear(x, down), up).to(out.dtype)


def attach(model, tensors: dict, keys: dict, strength: float):
    """(MODEL, what of the file is still to be applied): a clone with the file's layers beside those of its
    weights that are quantised.

    keys: ComfyUI's own map from a layer of the file to a weight, or to the rows of one.
    """
    with torch.inference_mode(False):  # as tensors that a backward pass may keep
        products, taken = _products(model.model, tensors, keys, strength)
    if not products:
        return model, tensors
    clone = model.clone()
    name = f"{NAME} {len(clone.injections)} {_digest(products)}"  # ComfyUI tells clones apart by these names
    clone.set_injections(name, [Beside(products)])
    return clone, {k: v for k, v in tensors.items() if k not in taken}


def _products(network, tensors: dict, keys: dict, strength: float) -> tuple[dict[str, Product], set[str]]:
    """(products by the path of their layer, the keys of the file that are in them)."""
    ups: dict[str, list] = {}
    downs: dict[str, list] = {}
    taken = set()
    for layer, target in keys.items():
        up, down = sides(tensors, layer)
        path, rows = _place(target)
        weight = None if path is None else weight_of(network, f"{path}.weight")
        if up is None or down is None or weight is None or not coarse(weight):
            continue
        own = {end: tensors[layer + end] for end in OWN if layer + end in tensors}
        scale = strength * (own[".alpha"].item() / len(down) if ".alpha" in own else 1.0)
        ups.setdefault(path, []).append(_in_rows(scale * up.float(), rows, len(weight)))
        downs.setdefault(path, []).append(down.float())
        taken |= {layer + end for end in own}
    products = {path: Product(torch.cat(downs[path]), torch.cat(ups[path], 1)) for path in ups}
    return products, taken


def _place(target) -> tuple[str | None, tuple[int, int, int] | None]:
    """(path of a layer, the rows of it) behind ComfyUI's key; None where it is anything else than a weight or
    rows of one.
    """
    key, rows = (target, None) if isinstance(target, str) else (target[0], target[1])
    odd = not key.endswith(".weight") or not isinstance(target, str) and len(target) > 2
    return (None, None) if odd else (key.removesuffix(".weight"), rows)


def sides(tensors: dict, layer: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(up, down) of a layer of a file; None where it has none."""
    up, down = (next((tensors[layer + s] for s in side if layer + s in tensors), None) for side in (UP, DOWN))
    return up, down


def weight_of(owner, key) -> torch.Tensor | None:
    """A layer's own tensor, whose shape is the layer's; in state dicts ComfyUI-GGUF's are as they are packed.
    None of a part of a layer, and where there is no such layer.
    """
    if not isinstance(key, str):
        return None
    try:
        return comfy.utils.get_attr(owner, key)
    except AttributeError:
        return None


def _in_rows(up: torch.Tensor, rows: tuple[int, int, int] | None, out: int) -> torch.Tensor:
    """`up` in those rows of a layer with `out`: (0, the first, how many)."""
    if rows is None:
        return up
    _, first, number = rows
    whole = up.new_zeros(out, up.shape[1])
    whole[first : first + number] = up
    return whole


class Beside(PatcherInjection):
    """Hooks on the layers for as long as the MODEL is loaded. Clones share them: they are never doubled."""

    def __init__(self, products: dict[str, Product]):
        super().__init__(self.hang, self.take_off)
        self.products, self.handles = products, []

    def hang(self, patcher) -> None:
        if not self.handles:
            for path, product in self.products.items():
                self.handles.append(patcher.model.get_submodule(path).register_forward_hook(product))

    def take_off(self, patcher) -> None:
        while self.handles:
            self.handles.pop().remove()
        for product in self.products.values():
            product.copies.clear()


def added(model, model_before=None) -> dict[str, torch.Tensor]:
    """What lies beside layers of `model`, and not beside those of `model_before` if that is given: by module,
    [out, in], float32 on the CPU.
    """
    found: dict[str, torch.Tensor] = {}
    before = {} if model_before is None else model_before.injections
    for name, injections in model.injections.items():
        if name.startswith(NAME) and name not in before:
            for path, product in injections[0].products.items():
                change = product.up @ product.down
                found[path] = found[path] + change if path in found else change
    return found


def _digest(products: dict[str, Product]) -> str:
    digest = hashlib.sha256()
    for path, product in sorted(products.items()):
        digest.update(path.encode())
        for tensor in (product.down, product.up):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
