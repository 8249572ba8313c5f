"""The guard on ComfyUI's sampler; what it does with a step's predictions is sage_core/guard.py.

The guard watches with the model as it was. An erased MODEL and the one before it share their weights in
ComfyUI, so both cannot be loaded at once. But what the erasure adds is known: while the guard looks, hooks
take it away again from the layers that it changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import comfy.lora
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from ..sage_core.errors import SageError
from ..sage_core.guard import Looks
from . import beside
from .guarded_pictures import Pictures


def guarded(
    model, clip, concepts: list[str], model_before, threshold: float, push: float, pictures: bool = True
):
    """A clone of MODEL whose sampler is watched. Raises SageError where one of the inputs cannot be used.

    pictures: whether whole pictures are looked at as well.
    """
    if model is None or clip is None:
        raise SageError("Concept Guard needs MODEL and CLIP; connect both.")
    added = {} if model_before is None else changes(model, model_before)
    conds = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("", *concepts)]
    watch = Watch(conds, added, (threshold, push))
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(watch)
    if pictures:
        patched.add_wrapper(WrappersMP.SAMPLER_SAMPLE, Pictures(watch))
    return patched


def changes(model, model_before) -> dict[str, torch.Tensor]:
    """What `model` adds to the linear layers of `model_before`: by module, [out, in], float32 on the CPU."""
    if model.model is not model_before.model:
        raise SageError(
            "model_before is not the model that was erased; connect the MODEL that went into the erasure."
        )
    added = beside.added(model, model_before)
    for key, patches in model.patches.items():
        known = {id(patch[1]) for patch in model_before.patches.get(key, [])}
        new = [patch for patch in patches if id(patch[1]) not in known]
        if not new:
            continue
        module = key.removesuffix(".weight")
        weight = comfy.utils.get_attr(model.model, key)
        if len(weight.shape) != 2:
            raise SageError(
                f"The erasure changes {module!r}, which is no linear layer; the guard cannot undo it."
            )
        zero = torch.zeros(tuple(weight.shape))
        change = comfy.lora.calculate_weight(new, zero, key)
        added[module] = added[module] + change if module in added else change
    return added


class Watch:
    """Called by the sampler after classifier-free guidance, with predicted clean latents.

    conds: of the empty prompt, then of each concept. added: see `changes`. strict: see core's Looks.
    """

    def __init__(self, conds: list, added: dict[str, torch.Tensor], settings: tuple[float, float]):
        self.conds = [comfy.sampler_helpers.convert_cond(cond) for cond in conds]
        self.added, self.settings, self.strict = added, settings, False
        self.looks = Looks(len(conds) - 1, *settings)
        self.sigma, self.shape = 0.0, None
        self.ready, self.ready_for = [], None

    def __call__(self, args: dict) -> torch.Tensor:
        model, x, sigma = args["model"], args["input"], args["sigma"]
        if float(sigma.max()) > self.sigma or x.shape != self.shape:
            self.looks = Looks(len(self.conds) - 1, *self.settings, self.strict)  # another run begins
        self.sigma, self.shape = float(sigma.max()), x.shape
        asked = self.looks.asked()
        base, *towards = self.predicted(model, x, sigma, asked, args["model_options"])
        return self.looks.steer(args["denoised"], base, towards, asked).to(args["denoised"])

    def predicted(self, model, x: torch.Tensor, sigma: torch.Tensor, asked: list[int], options: dict) -> list:
        """Clean latents [n, c, h, w] that the model before the erasure predicts, without a prompt and then
        under each concept that is asked for. x, sigma [n]: as the sampler has them.
        """
        if self.ready_for != (x.shape, x.device):
            self.ready_for = x.shape, x.device
            self.ready = [
                comfy.samplers.encode_model_conds(model.extra_conds, cond, x, x.device, "positive")
                for cond in self.conds
            ]
        conds = [self.ready[0], *(self.ready[1 + i] for i in asked)]
        with self._without_the_erasure(model):
            return comfy.samplers.calc_cond_batch(model, conds, x, sigma, options)

    @contextlib.contextmanager
    def _without_the_erasure(self, model) -> Iterator[None]:
        handles = []
        for name, change in self.added.items():
            layer = comfy.utils.get_attr(model, name)
            handles.append(layer.register_forward_hook(_taken_away(change)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _taken_away(change: torch.Tensor):
    def hook(module, inputs, out):
        return out - torch.nn.functional.linear(inputs[0], change.to(inputs[0]))

    return hook
