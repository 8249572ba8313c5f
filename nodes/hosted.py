"""Training through the MODEL of the graph itself: ComfyUI predicts and encodes, the core trains (see
sage_core/diffusion/hosted.py). For rectified flows of which the core has no network of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import comfy.model_management as management
import comfy.samplers
import torch

from ..sage_core.errors import SageError
from . import bridge
from .gradients import for_training, own_weights, packed, quantised, recomputed
from .text_layers import with_text_layers
from .trial import in_a_sentence, tried

if TYPE_CHECKING:
    from ..sage_core.diffusion.architecture import Family
    from ..sage_core.diffusion.hosted import HostedModel, Row

GUIDANCE = 1.0  # of a guidance-distilled network: its plain conditional prediction
SAMPLED = 256  # values of a tensor's beginning, middle and end that go into the fingerprint
KEPT = 5  # times ComfyUI's own figure for sampling with lean attention; Qwen-Image takes 4.9 of them
AS_IN_NODES = (
    torch.inference_mode
)  # a quantised weight that ComfyUI moves outside of it breaks when used inside


def hosted_model(model, clip, family: Family, alphas: torch.Tensor) -> HostedModel:
    """The core's view of the graph's MODEL and CLIP; nothing is copied."""
    from ..sage_core.diffusion.hosted import HostedModel
    from ..sage_core.diffusion.schedule import checked

    if clip is None:
        raise SageError(f"Connect the CLIP that belongs to this {family.title} model.")
    host = ComfyHost(model, clip)
    about = f"guidance embedding {GUIDANCE:g}" if host.distilled else ""
    network, steps = model.model.diffusion_model, checked(alphas)
    core = HostedModel(family, host, network, steps, family.title, fingerprint(model), about)
    core.on_pass = bridge.check_cancelled
    return core


class ComfyHost:
    """ComfyUI as the core's Host."""

    def __init__(self, model, clip):
        self.model, self.clip = model, clip
        self.device = model.load_device
        own, cast = model.model.get_dtype(), model.model.manual_cast_dtype
        self.dtype = own if cast is None else cast
        network = model.model.diffusion_model
        self.block = largest_block(network)
        self.distilled = bool(getattr(getattr(network, "params", None), "guidance_embed", False))
        self.frames = getattr(model.model.latent_format, "latent_dimensions", 2) == 3

    def encode(self, prompt: str) -> Row:
        """A row's value: the arguments of `extra_conds` that ComfyUI's sampler would make of the prompt."""
        from ..sage_core.diffusion.hosted import Row

        with AS_IN_NODES():
            found = bridge.encode(self.clip, prompt)
        if len(found) != 1:
            raise SageError(
                f"CLIP gives {len(found)} conditionings for {prompt!r}; only one can be trained on."
            )
        states, extra = found[0]
        value: dict[str, Any] = {k: _own(v) for k, v in extra.items()}
        value["cross_attn"] = _own(states).to(self.dtype)  # in which the network reads them; they are kept
        if self.distilled:
            value["guidance"] = GUIDANCE
        shapes = {k: tuple(v.shape) if isinstance(v, torch.Tensor) else repr(v) for k, v in value.items()}
        mask = value.get("attention_mask")
        read = None if mask is None else int(mask.sum())  # some networks read no more than this
        return Row((tuple(sorted(shapes.items())), read), value)

    def velocity(self, x: torch.Tensor, s: torch.Tensor, rows: list[Row]) -> torch.Tensor:
        """From the clean latents that `apply_model` returns: v = (x - z_0) / s."""
        network = self.model.model
        x, s = x.to(self.device), s.to(self.device)
        own = x.unsqueeze(2) if self.frames else x
        room = network.memory_required(list(own.shape))
        if torch.is_grad_enabled():
            room = max(room, training_room(network, list(own.shape), self.dtype, self.block))
        with AS_IN_NODES():
            management.load_models_gpu([self.model], memory_required=room)
        if torch.is_grad_enabled():
            own_weights(network.diffusion_model)  # whatever was loaded, or loaded again
        clean = network.apply_model(own, s, **self.conditions(own, [row.value for row in rows]))
        clean = clean.squeeze(2) if self.frames else clean
        return (x - clean.float()) / s.view(-1, 1, 1, 1)

    def conditions(self, x: torch.Tensor, values: list[dict]) -> dict[str, Any]:
        """The arguments of `apply_model` for a batch, as ComfyUI's sampler joins them."""
        conds = [{**value, "model_conds": {}} for value in values]
        encode = comfy.samplers.encode_model_conds
        encoded = encode(self.model.model.extra_conds, conds, x[:1], self.device, "positive")
        each = []
        for one in encoded:
            kept = one["model_conds"]
            each.append(
                {k: c.process_cond(batch_size=1, device=self.device, area=None) for k, c in kept.items()}
            )
        return {k: first.concat([other[k] for other in each[1:]]) for k, first in each[0].items()}


