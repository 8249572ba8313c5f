"""The cycle of self-check and self-erasure: erase(model, spec, on_event) -> Erasure."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..diffusion.cost import Cost
from ..diffusion.model import DiffusionModel
from ..domain.found import Domain
from ..errors import OutOfMemory, SageError, is_out_of_memory, one_line
from ..lora.adapter import Adapter
from ..methods.base import DomainPart, Part, RetentionPart, TargetPart, Terms
from ..methods.closed_form.edit import solve
from ..methods.recipe import Recipe
from ..methods.states import Rows, States
from ..progress import Event, OnEvent
from ..spec import ErasureSpec
from . import state as states_of_runs
from .ahead import encode_ahead
from .bank import further_bank, latent_bank
from .checking import Checks
from .descent import descend
from .latents import FreshTrajectories, LatentBank
from .refitting import Refit
from .residual import Residual
from .result import Erasure
from .setup import build_context, decided, noted, run_closed_form, searched, trained_layers, watch_over
from .state import Files, Saved, adam_tensors, load_adam_tensors
from .watch import on_the_way

HALF_SCALE = 2.0**12


def erase(
    model: DiffusionModel,
    spec: ErasureSpec | Recipe,
    on_event: OnEvent | None = None,
    state: Path | None = None,
    resume: bool = False,
    save_every: float = 10.0,
    looks: bool = False,
) -> Erasure:
    """Run the cycle, or the closed form of a method that has one.

    The same spec, model and device give the same tensors. Raises SageError on bad input and where the loss is
    not a number any more; OutOfMemory where memory ran out, after which a smaller plan can resume.

    Args:
        on_event: called at every step. It may raise (errors.Cancelled, a host's own interrupt) to stop; the
            model is left clean.
        state: file for the run's state, written every `save_every` seconds and deleted by Erasure.save.
        resume: continue from that file, if it is there.
        looks: draw the concept now and then, and report how much of it is left (see watch.py).
    """
    recipe = decided(model, spec)
    on_event = on_event or (lambda event: None)
    with attached(model, recipe) as (adapter, generator):
        before = dataclasses.replace(model.cost)
        files = Files(state, resume, save_every)
        saved = None if recipe.method.closed is not None else files.saved(identity(model, recipe))
        if saved is not None and saved.meta.get("domain") is not None:
            recipe = recipe.with_domain(Domain.from_json(saved.meta["domain"]))
        recipe = searched(model, recipe, adapter, on_event)
        if recipe.method.closed is not None:
            return run_closed_form(model, recipe, adapter, on_event, looks, before)
        return Run(model, recipe, adapter, generator, on_event, files, looks, before)(saved)


def identity(model: DiffusionModel, recipe: Recipe) -> dict[str, Any]:
    """What a saved state must share with the run that takes it."""
    return {
        "method": repr(recipe.method),
        "recipe": recipe.fingerprint(),
        "model": model.fingerprint,
        "sampling": model.sampling,
    }


@contextlib.contextmanager
def attached(model: DiffusionModel, recipe: Recipe) -> Iterator[tuple[Adapter, torch.Generator]]:
    """Inside, a new adapter is attached to the model, which draws at the recipe's size.

    The adapter stays when all went well, and is removed where something was raised.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    layers = trained_layers(model, recipe)
    adapter = Adapter.create(layers, recipe.rank, recipe.alpha, generator, model.device)
    pixels, model.pixels = model.pixels, recipe.resolution or model.pixels
    try:
        with torch.enable_grad():
            yield adapter, generator
    except BaseException as error:
        adapter.remove()
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"The memory was not enough to erase {recipe.concept!r} ({one_line(error)}); free some, or"
                f" train at a smaller resolution than {model.pixels}. The run can be resumed from its last"
                " saved state."
            ) from error
        raise
    finally:
        model.pixels = pixels


