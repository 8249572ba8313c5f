"""How much memory a step of training needs, predicted without taking any: the step is rehearsed on tensors
without data.

torch's "meta" device computes shapes only. A mode that sees every operation counts the bytes of each new
tensor and takes them off again when autograd lets go of it, so the highest sum is the peak that a device
would see.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..cycle.descent import descend
from ..diffusion.checkpointing import checkpoint_blocks
from ..diffusion.model import DiffusionModel
from ..diffusion.t5 import FrozenT5
from ..diffusion.text import Conditioning, TextStack, Tokens
from ..lora.adapter import Adapter
from ..lora.surfaces import surface_layers
from ..methods.base import Terms
from ..methods.recipe import Recipe
from ..methods.states import Rows

RELATED_TOKENS = 12  # as long as a short prompt that is encoded trimmed


class Meter(TorchDispatchMode):
    """Inside, `live` is the bytes of tensors made inside and not yet gone, `peak` the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = _storages((args, kwargs))
        for key, storage in _storages(out).items():
            if key not in given:  # a view, or changed in place: of a weight, say, which was there before
                self._note(key, storage)
        return out

    def _note(self, key: int, storage) -> None:
        self.sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self.sizes.pop(key, 0)


def _storages(tree) -> dict:
    """Map storage id to storage for every tensor in a pytree."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
    return {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}


def weights_bytes(modules: list[torch.nn.Module]) -> int:
    """Of all parameters and buffers."""
    return sum(t.nbytes for m in modules for t in (*m.parameters(), *m.buffers()))


class Attention(torch.autograd.Function):
    """What attention without a full matrix keeps: its inputs, its output, and one number a row."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])


@contextlib.contextmanager
def lean_attention() -> Iterator[None]:
    """On tensors without data torch would choose the attention with the full matrix, which devices do not."""
    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, k, v, *args, **kwargs: Attention.apply(q, k, v)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own


def skeleton(model: DiffusionModel) -> DiffusionModel:
    """The model without data and without an autoencoder."""
    with torch.device("meta"):
        unet = type(model.unet).from_config(model.unet.config)
        encoders = [type(e)(e.config) for e in model.text.encoders]
        t5 = _ghost_of(model.text.t5)
    for module in (unet, *encoders, *([] if t5 is None else [t5.encoder])):
        torch.nn.Module.to(module, model.dtype)  # diffusers' own `to` warns of half precision
        module.requires_grad_(False).eval()
    own = model.text
    text = TextStack(encoders, own.tokenizer, own.layer, own.pads, own.widths, t5)
    return DiffusionModel(
        model.family,
        text,
        unet,
        None,
        model.alphas.to("meta"),
        model.velocity,
        model.source,
        pixels=model.pixels,
    )


def _ghost_of(t5: FrozenT5 | None) -> FrozenT5 | None:
    """T5 without data, to be called where new tensors have none."""
    return None if t5 is None else FrozenT5(type(t5.encoder)(t5.encoder.config), t5.tokenizer, t5.length)


def step_bytes(ghost: DiffusionModel, recipe: Recipe, checkpointing: bool, at_once: int) -> int:
    """Peak of one step of the cycle beyond the frozen weights, in bytes.

    Activations, what attention keeps, the adapter, gradients, Adam's state. ghost: the `skeleton` of a model.
    """
    pixels, ghost.pixels = ghost.pixels, recipe.resolution or ghost.pixels
    checkpoint_blocks(ghost.unet, checkpointing)
    adapter = Adapter.create(
        surface_layers(ghost, recipe.surface), recipe.rank, recipe.alpha, torch.Generator()
    )
    with Meter() as meter, lean_attention():
        prompts = _prompts(
            ghost, samples(recipe)
        )  # all go through the text encoder at once, whatever the UNet's batch
        terms: Terms = {"erase": _rows(ghost, prompts[:at_once])}  # one part is like the other
        if recipe.method.prompts():
            terms["relations"] = _related(ghost, recipe.method.prompts())
        descend(ghost, terms)
    adapter.remove()
    ghost.pixels = pixels
    return meter.peak + 3 * sum(p.nbytes for p in adapter.parameters())


def _prompts(ghost: DiffusionModel, count: int) -> Conditioning:
    """Prompts whose embeddings are learnt, as those of a search are."""
    tokens = ghost.text.tokenize(["a"] * count)
    return ghost.text.encode(tokens, [e.requires_grad_(True) for e in ghost.text.embed(tokens)])


def _rows(ghost: DiffusionModel, cond: Conditioning) -> Rows:
    z = torch.empty(len(cond), *ghost.latent_shape, device="meta")
    return Rows(z, torch.empty(len(cond), dtype=torch.long, device="meta"), cond, torch.empty_like(z), 1.0)


def _related(ghost: DiffusionModel, count: int) -> torch.Tensor:
    """Loss of one text-encoder batch of `count` prompts."""
    tokens = ghost.text.tokenize(["a"] * count)
    short = Tokens([ids[:, :RELATED_TOKENS] for ids in tokens.ids], tokens.end)
    return ghost.text.encode_clip(short).hidden.square().mean()


def samples(recipe: Recipe) -> int:
    """Samples in the UNet batch of a step."""
    batch = recipe.training.erase_batch
    return batch + recipe.method.rows(batch)