def largest_block(network: torch.nn.Module) -> int:
    """How many weights the largest block has that is computed again. Where they come from main memory, or are
    unpacked, they are kept for as long as its backward pass takes.
    """
    return max((sum(p.numel() for p in block.parameters()) for block in recomputed(network)), default=0)


def training_room(network, shape: list[int], dtype: torch.dtype, block: int) -> float:
    """Bytes beside the weights that a pass in training may take, those of a block's weights among them:
    docs/flow-families.md, "Memory".
    """
    area = shape[0] * math.prod(shape[2:])
    return dtype.itemsize * (block + KEPT * area * 0.01 * network.memory_usage_factor * 2**20)


def _own(value):
    """A tensor of our own: the graph's belong to inference mode."""
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


@contextmanager
def trainable(core: HostedModel, surface: str) -> Iterator[None]:
    """Inside, the host's network can be trained through. Raises SageError where it cannot, before anything
    long: one small step is tried.
    """
    with bridge.training(), for_training(core.unet):
        with in_a_sentence(core):
            core.family = with_text_layers(core)
            tried(core, surface)
        yield


def fingerprint(model) -> str:
    """SHA-256 over names, shapes, number types and a few values of every tensor of the network, and of the
    LoRAs on it. Reading all of 12 billion numbers would take minutes; the same file gives the same value.
    """
    digest = hashlib.sha256()
    for key, (weight, *patches) in sorted(_key_patches(model).items()):
        digest.update(f"{key} ".encode())
        _note(digest, weight[0] if isinstance(weight, tuple) else weight)
        for patch in patches:
            _note(digest, patch)
    for name in sorted(model.injections):  # of LoRAs beside the weights (beside.py)
        digest.update(name.encode())
    return digest.hexdigest()


def _key_patches(model) -> dict[str, list]:
    """Every tensor of the network as its file has it, and the LoRAs on it.

    ComfyUI's own function fails where a state dict holds more than the modules do: ComfyUI-GGUF lists one
    tensor more, for an estimate of memory, and ComfyUI lists the scales of quantised weights.
    """
    tensors = {f"diffusion_model.{k}": v for k, v in model.model.diffusion_model.named_parameters()}
    if not any(packed(value) or quantised(value) for value in tensors.values()):
        return model.get_key_patches("diffusion_model.")
    kept = {key: backup.weight for key, backup in model.backup.items()}
    return {key: [kept.get(key, value), *model.patches.get(key, [])] for key, value in tensors.items()}


def _note(digest, value) -> None:
    """Take in a tensor, or what a patch consists of."""
    if isinstance(value, (list, tuple)):
        for part in value:
            _note(digest, part)
    elif isinstance(value, torch.Tensor):
        tensor = getattr(value, "_qdata", value).detach().as_subclass(torch.Tensor)  # as it lies in memory
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
        flat = tensor.reshape(-1)
        middle = max(0, len(flat) // 2 - SAMPLED // 2)
        for part in (flat[:SAMPLED], flat[middle : middle + SAMPLED], flat[-SAMPLED:]):
            digest.update(part.to("cpu").contiguous().clone().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (int, float, str)):
        digest.update(f"{value} ".encode())
    elif hasattr(value, "weights"):  # a LoRA, as ComfyUI keeps it
        _note(digest, value.weights)