class Run:
    """One erasure in progress."""

    domain: DomainPart
    target: TargetPart
    retention: dict[str, RetentionPart]

    def __init__(
        self,
        model: DiffusionModel,
        recipe: Recipe,
        adapter: Adapter,
        generator: torch.Generator,
        on_event: OnEvent,
        files: Files,
        looks: bool = False,
        before: Cost | None = None,
    ):
        self.model, self.recipe, self.adapter = model, recipe, adapter
        self.on_event, self.files = on_event, files
        training = recipe.training
        # Every concept has draws of its own: with the same ones, LoRAs that are stacked would all push the
        # same way.
        self.generator, self.rng = generator, random.Random(f"{recipe.seed} {recipe.concept}")
        self.optimizer = torch.optim.Adam(
            adapter.parameters(), lr=training.learning_rate, betas=(0.9, training.beta2)
        )
        # Half precision has no room for most gradients (Micikevicius et al., arXiv 1710.03740).
        self.scaler = torch.amp.GradScaler(
            model.device.type, HALF_SCALE, backoff_factor=0.125, enabled=model.dtype == torch.float16
        )
        self.context = build_context(model, recipe, adapter, training.styled)
        self.losses: list[dict[str, float]] = []
        self.shown: list[str] = []  # scenes that checks added
        self.residual = Residual(training, recipe.check)
        self.watch = watch_over(self.context, on_event) if looks else None
        self.checks = Checks(self.context, recipe, on_event) if recipe.check else None
        # A style is shown on any thing, more than its prompts can list: refitted, it erases less.
        fits = training.refit and not recipe.style
        self.refit = Refit(self.context, training.refit, on_event) if fits else None
        self.start_cost = before or dataclasses.replace(model.cost)
        self.spent = 0.0  # seconds of the run before it was resumed
        self.started = time.monotonic()

    def __call__(self, saved: Saved | None = None) -> Erasure:
        self.started = time.monotonic()
        if self.watch is not None:
            self.watch.begin()
        if saved is None:
            self.warm_start()
            self.begin(self.new_source())
            self.save_state()  # the bank takes long
        else:
            self.take(saved)
        self.train()
        self.save_state()  # until the file is there, a finished run can be lost as well
        if self.refit is not None:
            self.refit.apply()
        checked = None if self.checks is None else self.checks.finish(len(self.losses))
        self.adapter.round_(torch.float16)
        self.look()
        done = len(self.losses)
        self.on_event(Event("done", done, done, self.losses[-1], 0.0, self.left()))
        took = self.cost(), self.seconds()
        erasure = Erasure(self.recipe, self.adapter, self.losses, *took, self.files.path, checked=checked)
        return noted(erasure, self.watch)

    def train(self) -> None:
        """Rounds of steps, until a check finds nothing or no step is left."""
        while self.residual.goal < len(self.losses):
            self.residual.go_on()
        self.round()
        while self.checks is not None and self.residual.total() < self.recipe.steps:
            done = len(self.losses)
            if done < self.residual.goal:
                return
            with contextlib.nullcontext() if self.refit is None else self.refit.tried():
                enough = self.checks.enough(done, self.residual.total())
            if enough:
                return
            self.show(self.checks.failing)
            self.residual.go_on()
            self.round()

    def show(self, scenes: list[str]) -> None:
        """Train in these scenes too: the concept is still drawn there."""
        new = [scene for scene in scenes if scene not in self.shown]
        if new and isinstance(self.source, LatentBank):
            self.shown += new
            self.context.put_first(new)
            if self.refit is not None:
                self.refit.kept = None  # the words that stay are read in these styles too
            self.source.extend(further_bank(self.context, self.recipe.training, self.rng, new))

    def round(self) -> None:
        """The steps that remain until the next check."""
        encode_ahead(self, self.residual.total() - len(self.losses))
        # Steps before the run was resumed took another time each.
        begun, first = time.monotonic(), len(self.losses)
        written = begun
        while len(self.losses) < self.residual.total():
            self.losses.append(self.step())
            done, total = len(self.losses), self.residual.total()
            eta = (time.monotonic() - begun) / (done - first) * (total - done)
            self.on_event(Event("erase", done, total, self.losses[-1], eta, self.left()))
            if done < total and done % self.look_every() == 0:
                self.look()
            if time.monotonic() - written >= self.files.save_every:
                self.save_state()
                written = time.monotonic()

    # ---- before the first step ----

    def warm_start(self) -> None:
        """A closed-form edit to train on from, where the method has one and the surface has its layers."""
        family, warm = self.model.family, self.recipe.method.warm
        share = family.style_start if self.recipe.style else family.thing_start
        if warm is None or not share:
            return
        if any(name.endswith(warm.endings(family)) for name in self.adapter.layers):
            solve(warm.weaker(share), self.context, 1)

    def new_source(self) -> LatentBank | FreshTrajectories:
        """A bank walked now, or, faithful to the papers' code, a fresh trajectory at every step."""
        training = self.recipe.training
        if training.fresh:
            return FreshTrajectories(self.context, training.solver_steps, training.guidance)
        return latent_bank(self.context, training, self.rng, self.on_event)

    def begin(self, source: LatentBank | FreshTrajectories) -> None:
        """Start the parts of the method on these latents."""
        method = self.recipe.method
        assert method.domain is not None and method.target is not None  # else it is a closed form
        self.source = source
        self.context = self.context.drawing_from(source)
        self.domain = method.domain.start(self.context)
        self.target = method.target.start(self.context)
        self.retention = {type(term).__name__.lower(): term.start(self.context) for term in method.retention}

    # ---- one step ----

    def step(self) -> dict[str, float]:
        """Self-check, then one optimiser step: L = L_erase + lambda_g L_global + lambda_l L_local."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.residual.rate(len(self.losses))
        states, terms = self.erasing()
        erase = terms["erase"]
        for name, term in self.retention.items():
            terms[name] = term(self.rng, self.generator)
        self.optimizer.zero_grad()
        losses, predicted = descend(self.model, terms, self.scaler)
        self.residual.note(*self.pull(erase, states, predicted.get("erase")))
        values = {name: loss.item() for name, loss in losses.items()}
        values["total"] = torch.stack(list(losses.values())).sum().item()
        self.update(values)
        return values

    def erasing(self) -> tuple[States, Terms]:
        """What the domain found, on its way to the target: the states of the step, and terms of the loss."""
        training = self.recipe.training
        if training.trajectories or training.fresh:
            states = self.source.concept(self.rng, training.erase_batch)
        else:
            states = States.without_latents(self.context.scenes(self.rng, training.erase_batch))
        found = self.domain(self.rng, self.generator, states.scenes)
        return states, self.target(states, found, self.rng, self.generator)

    def pull(
        self, erase: Rows | torch.Tensor, states: States, predicted: torch.Tensor | None
    ) -> tuple[float, float]:
        """The erasing loss of this step, and what it would be with the frozen model."""
        if not isinstance(erase, Rows) or predicted is None:
            assert isinstance(erase, torch.Tensor)
            return erase.item(), 1.0  # losses in text space are relative already
        samples = len(erase.z)
        rows = self.domain.plain_rows(samples)
        if rows.start is not None and rows.start >= samples:
            rows = slice(None)
        return erase.loss(predicted, rows).item(), max(1e-12, erase.loss(states.eps_concept, rows).item())

    def update(self, values: dict[str, float]) -> None:
        """Move the adapter, and what the domain learns, by the gradients.

        A step whose gradients half precision has no room for is left out, at a smaller scale from then on.
        """
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0).item()
        too_large = not math.isfinite(norm) and self.scaler.get_scale() > 1
        if not too_large:
            self.check(values | {"gradient": norm})
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not too_large:
            self.domain.learn()

    def check(self, values: dict[str, float]) -> None:
        """Raise SageError where one is not a number: nothing of this step goes into the weights."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise SageError(
                    f"At step {len(self.losses) + 1} the {name} was {value}: the run diverged. Use a lower"
                    f" learning rate than {self.recipe.learning_rate:g}, or wider numbers than"
                    f" {str(self.model.dtype).removeprefix('torch.')}; the last good state is kept for"
                    " --resume."
                )

    # ---- looks, cost ----

    def look(self) -> None:
        """Draw the concept and note how much of it is left, if that was asked for."""
        if self.watch is not None:
            self.watch.look(len(self.losses), self.residual.total())

    def look_every(self) -> int:
        """Steps between two looks."""
        return math.ceil(self.recipe.steps / (1 + on_the_way(self.recipe.steps)))

    def left(self) -> float | None:
        """Share of the concept at the last look; None without looks."""
        return None if self.watch is None else self.watch.curve[-1][1]

    def cost(self) -> Cost:
        return self.model.cost.since(self.start_cost)

    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.started

    # ---- the saved state ----

    def parts(self) -> list[Part]:
        return [self.domain, self.target, *self.retention.values()]

    def save_state(self) -> None:
        """Write the run's state, if there is a file for it."""
        if self.files.path is None:
            return
        cost = self.cost()
        domain = self.recipe.domain
        meta = identity(self.model, self.recipe) | {
            "domain": None if domain is None else domain.to_json(),
            "losses": self.losses,
            "pulls": self.residual.pulls,
            "left": [] if self.watch is None else self.watch.curve,
            "rng": self.rng.getstate(),
            "seconds": self.seconds(),
            "cost": [cost.forwards, cost.backwards],
            "scaler": self.scaler.state_dict(),
            "bank": self.source.about(),
            "shown": self.shown,
        }
        saved = Saved(meta, {})
        saved.add("adapter", self.adapter.tensors())
        saved.add("optimizer", adam_tensors(self.optimizer, self.adapter.parameters()))
        saved.add("bank", self.source.tensors())
        saved.add("random", {"generator": self.generator.get_state()})
        for i, part in enumerate(self.parts()):
            saved.add(f"part{i}", part.tensors())
        states_of_runs.write(self.files.path, saved)

    def take(self, saved: Saved) -> None:
        """Continue from a saved state. Raises SageError where it is damaged."""
        with states_of_runs.reading(self.files.path):
            self._take(saved)

    def _take(self, saved: Saved) -> None:
        meta, device = saved.meta, self.model.device
        self.adapter.load(saved.group("adapter"))
        load_adam_tensors(self.optimizer, saved.group("optimizer"))
        bank = saved.group("bank")
        self.begin(LatentBank.restored(bank, meta["bank"], device) if bank else self.new_source())
        for i, part in enumerate(self.parts()):
            if own := {name: tensor.to(device) for name, tensor in saved.group(f"part{i}").items()}:
                part.load(own)
        self.shown = meta["shown"]
        self.context.put_first(self.shown)  # as in the run before: after its parts were begun
        self.generator.set_state(saved.group("random")["generator"])
        version, internal, gauss = meta["rng"]
        self.rng.setstate((version, tuple(internal), gauss))
        self.losses = meta["losses"]
        if self.watch is not None:  # the untouched model was looked at again
            self.watch.curve += [(step, share) for step, share in meta["left"][1:]]
        for loss, pull in meta["pulls"]:
            self.residual.note(loss, pull)
        self.scaler.load_state_dict(meta["scaler"])
        self.spent = meta["seconds"]
        self.start_cost.forwards -= meta["cost"][0]
        self.start_cost.backwards -= meta["cost"][1]
