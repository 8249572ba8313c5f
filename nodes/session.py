"""One run of Erase Concept: find or train each LoRA, show it, apply them all."""

from __future__ import annotations

import gc
import hashlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..sage_core.errors import SageError
from ..sage_core.spec import ErasureSpec
from . import bridge
from .core_model import check_recipes, core_model, training
from .pictures import before_after, from_file, left_graph, stack_images, to_pil
from .preview import Camera
from .request import few, listed_name, lora_path, lora_stem, prompts_each

if TYPE_CHECKING:
    from ..sage_core.diffusion.model import DiffusionModel
    from ..sage_core.jobs.make import Maker
    from ..sage_core.methods.recipe import Recipe

PHASES = {
    "domain": "searching other words for it",
    "bank": "self-check: drawing the latent bank",
    "prompts": "encoding prompts",
    "erase": "erasing",
    "refit": "reading the words that stay",
    "check": "checking what is left",
    "look": "drawing the concept",
    "done": "saving",
}


TOGETHER = "together"  # in the name of the file that joins several erasures


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
    found: str  # by the last check, as a sentence; empty where nothing was checked


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
    from ..sage_core import comparison_prompts
    from ..sage_core.jobs.make import Maker

    messages = bridge.Messages(node_id, own_face=True)
    messages("prepare", 0, 1, "reading the model's weights out of the graph")
    try:
        core = core_model(model, clip, hosts=True)
        trains_text = core.text.open
        recipes = [spec.recipe_for(core) for spec in specs]
        check_recipes(core, recipes)
        _forget_old_states(recipes)
        report, finished = _Reporter(messages), []
        maker = Maker(core, bridge.device(), report, finish=_saved(core))
        for spec, recipe in zip(specs, recipes):
            first = lora_path(bridge.loras_folder(), lora_stem(lora_name, spec.concept, len(specs) > 1))
            guess = spec.taken_as(core.knowledge.styles)
            tests = comparison_prompts(core, spec, prompts_each(len(specs)))
            report.begin(spec.concept, guess, Camera(model, vae))
            finished.append(_one(maker, report, recipe, first, tests))
        together = _joined(core, report, finished, lora_name) if len(finished) > 1 else None
    except bridge.OutOfMemory as error:
        raise SageError(
            "There was not enough memory to train. Lower the resolution (advanced inputs) or the rank, train"
            " only the text surface, or close what else uses the graphics card, then queue again: the run"
            " resumes where it stopped."
        ) from error
    finally:
        core = maker = None
        gc.collect()
        bridge.free_memory()
    done = Done(model, clip, prompts=few([own.prompts for own in finished]))
    paths = [own.path for own in finished]
    for path in paths if together is None else [together]:
        own = done.clip if trains_text else None
        done.model, erased = bridge.apply_lora(done.model, own, path)
        done.clip = erased if trains_text else done.clip
    files = paths if together is None else [*paths, together]
    done.names = [listed_name(path, bridge.loras_folder()) for path in files]
    done.graph = stack_images([own.graph for own in finished])
    pictures = [own.pictures for own in finished if own.pictures is not None]
    done.pictures = stack_images(pictures) if pictures else None
    _remember(values, files)
    found = [own.found for own in finished if own.found]
    messages.send("sage.saved", {"names": done.names, "found": found, "joined": together is not None})
    return done


def _one(maker: Maker, report: _Reporter, recipe: Recipe, first: Path, tests: list[str]) -> One:
    """The erasure of one concept, trained now or found as a file.

    first: the file's name, unless another erasure has it. tests: prompts that show the concept.
    """
    from ..sage_core.jobs.make import Made
    from ..sage_core.jobs.names import place

    path, file = place(first, recipe, maker.model)
    if file is not None:
        made = Made.earlier(path, recipe, file)
        report.messages(
            "found", 1, 1, f"{path.name} is this very erasure: nothing is trained", curve=made.left
        )
        pictures = from_file(path.with_suffix(".png"))
    else:
        report.about_the_guess()
        state = _state_file(recipe, maker.model)
        with training(maker.model, recipe):
            report.about(maker.model)
            made = maker.make(recipe, path, _usable(state), state)
        pictures = _shown(report, path)
    found = "" if made.checked is None else made.checked.sentence(recipe.concept)
    return One(path, left_graph(recipe.concept, made.left, made.losses), pictures, tests, found)


