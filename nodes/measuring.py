"""What Erasure Report measures on a graph: ComfyUI's own sampler draws, the core judges and reports."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from . import attacking, bridge
from .core_model import core_model
from .pictures import to_tensor

if TYPE_CHECKING:
    from ..sage_core.evaluate.measure import Baseline, Evaluation

ATTACK_SEED = 80_000  # as the core draws an attack's pictures


@dataclass(frozen=True)
class Asked:
    """images: of each group. also: other words for the concept. attack_steps: 0 for no attack."""

    concept: str
    images: int
    seed: int
    size: int
    steps: int
    guidance: float
    also: tuple[str, ...] = ()
    attack_steps: int = 0


class InLatents:
    """The untouched model as the judge of latents that the sampler made: see sage_core/evaluate/judge.py.

    It needs no autoencoder of its own: it looks up the latents of the pictures that it is asked about.
    """

    def __init__(self, judge, latents: dict[str, torch.Tensor]):
        self.judge, self.latents = judge, latents
        self.name, self.cannot, self.expected = judge.name, judge.cannot, judge.expected

    def sees(self, images: torch.Tensor, expected: list[str], prompts) -> list[bool]:
        from ..sage_core.evaluate.kept import digest

        rows = torch.stack([self.latents[digest(image)] for image in images])
        return self.judge.sees_latents(rows, expected, prompts)


class _Sampler:
    """Draws with ComfyUI's sampler, counts steps, and keeps each picture's latents for the judge."""

    def __init__(self, vae, asked: Asked, messages, total: int):
        self.vae, self.asked, self.messages, self.total = vae, asked, messages, total
        self.done, self.latents = 0, {}

    def step(self) -> None:
        self.done += 1
        text = f"drawing before and after: step {self.done}/{self.total}"
        self.messages("report", min(self.done, self.total), self.total, text)

    def draw(self, graph, cond: list, seeds: list[int]) -> torch.Tensor:
        """Pictures [n, 3, H, W] in [-1, 1] of ComfyUI's conditioning: one row for all seeds, or one each."""
        from ..sage_core.evaluate.kept import digest, from_bytes, to_bytes

        asked = self.asked
        size = (asked.size, asked.size)
        latents = bridge.sample(*graph, cond, seeds, size, asked.steps, asked.guidance, self.step)
        images = from_bytes(to_bytes(bridge.decode(self.vae, latents).permute(0, 3, 1, 2) * 2 - 1))
        read = bridge.as_trained(graph[0], latents).cpu()
        self.latents |= {digest(image): row for image, row in zip(images, read)}
        return images

    def all(self, graph, prompts) -> torch.Tensor:
        """One picture for each of the prompts, as many at once as their size and length allow."""
        conds = {text: bridge.encode(graph[1], text) for text in dict.fromkeys(p.text for p in prompts)}
        by_length: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            by_length.setdefault(conds[prompt.text][0][0].shape[1], []).append(i)
        pictures: dict[int, torch.Tensor] = {}
        for index in by_length.values():
            for part in parts(index, self.asked.size):
                cond = bridge.rows([conds[prompts[i].text] for i in part])
                pictures |= dict(zip(part, self.draw(graph, cond, [prompts[i].seed for i in part])))
        return torch.stack([pictures[i] for i in range(len(prompts))])


def parts(index: list[int], size: int) -> list[list[int]]:
    """Split into what is drawn at once at that size in pixels."""
    from ..sage_core.diffusion.model import together

    side = together(size)
    return [index[i : i + side] for i in range(0, len(index), side)]


def measure(before, after, vae, asked: Asked, messages) -> Evaluation:
    """before, after: (MODEL, CLIP) each. Raises SageError for a model that the core does not know."""
    from ..sage_core.diffusion.model import together
    from ..sage_core.evaluate.further import Further
    from ..sage_core.evaluate.judge import ModelJudge
    from ..sage_core.evaluate.judges.choose import own_or_model
    from ..sage_core.evaluate.measure import Baseline
    from ..sage_core.spec import ErasureSpec

    spec = ErasureSpec(asked.concept)
    messages("report", 0, 1, "reading the model before the erasure")
    core = core_model(*before)
    core.pixels, core.at_once = asked.size, together(asked.size)
    with bridge.training(), torch.no_grad():
        judge = own_or_model(core, spec)
        prompts = judge.prompts(spec.concept, (), asked.images, asked.seed)
        prompts += Further(also=asked.also).prompts(core, spec, judge, prompts, asked.images, asked.seed)
    total = 2 * asked.steps * len(parts(list(range(len(prompts))), asked.size))
    sampler = _Sampler(vae, asked, messages, total)
    pictures = sampler.all(before, prompts)
    erased = sampler.all(after, prompts)
    found = [_attacked(sampler, before, graph, asked) for graph in (before, after) if asked.attack_steps]
    if isinstance(judge, ModelJudge):
        core.to(bridge.device())
        judge = InLatents(judge, sampler.latents)
    base = Baseline(judge, prompts, pictures)
    with bridge.training(), torch.no_grad():
        evaluation = _report(core, base, erased, spec, messages, found, asked)
    del core
    gc.collect()
    bridge.free_memory()
    return evaluation


