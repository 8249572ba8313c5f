"""One run of Erase Concept: find or train each LoRA, show it, apply them all."""

from __future__ import annotations

import gc
import hashlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..sage_core.errors import SageError
from ..sage_core.spec import ErasureSpec
from . import bridge
from .graph_weights import checkpoint
from .pictures import before_after, from_file, left_graph, stack_images, to_pil
from .preview import Camera
from .request import few, listed_name, lora_path, lora_stem, place, prompts_each, same_erasure

PHASES = {
    "bank": "self-check: drawing the latent bank",
    "erase": "erasing",
    "look": "drawing the concept",
    "done": "saving",
}


@dataclass
class Done:
    """What the node returns. `prompts`: what shows the erasures; `shown`: the pictures on the node."""

    model: object
    clip: object
    names: list[str] = field(default_factory=list)
    graph: torch.Tensor | None = None
    pictures: torch.Tensor | None = None
    prompts: list[str] = field(default_factory=list)

    @property
    def shown(self) -> torch.Tensor:
        return self.graph if self.pictures is None else self.pictures


@dataclass
class One:
    """The erasure of one concept: its file, the graph of what is left, pictures where there is a VAE, test
    prompts.
    """

    path: Path
    graph: torch.Tensor
    pictures: torch.Tensor | None
    prompts: list[str]


@dataclass
class _Made:
    """Files that one set of widget values made, and a token that changes when one of them disappears."""

    values: dict
    files: list[Path]
    token: int = 0


_made: list[_Made] = []


def token(values: dict) -> int:
    """For fingerprint_inputs, which sees linked values as None: they match anything."""
    known = {k: v for k, v in values.items() if v is not None}
    matching = [m for m in _made if all(m.values.get(k) == v for k, v in known.items())]
    for made in matching:
        if any(not path.exists() for path in made.files):
            made.token += 1
            made.files = []  # until it is trained again, the token must not change again
    return sum(m.token for m in matching)


def _remember(values: dict, files: list[Path]) -> None:
    made = next((m for m in _made if m.values == values), None)
    if made is None:
        _made.append(_Made(values, files))
    else:
        made.files = files


def run(
    model, clip, vae, specs: list[ErasureSpec], lora_name: str, values: dict, node_id: str | None
) -> Done:
    """Returns the erased MODEL and CLIP.

    Raises SageError with a sentence, or ComfyUI's interrupt when cancelled.
    """
    messages = bridge.Messages(node_id, own_face=True)
    _forget_old_states(specs)
    sampling = bridge.prediction(model)
    messages("prepare", 0, 1, "reading the model's weights out of the graph")
    weights = checkpoint(model, clip)
    bridge.free_memory()
    try:
        finished = [
            _one(weights, sampling, vae, model, spec, lora_name, len(specs), messages) for spec in specs
        ]
    except bridge.OutOfMemory as error:
        raise SageError(
            "There was not enough memory to train. Lower the resolution (advanced inputs) or the rank, train"
            " only the text surface, or close what else uses the graphics card, then queue again: it goes on"
            " where it stopped."
        ) from error
    finally:
        del weights
        gc.collect()
        bridge.free_memory()
    done = Done(model, clip, prompts=few([own.prompts for own in finished]))
    for path in (own.path for own in finished):
        done.model, done.clip = bridge.apply_lora(done.model, done.clip, path)
        done.names.append(listed_name(path, bridge.loras_folder()))
    done.graph = stack_images([own.graph for own in finished])
    pictures = [own.pictures for own in finished if own.pictures is not None]
    done.pictures = stack_images(pictures) if pictures else None
    _remember(values, [own.path for own in finished])
    messages.send("sage.saved", {"names": done.names})
    return done


