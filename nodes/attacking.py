"""What Red Team runs on a graph: concept inversion (sage_core/evaluate/attacks/inversion.py)."""

from __future__ import annotations

import gc

import torch

from . import bridge
from .core_model import core_model


def attack(
    before, erased, concept: str, starts, steps: int, tokens: int, seed: int, size: int, messages
) -> tuple[list, str]:
    """(the strongest conditioning as ComfyUI has it, a report). before, erased: (MODEL, CLIP) each.

    The strongest is the one of the lowest loss.
    """
    from ..sage_core.evaluate.attacks.inversion import ConceptInversion
    from ..sage_core.spec import ErasureSpec

    spec = ErasureSpec(concept)
    search = ConceptInversion("inversion", steps=steps, vectors=tokens, starts=starts)
    latents = _latents(before, spec, search.latents, seed, size, messages)
    core, done, found = _core(erased, size), 0, []

    def step() -> None:
        nonlocal done
        done += 1
        messages("attack", done, steps * len(starts), f"attacking: step {done}/{steps * len(starts)}")

    with bridge.training():
        for start in starts:
            for _, cond, loss in search.search(core, spec, latents.to(core.device), seed, start, step):
                found.append((loss, start, cond))
    loss, start, cond = min(found, key=lambda one: one[0])
    lines = [f"from {s!r}: loss {value:.4f}" for value, s, _ in found]
    del core
    _clean_up()
    pooled = {} if cond.pooled is None else {"pooled_output": cond.pooled.float().cpu()}
    report = "\n".join([f"{tokens} learnt words for {concept!r}, the strongest from {start!r}", *lines])
    return [[cond.hidden.float().cpu(), pooled]], report


def _latents(before, spec, count: int, seed: int, size: int, messages) -> torch.Tensor:
    """Pictures of the concept by the model before the erasure, on the CPU."""
    from ..sage_core.evaluate.attacks.base import concept_latents

    messages("attack", 0, 1, "drawing the concept with the model before the erasure")
    core = _core(before, size)
    with bridge.training():
        latents = concept_latents(core, spec, count, seed).cpu()
    del core
    _clean_up()
    return latents


def _core(graph, size: int):
    core = core_model(*graph).to(bridge.device())
    core.pixels = size or core.pixels
    return core


def _clean_up() -> None:
    gc.collect()
    bridge.free_memory()