def _attacked(sampler: _Sampler, before, graph, asked: Asked) -> torch.Tensor:
    """What the model draws for the words that the quick attack learns against it."""
    from ..sage_core.evaluate.attacks.inversion import ConceptInversion

    quick = ConceptInversion()
    cond, _ = attacking.attack(
        before,
        graph,
        asked.concept,
        quick.starts,
        asked.attack_steps,
        quick.vectors,
        asked.seed,
        asked.size,
        sampler.messages,
    )
    seeds = [ATTACK_SEED + 1000 * asked.seed + i for i in range(asked.images)]
    return torch.cat([sampler.draw(graph, cond, part) for part in parts(seeds, asked.size)])


def _report(core, base: Baseline, erased, spec, messages, found, asked: Asked) -> Evaluation:
    """The report of the command line, as far as a graph tells: not how the erasure was made."""
    from ..sage_core.evaluate.kept import Kept
    from ..sage_core.evaluate.measure import (
        Evaluation,
        about_judge,
        drift,
        intervals,
        judge_original,
        shares,
    )

    def looked(event) -> None:
        messages("report", event.step, event.total, f"looking for {spec.concept}: {event.step}/{event.total}")

    kept = Kept(on_part=looked)
    judge_original(base, spec, kept)
    seen = _verdicts(base, erased, kept)
    report = {
        "spec": {"concept": spec.concept},
        "before": shares(base.prompts, base.seen) | {"attacked": None},
        "after": shares(base.prompts, seen) | {"attacked": None},
        "interval": intervals(base.prompts, seen),
        "judge": about_judge(base),
        "drift": drift(base.prompts, base.pictures, erased),
        "images": 2 * len(base.prompts) + sum(map(len, found)),
        "model": {"source": core.source, "sha256": core.fingerprint},
    }
    both = list(zip(base.seen, seen))
    evaluation = Evaluation(report, base.prompts, base.pictures, erased, None, both)
    if found:
        _add_attack(evaluation, base, spec, found, asked)
    return evaluation


def _verdicts(base: Baseline, images: torch.Tensor, kept) -> list[bool | None]:
    from ..sage_core.evaluate.kept import judged

    return judged(base.judge, images, [p.expected for p in base.prompts], base.prompts, kept)


def _add_attack(
    evaluation: Evaluation, base: Baseline, spec, found: list[torch.Tensor], asked: Asked
) -> None:
    """The quick attack's success before and after, as report["attacks"] has it."""
    from ..sage_core.evaluate.attacks.inversion import ConceptInversion
    from ..sage_core.evaluate.attacks.success import Outcome, sees_concept
    from ..sage_core.evaluate.measure import about_attack

    quick = ConceptInversion(steps=asked.attack_steps)
    sees = sees_concept(base.judge, spec.concept, next(p for p in base.prompts if p.cell == "concept"))
    before, after = (round(sum(sees(images)) / asked.images, 4) for images in found)
    base.untouched[quick.name] = {asked.attack_steps: before}
    report = evaluation.report
    report["before"]["attacked"], report["after"]["attacked"] = before, after
    report["attacked_by"] = quick.name
    outcome = Outcome(quick, {asked.attack_steps: after})
    report["attacks"] = {quick.name: about_attack(outcome, base, asked.images)}
    evaluation.attacked = found[1]


def save(evaluation: Evaluation, output: Path) -> tuple[str, torch.Tensor, Path]:
    """(the table, the contact sheet [1, H, W, 3], the page). An earlier report's file is never replaced."""
    from ..sage_core.evaluate.page.document import document
    from ..sage_core.evaluate.page.shown import Shown
    from ..sage_core.evaluate.pictures import picture
    from ..sage_core.evaluate.report import table
    from ..sage_core.files import slug, write_text

    stem, number = slug(evaluation.report["spec"]["concept"]), 1
    while (path := output / f"report-{stem}-{number:05}.html").exists():
        number += 1
    write_text(path, document([Shown.of(evaluation)]))
    return table(evaluation.report), to_tensor(picture(evaluation)), path
