"""Several erasures as one LoRA, fitted to the model: each does what it did alone (see lora/refit.py)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..cycle.refitting import KEPT, own_prompts
from ..cycle.setup import build_context
from ..diffusion.model import DiffusionModel
from ..errors import SageError
from ..lora.adapter import Adapter
from ..lora.file import LoraFile, attach
from ..lora.merge import merge_loras
from ..lora.refit import Moments, heard, moments, refitted, source
from ..lora.surfaces import linear_layers
from ..methods.closed_form.rows import kept_prompts
from ..methods.context import Context
from ..progress import Event, OnEvent
from ..prompts.kinds import STYLE
from ..prompts.words import candidates, retained_words, telling_words
from ..spec import ErasureSpec

WEIGHT = 4.0  # p of the equation, for one file


def join_for(
    model: DiffusionModel,
    files: list[Path],
    out: Path,
    strengths: list[float] | None = None,
    on_event: OnEvent = lambda event: None,
) -> LoraFile:
    """Join erasure LoRAs of this model and refit them together; write `out` and return what was written.

    Takes no UNet pass. Raises SageError as `merge_loras` does, and where a file does not fit the model.
    """

    if not model.text.open:
        raise SageError("Erasures are fitted to each other through the text encoder, which is not open here.")

    def fit(parts: list[LoraFile], strengths: list[float]) -> list[LoraFile]:
        return fitted_parts(model, parts, strengths, on_event)

    merged = merge_loras(files, out, strengths, fit)
    on_event(Event("done", 1, 1))
    return merged


def fitted_parts(
    model: DiffusionModel, parts: list[LoraFile], strengths: list[float], on_event: OnEvent
) -> list[LoraFile]:
    """The files with new matrices, whose sum is the joined one.

    Layers that read text are refitted together. Of those that read pictures, which no prompt can list, each
    file gives its share of the mean.
    """
    contexts = [_contexts(model, part) for part in parts]
    known = {name: layer for name, layer in linear_layers(model).items() if source(name)}
    total: Moments = {}
    listens = []  # by part: A G of its layers
    for part, strength, mine in zip(parts, strengths, contexts):
        adapter = attach(model, part, part.metadata.get("modelspec.title", "a file"), strength)
        try:
            own = moments(model, known, [p for context in mine for p in own_prompts(context)])
        finally:
            adapter.remove()
        listens.append({n: heard(part.layers[n][0], own[source(n)]) for n in part.layers if source(n)})
        total = {key: total[key] + moment if key in total else moment for key, moment in own.items()}
    everything = _together([c for mine in contexts for c in mine])
    prompts = kept_prompts(everything, KEPT, len(everything.retained))
    kept = moments(model, known, prompts, lambda done: on_event(Event("refit", done, len(prompts))))
    return _refitted(parts, listens, total, kept)


def _contexts(model: DiffusionModel, part: LoraFile) -> list[Context]:
    """What each erasure in a file is about; nothing is attached to the model."""
    recipes = [ErasureSpec.from_json(_plain(spec)).recipe(model.knowledge.styles) for spec in part.specs()]
    return [build_context(model, recipe, Adapter({}, {})) for recipe in recipes]


def _plain(spec: dict) -> dict:
    """A joined file's spec without the strength that it was joined with."""
    return {key: value for key, value in spec.items() if key != "strength"}


def _together(contexts: list[Context]) -> Context:
    """All of them as one, for the words that stay: those that every one of them keeps."""
    first = contexts[0]
    names = list(dict.fromkeys(name for context in contexts for name in context.names))
    taken = telling_words(names)
    listed = set(candidates(first.model))
    words = [w for w in retained_words(first.model, names, ()) if all(w in c.retained for c in contexts)]
    others = [w for c in contexts for w in c.retained if w not in listed and not taken & set(w.split())]
    styles = [c for c in contexts if c.kind == STYLE]
    return dataclasses.replace(
        styles[0] if styles else first,
        names=names,
        given=names,
        close=others,
        retained=list(dict.fromkeys([*others, *words])),
        other_styles=[s for s in first.other_styles if not taken & set(s.split())],
        _nearest=[],
    )


def _refitted(
    parts: list[LoraFile], listens: list[dict[str, torch.Tensor]], total: Moments, kept: Moments
) -> list[LoraFile]:
    """A layer that only some files have does nothing on the others' prompts, which are in `total`."""
    weight = WEIGHT * len(parts) ** 0.5  # see docs/lab/second-model.md
    layers: list[dict] = [{} for _ in parts]
    for name in dict.fromkeys(name for part in parts for name in part.layers):
        holders = [i for i, part in enumerate(parts) if name in part.layers]
        key = source(name)
        if key is None:
            downs = [parts[i].layers[name][0] for i in holders]
        else:
            width = parts[holders[0]].layers[name][0].shape[1]
            downs = refitted([listens[i][name] for i in holders], total[key], kept[key], weight, width)
        for i, down in zip(holders, downs):
            _, up, alpha = parts[i].layers[name]
            share = 1.0 if key is not None else 1 / len(parts)
            layers[i][name] = _halved(down, up * (share * alpha / len(down)))
    return [LoraFile(new, part.metadata, part.paths) for new, part in zip(layers, parts)]


def _halved(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Rounded as the file will hold them; alpha is the rank."""
    return down.half().float(), up.half().float(), float(len(down))
