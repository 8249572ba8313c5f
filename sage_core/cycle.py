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

from . import state as saved
from .adapters import Adapter, surface_layers
from .diffusion.model import Cost, DiffusionModel
from .diffusion.text import Conditioning
from .domain.prompts import compose, meaning
from .errors import SageError
from .latents import LatentBank, Rows, build_bank
from .methods import METHODS, Method, Training
from .retention.words import TEMPLATES, retained_words
from .spec import ErasureSpec


@dataclass(frozen=True)
class Event:
    """What happens. phase: "bank", "erase" or "done"; `losses`: of this step by name; `eta`: seconds that remain; `leak`: how
    like the concept the strongest prompt that the search knows still is (cosine; None where nothing is searched); `residual`:
    the share of the concept's pull that is left, 1 before and 0 after. `total` falls when the cycle finds that it is done."""

    phase: str
    step: int
    total: int
    losses: dict[str, float] = field(default_factory=dict)
    eta: float | None = None
    leak: float | None = None
    residual: float | None = None


@dataclass
class Erasure:
    """The result. `adapter` hangs on the model (`.remove()` takes it off); `losses`: one dict a step; `state`: the finished run's
    saved state, which `save` deletes."""

    spec: ErasureSpec
    adapter: Adapter
    losses: list[dict[str, float]]
    cost: Cost
    seconds: float
    state: Path | None = None

    def save(self, path: Path, model: DiffusionModel, title: str | None = None, result: dict | None = None) -> Path:
        """Write the LoRA file, atomically and with the whole spec in its metadata."""
        from .lora import LOSSES_KEY, metadata_for, write_lora

        metadata = metadata_for(model.family, self.spec.to_json(), title or path.stem, model.source, model.fingerprint, model.velocity, result)
        metadata[LOSSES_KEY] = json.dumps([{k: float(f"{v:.4g}") for k, v in step.items()} for step in self.losses])
        write_lora(path, self.adapter, metadata)
        if self.state is not None:
            self.state.unlink(missing_ok=True)
        return path


@dataclass
class Context:
    """What the three choices may see: the model, its adapter, the erased names, the retained words, the bank."""

    model: DiffusionModel
    adapter: Adapter
    names: list[str]
    retained: list[str]
    bank: LatentBank | None = None
    _meanings: dict[str, torch.Tensor] = field(default_factory=dict)
    _empty_end: torch.Tensor | None = None

    @property
    def empty_end(self) -> torch.Tensor:
        """The frozen encoder's end state of the empty prompt, the origin from which meanings are measured; [width]."""
        if self._empty_end is None:
            with torch.no_grad(), self.adapter.off():
                self._empty_end = self.model.encode([""]).hidden[0, 1].float()
        return self._empty_end

    def meaning_of(self, name: str) -> torch.Tensor:
        """What the frozen encoder says of the bare name: [1, positions, width]."""
        if name not in self._meanings:
            with torch.no_grad(), self.adapter.off():
                prompts = compose(self.model.text, name, ["{}"])
                self._meanings[name] = meaning(self.model.text.encode(prompts.tokens).hidden, prompts.read, self.empty_end)
        return self._meanings[name]

    def retained_prompt(self, rng: random.Random) -> str:
        """A retained word in a plain template."""
        return rng.choice(TEMPLATES).format(rng.choice(self.retained))


def check_vocabulary(model: DiffusionModel, names: list[str]) -> None:
    """The bundled model can draw a fixed list of things; a word outside it cannot be erased from it."""
    if not model.is_demo:
        return
    from .demo import vocabulary

    for name in names:
        if vocabulary.find(name) is None:
            examples = ", ".join(vocabulary.names()[:8])
            raise SageError(f"The bundled model cannot draw {name!r}; choose one of its {len(vocabulary.names())} concepts, such as {examples}.")


def build_context(model: DiffusionModel, spec: ErasureSpec, adapter: Adapter) -> Context:
    names = [spec.concept, *(s for s in spec.synonyms if s != spec.concept)]
    with adapter.off():
        retained = retained_words(model, names, spec.retain)
    return Context(model, adapter, names, retained)