def _one(
    weights, sampling: tuple, vae, model, spec: ErasureSpec, lora_name: str, concepts: int, messages
) -> One:
    """The erasure of one of `concepts` concepts, trained now or found as a file."""
    from ..sage_core import comparison_prompts
    from ..sage_core.files import check_room, claimed
    from ..sage_core.jobs.make import room_for
    from ..sage_core.models import load_model

    first = lora_path(bridge.loras_folder(), lora_stem(lora_name, spec.concept, concepts > 1))
    with bridge.training():
        core = load_model(weights, "cpu", bridge.training_dtype(), *sampling)
    core.on_pass = bridge.check_cancelled
    state = _state_file(spec, core)
    taken, spec = spec.taken_as(core.knowledge.styles), spec.resolved(core.knowledge.styles)
    try:
        path, there = place(first, lambda p: same_erasure(p, spec, core))
        camera, prompts = Camera(model, vae), comparison_prompts(core, spec, prompts_each(concepts))
        if there:
            left, losses = _recorded(path)
            messages("found", 1, 1, f"{path.name} is this very erasure: nothing is trained", curve=left)
            return One(
                path, left_graph(spec.concept, left, losses), from_file(path.with_suffix(".png")), prompts
            )
        check_room(path, room_for(core, spec))
        with claimed(path), claimed(state), bridge.training():
            graph, pictures = _train(core, spec, path, state, camera, messages, taken)
        return One(path, graph, pictures, prompts)
    finally:
        core.on_pass = None


def _train(core, spec: ErasureSpec, path: Path, state: Path, camera, messages, taken: str):
    """(graph of what is left, pictures).

    `taken`: what to report about a guess of the concept's kind; empty if the user said it.
    """
    from ..sage_core.files import write_picture
    from ..sage_core.memory.plan import erase_as_planned, fit

    def on_event(event) -> None:
        text = f"{spec.concept}: {PHASES[event.phase]} {event.step}/{event.total}"
        if event.left is not None:
            text += f", {event.left:.0%} of it left"
        if event.eta is not None:
            text += f", at most {event.eta:.0f} s"
        if taken:  # last, since the node cuts off what is too long
            text += f"; {taken}"
        data = {
            "concept": spec.concept,
            "losses": event.losses,
            "left": event.left,
            "leak": event.leak,
            "eta": event.eta,
        }
        messages(event.phase, event.step, event.total, text, camera.picture(event), **data)

    def say(text: str) -> None:
        messages("plan", 1, 1, f"{spec.concept}: {text}")

    plan = fit(core, spec, bridge.device())
    for part in (taken, str(plan or "")):
        if part:
            say(part)
    erasure = erase_as_planned(core, spec, plan, on_event, say, state, _usable(state))
    try:
        bridge.check_cancelled()
        erasure.save(path, core)
    finally:
        erasure.adapter.remove()
    pictures = before_after(spec.concept, camera.first, camera.last) if camera.last is not None else None
    if pictures is not None:
        messages("after", 1, 1, f"{spec.concept}: saved", to_pil(pictures[0]))
        write_picture(to_pil(pictures[0]), path.with_suffix(".png"))
    return left_graph(spec.concept, erasure.left, erasure.losses), pictures


def _state_file(spec: ErasureSpec, core) -> Path:
    """One for each erasure of each model, in the way that the graph samples it."""
    other = "" if core.sampling == "epsilon" else "-" + hashlib.sha256(core.sampling.encode()).hexdigest()[:8]
    return bridge.state_folder() / f"{spec.fingerprint()}-{core.fingerprint[:16]}{other}.resume"


def _forget_old_states(keep: list[ErasureSpec], days: float = 14.0) -> None:
    """Runs that nobody went on with would fill the disk.

    Those that are wanted now stay, whatever a wrong clock says.
    """
    from ..sage_core.files import remove

    wanted = tuple(spec.fingerprint() for spec in keep)
    for state in bridge.state_folder().glob("*.resume"):
        if not state.name.startswith(wanted) and _older(state, days):
            remove(state)
    for half in bridge.state_folder().glob(".*.tmp"):  # of killed servers
        if _older(half, days):
            shutil.rmtree(half, ignore_errors=True)


def _older(path: Path, days: float) -> bool:
    """No, where another server has just taken it away."""
    try:
        return time.time() - path.stat().st_mtime > days * 86_400
    except OSError:
        return False


def _usable(state: Path) -> bool:
    """A state that a crash or another version left unreadable is dropped: it must not stop the next queue."""
    from ..sage_core.diffusion.weights import opened
    from ..sage_core.files import remove

    if not state.exists():
        return False
    try:
        with opened(state) as f:
            return "sage.state" in (f.metadata() or {})
    except SageError:
        remove(state)
        return False


def _recorded(path: Path) -> tuple[list[float], list[dict[str, float]]]:
    """What a file says was left, and its losses, step by step."""
    from ..sage_core.lora.file import read_lora

    try:
        file = read_lora(path)
    except SageError:
        return [], []
    return file.left(), file.losses()
