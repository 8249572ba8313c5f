"""The cycle of self-check and self-erasure: erase(model, spec, on_event) -> Erasure."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..cycle import state as saved
from ..diffusion.cost import Cost
from ..diffusion.model import DiffusionModel
from ..errors import OutOfMemory, SageError, is_out_of_memory, told
from ..files import remove
from ..lora.adapter import Adapter
from ..lora.surfaces import surface_layers
from ..methods.context import Context
from ..methods.states import Rows, States
from ..methods.table import METHODS, Method, Training
from ..progress import Event
from ..prompts.words import other_styles, retained_words
from ..spec import ErasureSpec
from .descent import descend
from .latents import FreshTrajectories, LatentBank, build_bank
from .watch import Watch, on_the_way

HALF_SCALE = 2.0**12


@dataclass
class Erasure:
    """The result.

    `adapter` hangs on the model (`.remove()` takes it off); `losses`: one dict a step; `state`: the finished
    run's saved state, which `save` deletes; `dtype`: of the file; `left`: (steps done, share of the concept
    that was left) of every look, the first of them the untouched model's, (0, 1.0); `looked`: the UNet passes
    of the looks, which `cost` does not count.
    """

    spec: ErasureSpec
    adapter: Adapter
    losses: list[dict[str, float]]
    cost: Cost
    seconds: float
    state: Path | None = None
    dtype: torch.dtype = torch.float16
    left: list[tuple[int, float]] = field(default_factory=list)
    looked: Cost = field(default_factory=Cost)

    def save(
        self, path: Path, model: DiffusionModel, title: str | None = None, result: dict | None = None
    ) -> Path:
        """Write the LoRA file, atomically and with the whole spec in its metadata."""
        from ..lora.file import write_lora
        from ..lora.metadata import LEFT_KEY, LOSSES_KEY, metadata_for

        metadata = metadata_for(model, self.spec.to_json(), title or path.stem, result)
        metadata[LOSSES_KEY] = json.dumps(
            [{k: float(f"{v:.4g}") for k, v in step.items()} for step in self.losses]
        )
        if self.left:
            metadata[LEFT_KEY] = json.dumps([[step, round(share, 4)] for step, share in self.left])
        write_lora(path, self.adapter, metadata, self.dtype)
        if self.state is not None:
            remove(self.state)
        return path


def latent_bank(
    context: Context, training: Training, rng: random.Random, on_event: Callable[[Event], None]
) -> LatentBank:
    """The bank of this run: the erased names in turn, and retained prompts drawn without repetition where
    possible.
    """
    # A short run does not draw more stops than its steps can use.
    useful = math.ceil(training.steps * training.erase_batch / training.solver_steps)
    shown = (
        max(training.trajectories, len(context.names)) if training.trajectories else 0
    )  # every name is seen
    scenes = context.scenes(rng, min(shown, useful))
    names = [context.names[i % len(context.names)] for i in range(len(scenes))]
    concept = [context.plain(name, scene) for name, scene in zip(names, scenes)]
    neutral = [context.neutral(scene, name) for name, scene in zip(names, scenes)]
    retained = min(training.retain_trajectories, 4 * useful)
    words = retained_bank_words(context, rng, retained, training.adjacent)
    retain = context.retained_prompts(rng, rng.sample(words, len(words)), scenes)
    seeds = [rng.randrange(2**31) for _ in range(len(concept) + len(retain))]
    with context.adapter.off():
        return build_bank(
            context.model,
            concept,
            retain,
            seeds,
            training.solver_steps,
            training.guidance,
            lambda done, total: on_event(Event("bank", done, total)),
            neutral_prompts=neutral,
            scenes=scenes,
            dealt=training.dealt,
        )


def retained_bank_words(context: Context, rng: random.Random, count: int, adjacent: float) -> list[str]:
    """Words for the retained trajectories: a share of them adjacent to the concept, where erasing does its
    damage (FADE, arXiv 2503.19783), the others drawn from all.
    """
    close = context.nearest() if adjacent else []
    first = rng.sample(close, min(len(close), round(adjacent * count)))
    rest = [w for w in context.retained if w not in first] or first
    drawn = sum((rng.sample(rest, len(rest)) for _ in range(1 + count // len(rest))), [])
    return [*first, *drawn][:count]


def erase(
    model: DiffusionModel,
    spec: ErasureSpec,
    on_event: Callable[[Event], None] | None = None,
    state: Path | None = None,
    resume: bool = False,
    save_every: float = 10.0,
    looks: bool = False,
) -> Erasure:
    """Run the cycle, or the closed form of a method that has one.

    Same spec, model and device: the same tensors.

    on_event hears of every step and may raise (errors.Cancelled, a host's own interrupt) to stop; the model
    is left clean. state: file for the run's state, written every `save_every` seconds and deleted by
    Erasure.save; resume: go on from it. looks: draw the concept now and then, and report how much of it is
    left (see left.py). Raises SageError on bad input and where the loss is no number any more.
    """
    spec = spec.resolved(model.knowledge.styles)
    model.knowledge.check([spec.concept, *spec.synonyms])
    method, on_event = METHODS[spec.method], on_event or (lambda event: None)
    generator = torch.Generator().manual_seed(spec.seed)
    layers = {
        k: v
        for k, v in surface_layers(model, spec.surface).items()
        if any(part in k for part in method.layers)
    }
    adapter = Adapter.create(layers, spec.rank, spec.alpha, generator)
    pixels, model.pixels = model.pixels, spec.resolution or model.pixels
    try:
        with torch.enable_grad():
            if method.closed is not None:
                return solve(model, spec, method, adapter, on_event, looks)
            return Run(model, spec, method, adapter, generator, on_event, state, save_every, looks)(resume)
    except BaseException as error:
        adapter.remove()
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"The memory was not enough to erase {spec.concept!r} ({told(error)}); free some, or train at"
                f" a smaller resolution than {model.pixels}. It can be gone on with from the last saved"
                " state."
            ) from error
        raise
    finally:
        model.pixels = pixels


def solve(
    model: DiffusionModel,
    spec: ErasureSpec,
    method: Method,
    adapter: Adapter,
    on_event: Callable[[Event], None],
    looks: bool = False,
) -> Erasure:
    """A closed form: no steps, no UNet pass."""
    start, before = time.monotonic(), dataclasses.replace(model.cost)
    context = build_context(model, spec, adapter)
    watch = watch_over(context, on_event) if looks else None
    if watch is not None:
        watch.begin()
    losses = method.closed(context, spec.steps)
    if watch is not None:
        watch.look(len(losses), len(losses))
    on_event(Event("done", len(losses), len(losses), losses[-1], 0.0, left=watch and watch.curve[-1][1]))
    cost = Cost(model.cost.forwards - before.forwards, model.cost.backwards - before.backwards)
    rank = max(len(down) for down in adapter.down.values())
    spec = dataclasses.replace(spec, rank=rank, alpha=float(rank))
    erasure = Erasure(
        spec, adapter, losses, cost, time.monotonic() - start, dtype=torch.float32
    )  # exact, so not rounded
    return noted(erasure, watch)


def watch_over(context: Context, on_event: Callable[[Event], None]) -> Watch:
    """A watch whose looks are events."""
    return Watch(
        context,
        lambda step, total, share, latents: on_event(Event("look", step, total, left=share, latents=latents)),
    )


def noted(erasure: Erasure, watch: Watch | None) -> Erasure:
    """With what the watch saw."""
    if watch is not None:
        erasure.left, erasure.looked = watch.curve, watch.cost
    return erasure


class Run:
    """One erasure in progress."""

    def __init__(
        self,
        model,
        spec: ErasureSpec,
        method: Method,
        adapter: Adapter,
        generator,
        on_event,
        state,
        save_every,
        looks: bool = False,
    ):
        self.model, self.spec, self.method, self.adapter = model, spec, method, adapter
        self.training = dataclasses.replace(
            method.trained(spec.faithful), steps=spec.steps, learning_rate=spec.learning_rate, rank=spec.rank
        )
        # Every concept has draws of its own: with the same ones, LoRAs that are stacked would all push the
        # same way.
        self.generator, self.rng, self.on_event = (
            generator,
            random.Random(f"{spec.seed} {spec.concept}"),
            on_event,
        )
        self.state_path, self.save_every = state, save_every
        self.optimizer = torch.optim.Adam(
            adapter.parameters(), lr=spec.learning_rate, betas=(0.9, self.training.beta2)
        )
        # In half precision most gradients would be smaller than its smallest number (Micikevicius et al.,
        # arXiv 1710.03740).
        self.scale = HALF_SCALE if model.dtype == torch.float16 else 1.0
        self.context = build_context(model, spec, adapter, self.training.styled)
        self.domain = method.domain.start(self.context)
        target = (
            dataclasses.replace(method.target, eta=spec.eta)
            if hasattr(method.target, "eta")
            else method.target
        )
        self.target = self.context.target = target.start(
            self.context
        )  # before the terms, which may share its state
        self.retention = [term.start(self.context) for term in method.retention]
        self.losses: list[dict[str, float]] = []
        self.pulls: list[tuple[float, float]] = []  # a step: the erasing loss, and the frozen model's
        self.watch = watch_over(self.context, on_event) if looks else None
        self.erased_at: int | None = None
        self.start_cost = dataclasses.replace(model.cost)
        self.spent = 0.0  # seconds of the run before it was resumed

    def __call__(self, resume: bool) -> Erasure:
        self.started = time.monotonic()
        if self.watch is not None:
            self.watch.begin()
        if not (resume and saved.restore(self)):
            if self.method.warm is not None and any(
                name.endswith(self.method.warm.layers) for name in self.adapter.layers
            ):
                self.method.warm(self.context, 1)
            self.context.source = self.make_source()
            self.save_state()  # the bank takes long
        begun, first = (
            time.monotonic(),
            len(self.losses),
        )  # steps of a run before it was resumed took other time
        written = begun
        while len(self.losses) < self.total():
            self.losses.append(self.step())
            done, total = len(self.losses), self.total()
            eta = (time.monotonic() - begun) / (done - first) * (total - done)
            self.on_event(Event("erase", done, total, self.losses[-1], eta, self.leak(), self.left_now()))
            if done < total and done % self.look_every() == 0:
                self.look()
            if time.monotonic() - written >= self.save_every:
                self.save_state()
                written = time.monotonic()
        self.save_state()  # until the file is there, a finished run can be lost as well
        self.adapter.round_(torch.float16)
        self.look()
        self.on_event(
            Event("done", len(self.losses), len(self.losses), self.losses[-1], 0.0, left=self.left_now())
        )
        erasure = Erasure(self.spec, self.adapter, self.losses, self.cost(), self.seconds(), self.state_path)
        return noted(erasure, self.watch)

    def look(self) -> None:
        """Draw the concept and note how much of it is left, if that was asked for."""
        if self.watch is not None:
            self.watch.look(len(self.losses), self.total())

    def look_every(self) -> int:
        """Steps between two looks."""
        return math.ceil(self.training.steps / (1 + on_the_way(self.training.steps)))

    def left_now(self) -> float | None:
        return None if self.watch is None else self.watch.curve[-1][1]

    def save_state(self) -> None:
        """Where there is a file for it."""
        if self.state_path is not None:
            saved.write(self)

    def make_source(self) -> LatentBank | FreshTrajectories:
        """A bank walked now, or, faithful to the papers' code, a fresh trajectory at every step."""
        if not self.training.fresh:
            return latent_bank(self.context, self.training, self.rng, self.on_event)
        return FreshTrajectories(self.context, self.training.solver_steps, self.training.guidance)

    def pull_left(
        self, erase: Rows | torch.Tensor, states: States | None, predicted: torch.Tensor | None
    ) -> tuple[float, float]:
        """The erasing loss of this step, and what it would be with the frozen model."""
        if not isinstance(erase, Rows):
            return erase.item(), 1.0  # losses in text space are relative already
        rows = self.measured(len(erase.z))
        return erase.loss(predicted, rows).item(), max(1e-12, erase.loss(states.eps_concept, rows).item())

    def note_pull(self, loss: float, pull: float) -> None:
        """Remember them, and the first step after which the residual was low enough."""
        self.pulls.append((loss, pull))
        if (
            self.erased_at is None
            and len(self.pulls) >= self.training.window
            and self.residual() < self.training.enough
        ):
            self.erased_at = len(self.pulls)

    def residual(self) -> float:
        """The erasing loss over the last steps in units of the frozen model's.

        A ratio of sums: single steps near the end of a trajectory, where the concept pulls little, would
        drown a mean of ratios.
        """
        last = self.pulls[-self.training.window :]
        return sum(loss for loss, _ in last) / sum(pull for _, pull in last)

    def total(self) -> int:
        """How many steps there will be, as far as is known now."""
        return (
            self.training.steps
            if self.erased_at is None
            else min(self.training.steps, self.erased_at + self.training.settle)
        )

    def leak(self) -> float | None:
        pool = getattr(self.domain, "pool", [])
        return pool[0].leak if pool else None

    def cost(self) -> Cost:
        now = self.model.cost
        return Cost(now.forwards - self.start_cost.forwards, now.backwards - self.start_cost.backwards)

    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.started

    def parts(self) -> list:
        """Everything with a state of its own that a saved run must hold."""
        return [p for p in (self.domain, self.target, *self.retention) if hasattr(p, "tensors")]

    def step(self) -> dict[str, float]:
        """Self-check, then one optimiser step: L = L_erase + lambda_g L_global + lambda_l L_local."""
        self.set_rate()
        states, erase = self.erasing()
        terms = {"erase": erase} | {
            type(t.config).__name__.lower(): t(self.rng, self.generator) for t in self.retention
        }
        self.optimizer.zero_grad()
        losses, predicted = descend(self.model, terms, self.scale)
        self.note_pull(*self.pull_left(erase, states, predicted.get("erase")))
        values = {k: v.item() for k, v in losses.items()} | {"total": sum(losses.values()).item()}
        self.update(values)
        return values

    def update(self, values: dict[str, float]) -> None:
        """Move the adapter, and what the domain learns, by the gradients; not where only half precision's
        range was too small for them.
        """
        if self.scale > 1:
            for p in self.adapter.parameters():
                if p.grad is not None:
                    p.grad /= self.scale
        norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0).item()
        if self.scale > 1 and not math.isfinite(norm):
            self.scale /= 8
            return
        self.check(values | {"gradient": norm})
        self.optimizer.step()
        if hasattr(self.domain, "learn"):
            self.domain.learn()

    def check(self, values: dict[str, float]) -> None:
        """Raises SageError where one is no number: nothing of this step goes into the weights."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise SageError(
                    f"At step {len(self.losses) + 1} the {name} was {value}: the run diverged. Use a lower"
                    f" learning rate than {self.spec.learning_rate:g}, or wider numbers than"
                    f" {str(self.model.dtype).removeprefix('torch.')}; the last good state is kept for"
                    " --resume."
                )

    def set_rate(self) -> None:
        """Linearly up over the first `warmup` steps, and down to a tenth over the last `settle`, so that they
        settle.
        """
        rise = (1 + len(self.losses)) / max(1, self.training.warmup)
        fall = 0.1 + 0.9 * (self.total() - len(self.losses)) / max(1, self.training.settle)
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * min(1.0, rise, fall)

    def erasing(self) -> tuple[States | None, Rows | torch.Tensor]:
        """What the domain found, on its way to the target: rows for the UNet batch and the states they are
        of, or a loss in text space.
        """
        states = (
            self.context.source.concept(self.rng, self.training.erase_batch)
            if self.training.trajectories or self.training.fresh
            else None
        )
        scenes = (
            states.scenes if states is not None else self.context.scenes(self.rng, self.training.erase_batch)
        )
        found = self.domain(self.rng, self.generator, scenes)
        return states, self.target(states, found, self.rng, self.generator)

    def measured(self, samples: int) -> slice:
        """The samples of a step from which the residual is read: plain prompts, where the domain has some and
        says which.
        """
        rows = self.domain.plain_rows(samples) if hasattr(self.domain, "plain_rows") else slice(None)
        return rows if rows.start is None or rows.start < samples else slice(None)


def build_context(model: DiffusionModel, spec: ErasureSpec, adapter: Adapter, styled: float = 0.0) -> Context:
    names = [spec.concept, *(s for s in spec.synonyms if s != spec.concept)]
    with adapter.off():
        retained = retained_words(model, names, spec.retain)
    kind = spec.kind_of(model.knowledge.styles)
    return Context(model, adapter, names, retained, kind, other_styles(model, names), styled)