def latent_bank(context: Context, training: Training, rng: random.Random, on_event: Callable[[Event], None]) -> LatentBank:
    """The bank of this run: the erased names in turn, and retained prompts drawn without repetition where possible."""
    # A short run does not draw more stops than its steps can use.
    useful = math.ceil(training.steps * training.erase_batch / training.solver_steps)
    concept = [context.names[i % len(context.names)] for i in range(min(training.trajectories, useful))]
    retained = min(training.retain_trajectories, 4 * useful)
    words = [rng.sample(context.retained, len(context.retained)) for _ in range(1 + retained // len(context.retained))]
    retain = [rng.choice(TEMPLATES).format(w) for w in sum(words, [])[:retained]]
    seeds = [rng.randrange(2**31) for _ in range(len(concept) + len(retain))]
    with context.adapter.off():
        return build_bank(context.model, concept, retain, seeds, training.solver_steps, training.guidance,
                          lambda done, total: on_event(Event("bank", done, total)))


def erase(model: DiffusionModel, spec: ErasureSpec, on_event: Callable[[Event], None] | None = None, state: Path | None = None,
          resume: bool = False, save_every: float = 10.0) -> Erasure:
    """Run the cycle. Same spec, model and device: the same tensors.

    on_event hears of every step and may raise (errors.Cancelled, a host's own interrupt) to stop; the model is left clean.
    state: file for the run's state, written every `save_every` seconds and deleted by Erasure.save; resume: go on from it.
    Raises SageError on bad input and where the loss is no number any more.
    """
    spec = spec.resolved()
    check_vocabulary(model, [spec.concept, *spec.synonyms])
    method = METHODS[spec.method]
    generator = torch.Generator().manual_seed(spec.seed)
    adapter = Adapter.create(surface_layers(model, spec.surface), spec.rank, spec.alpha, generator)
    pixels, model.pixels = model.pixels, spec.resolution or model.pixels
    try:
        with torch.enable_grad():
            run = Run(model, spec, method, adapter, generator, on_event or (lambda event: None), state, save_every)
            return run(resume)
    except BaseException:
        adapter.remove()
        raise
    finally:
        model.pixels = pixels


class Run:
    """One erasure in progress."""

    def __init__(self, model, spec: ErasureSpec, method: Method, adapter: Adapter, generator, on_event, state, save_every):
        self.model, self.spec, self.method, self.adapter = model, spec, method, adapter
        self.training = dataclasses.replace(method.training, steps=spec.steps, learning_rate=spec.learning_rate, rank=spec.rank)
        self.target = dataclasses.replace(method.target, eta=spec.eta)
        self.generator, self.rng, self.on_event = generator, random.Random(spec.seed), on_event
        self.state_path, self.save_every = state, save_every
        self.optimizer = torch.optim.Adam(adapter.parameters(), lr=spec.learning_rate)
        self.context = build_context(model, spec, adapter)
        self.domain = method.domain.start(self.context)
        self.retention = [term.start(self.context) for term in method.retention]
        self.pull = 1.0
        self.losses: list[dict[str, float]] = []
        self.residuals: list[float] = []
        self.erased_at: int | None = None
        self.start_cost = dataclasses.replace(model.cost)
        self.spent = 0.0  # seconds of the run before it was resumed

    def __call__(self, resume: bool) -> Erasure:
        start = self.started = time.monotonic()
        if not (resume and saved.restore(self)):
            self.context.bank = latent_bank(self.context, self.training, self.rng, self.on_event)
        written = time.monotonic()
        while len(self.losses) < self.total():
            self.losses.append(self.step())
            done, total = len(self.losses), self.total()
            eta = (time.monotonic() - start) / done * (total - done)
            self.on_event(Event("erase", done, total, self.losses[-1], eta, self.leak(), self.residuals[-1]))
            if self.state_path is not None and time.monotonic() - written >= self.save_every:
                saved.write(self)
                written = time.monotonic()
        if self.state_path is not None:
            saved.write(self)  # until the file is there, a finished run can be lost as well
        self.adapter.round_(torch.float16)
        self.on_event(Event("done", len(self.losses), len(self.losses), self.losses[-1], 0.0))
        return Erasure(self.spec, self.adapter, self.losses, self.cost(), self.seconds(), self.state_path)

    def note_residual(self, value: float) -> None:
        """Remember it, and the first step after which it was low enough for long enough."""
        self.residuals.append(value)
        n = self.training.window
        if self.erased_at is None and len(self.residuals) >= n and sum(self.residuals[-n:]) / n < self.training.enough:
            self.erased_at = len(self.residuals)

    def total(self) -> int:
        """How many steps there will be, as far as is known now."""
        return self.training.steps if self.erased_at is None else min(self.training.steps, self.erased_at + self.training.settle)

    def leak(self) -> float | None:
        pool = getattr(self.domain, "pool", [])
        return pool[0].leak if pool else None

    def cost(self) -> Cost:
        now = self.model.cost
        return Cost(now.forwards - self.start_cost.forwards, now.backwards - self.start_cost.backwards)

    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.started

    def step(self) -> dict[str, float]:
        """Self-check, then one optimiser step: L = L_erase + lambda_g L_global + lambda_l L_local."""
        self.set_rate()
        terms = {"erase": self.erase_rows()} | {type(t.config).__name__.lower(): t(self.rng, self.generator) for t in self.retention}
        losses = self.noise_losses({k: v for k, v in terms.items() if isinstance(v, Rows)})
        self.note_residual(losses["erase"].item() / self.pull)
        losses |= {k: v for k, v in terms.items() if not isinstance(v, Rows)}
        total = sum(losses.values())
        values = {k: v.item() for k, v in losses.items()} | {"total": total.item()}
        if not all(map(_finite, values.values())):
            bad = next(k for k, v in values.items() if not _finite(v))
            raise SageError(f"The loss {bad!r} was {values[bad]} at step {len(self.losses) + 1}: the run diverged; use a lower learning rate than "
                            f"{self.spec.learning_rate:g} (the last good state is kept for --resume).")
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimizer.step()
        return values

    def set_rate(self) -> None:
        """Full rate at first, then linearly down to a tenth over the last `settle` steps, so that they settle."""
        x = (self.total() - len(self.losses)) / max(1, self.training.settle)
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * min(1.0, 0.1 + 0.9 * x)

    def erase_rows(self) -> Rows:
        """States of the bank, half of them under what the domain found, half under plain prompts of the concept's own names."""
        n, bank = self.training.erase_batch, self.context.bank
        index = torch.tensor([self.rng.randrange(len(bank.erase_t)) for _ in range(n)]).to(bank.erase_z.device)
        found = self.domain(self.rng, self.generator, n - n // 2)
        plain = self.model.encode([self.rng.choice(TEMPLATES).format(self.rng.choice(self.context.names)) for _ in range(n // 2)]) if n > 1 else found[:0]
        target = self.target(bank.eps_concept[index], bank.eps_empty[index])
        self.pull = max(1e-12, (bank.eps_concept[index] - target).square().mean().item())  # the erasing loss of the frozen model
        return Rows(bank.erase_z[index], bank.erase_t[index], Conditioning.cat([found, plain]), target, 1.0)

    def noise_losses(self, rows: dict[str, Rows]) -> dict[str, torch.Tensor]:
        """Weighted mean squared errors of all rows, from ONE UNet batch."""
        parts = list(rows.values())
        eps = self.model.predict_noise(torch.cat([r.z for r in parts]), torch.cat([r.t for r in parts]), Conditioning.cat([r.cond for r in parts]))
        split = eps.split([len(r.z) for r in parts])
        return {name: r.weight * (e - r.target).square().mean() for (name, r), e in zip(rows.items(), split)}


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