def _joined(core: DiffusionModel, report: _Reporter, finished: list[One], lora_name: str) -> Path | None:
    """One file of all, fitted to each other so that together they keep as much as one does; see jobs/join.py.

    None where they cannot be joined: they are stacked then.
    """
    from ..sage_core.jobs.join import join_for
    from ..sage_core.jobs.names import place_joined
    from ..sage_core.lora.file import read_lora

    first = lora_path(bridge.loras_folder(), lora_stem(lora_name, TOGETHER, True))
    report.begin(f"all {len(finished)}", "", report.camera)
    paths = [own.path for own in finished]
    try:
        path, file = place_joined(first, [read_lora(p) for p in paths], core)
        if file is None:
            with bridge.training():
                join_for(core.to(bridge.device()), paths, path, on_event=report)
        return path
    except SageError as error:
        report(f"they are stacked, not joined ({error})")
        return None


class _Reporter:
    """Events and sentences of one run after the other as messages to the page."""

    concept: str
    guess: str  # what to report about a guess of the concept's kind; empty if the user gave it
    camera: Camera

    def __init__(self, messages: bridge.Messages):
        self.messages = messages

    def begin(self, concept: str, guess: str, camera: Camera) -> None:
        """What comes is about this concept."""
        self.concept, self.guess, self.camera = concept, guess, camera

    def about_the_guess(self) -> None:
        if self.guess:
            self(self.guess)

    def about(self, model: DiffusionModel) -> None:
        """What is different in a model that ComfyUI runs."""
        from ..sage_core.lora.surfaces import hosted_layers

        if not model.hosted:
            return
        layers = "the layers that only text goes through"
        if model.family.watched:
            layers = f"the {len(hosted_layers(model))} layers that were seen to carry only text"
        self(
            f"{model.family.title} is trained inside ComfyUI, in {layers}; its text encoders stay, and other"
            " words for the concept are those that you give"
        )

    def __call__(self, event) -> None:
        if isinstance(event, str):
            self.messages("plan", 1, 1, f"{self.concept}: {event}")
            return
        if event.domain is not None:
            self("\n".join(event.domain.lines(self.concept)))
            return
        if event.checked is not None:
            self(event.checked.sentence(self.concept))
            return
        text = f"{self.concept}: {PHASES[event.phase]} {event.step}/{event.total}"
        if event.left is not None:
            text += f", {event.left:.0%} of it left"
        if event.eta is not None:
            text += f", at most {event.eta:.0f} s"
        if self.guess:  # last, since the node cuts off what is too long
            text += f"; {self.guess}"
        data = {"concept": self.concept, "losses": event.losses, "left": event.left, "eta": event.eta}
        self.messages(event.phase, event.step, event.total, text, self.camera.picture(event), **data)


def _saved(core: DiffusionModel):
    """A `finish` of jobs.make that honours Cancel before the file appears."""

    def finish(erasure, path: Path) -> None:
        bridge.check_cancelled()
        erasure.save(path, core)

    return finish


def _shown(report: _Reporter, path: Path) -> torch.Tensor | None:
    """Before and after, on the node and beside the LoRA; None without a VAE."""
    from ..sage_core.files import write_picture

    camera = report.camera
    if camera.last is None:
        return None
    pictures = before_after(report.concept, camera.first, camera.last)
    report.messages("after", 1, 1, f"{report.concept}: saved", to_pil(pictures[0]))
    write_picture(to_pil(pictures[0]), path.with_suffix(".png"))
    return pictures


def _state_file(recipe: Recipe, core: DiffusionModel) -> Path:
    """One for each erasure of each model, in the way that the graph samples it."""
    other = ""
    if core.sampling != "epsilon":
        other = "-" + hashlib.sha256(core.sampling.encode()).hexdigest()[:8]
    return bridge.state_folder() / f"{recipe.fingerprint()}-{core.fingerprint[:16]}{other}.resume"


def _forget_old_states(keep: list[Recipe], days: float = 14.0) -> None:
    """Runs that nobody resumed would fill the disk.

    Those that are wanted now stay, whatever a wrong clock says.
    """
    from ..sage_core.files import remove

    wanted = tuple(recipe.fingerprint() for recipe in keep)
    for state in bridge.state_folder().glob("*.resume"):
        if not state.name.startswith(wanted) and _older(state, days):
            remove(state)
    for half in bridge.state_folder().glob(".*.tmp"):  # of killed servers
        if _older(half, days):
            shutil.rmtree(half, ignore_errors=True)


def _older(path: Path, days: float) -> bool:
    """Whether the file is older than `days`; False if it has vanished."""
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
