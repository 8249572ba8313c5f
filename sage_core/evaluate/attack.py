"""A white-box attack: learn word embeddings that make the erased model draw the concept again.

Textual inversion (Gal et al., arXiv 2208.01618) against an eraser is concept inversion (Pham et al., arXiv
2308.01508):

    v* = argmin_v  E || eps_erased(z_t, T(prompt with v), t) - noise ||^2

where z_t is noised from images of the concept made by the ORIGINAL model. Nothing of the erased word need be
used: starts are a neutral word and the concept's own tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..prompts.compose import compose_vectors, encode_vectors, own_vectors
from ..prompts.kinds import STYLE
from ..prompts.templates import DRAWING, fill, plainest_in_style, put
from ..spec import ErasureSpec

THING = "house"  # a style is attacked on one thing


def template_of(model: DiffusionModel, spec: ErasureSpec) -> str:
    """The attack's prompt with "{}" in place of the concept."""
    kind = spec.kind_of(model.knowledge.styles)
    if kind == STYLE:
        return plainest_in_style(THING, spec.concept, leave="style")
    return fill(DRAWING, spec.concept, kind=kind, leave="thing")


@dataclass(frozen=True)
class ConceptInversion:
    """steps and batch of the optimisation; rate: of Adam, in units of the embedding table's root mean square;
    vectors: free tokens in place of the name; latents: pictures of the concept to learn from; starts: words
    to start from; marks: steps after which what was learnt so far is kept too, for a curve.
    """

    steps: int = 150
    batch: int = 8
    rate: float = 0.1
    vectors: int = 2
    latents: int = 16
    solver_steps: int = 12
    starts: tuple[str, ...] = ("concept", "thing")
    marks: tuple[int, ...] = ()


@dataclass
class Found:
    """What one start led to: conditioning of the attack prompt under the erased model, its loss, where it
    started; `marks`: the conditionings on the way, by step.
    """

    cond: Conditioning
    loss: float
    start: str
    marks: dict[int, Conditioning] = field(default_factory=dict)


@torch.no_grad()
def concept_latents(
    model: DiffusionModel, spec: ErasureSpec, attack: ConceptInversion, seed: int
) -> torch.Tensor:
    """Clean latents [n, 4, h, w] of the concept; call it with the original model (adapter off)."""
    cond = model.encode([put(template_of(model, spec), spec.concept)] * attack.latents)
    return model.sample(cond, [70_000 + 1000 * seed + i for i in range(attack.latents)], attack.solver_steps)


def invert(
    model: DiffusionModel, latents: torch.Tensor, spec: ErasureSpec, attack: ConceptInversion, seed: int = 0
) -> list[Found]:
    """Run the attack from every start against the model as it is; strongest (lowest loss) first."""
    template, own = template_of(model, spec), {"concept": spec.concept}
    found = [_optimise(model, latents, template, own.get(s, s), attack, seed) for s in attack.starts]
    return sorted(found, key=lambda f: f.loss)


def _optimise(
    model: DiffusionModel,
    latents: torch.Tensor,
    template: str,
    start: str,
    attack: ConceptInversion,
    seed: int,
) -> Found:
    generator = torch.Generator().manual_seed(seed)
    text = model.text
    prompts = compose_vectors(text, attack.vectors, template)
    free = [v.requires_grad_(True) for v in own_vectors(text, start, attack.vectors)]
    scales = [b.square().mean().sqrt().item() for b in text.embed(prompts.tokens)]
    optimizer = torch.optim.Adam(
        [{"params": [v], "lr": attack.rate * scale} for v, scale in zip(free, scales)]
    )

    tail, marks = [], {}
    with torch.enable_grad():
        for step in range(attack.steps):
            index = torch.randint(len(latents), (attack.batch,), generator=generator)
            t = torch.randint(1000, (attack.batch,), generator=generator).to(model.device)
            noise = torch.randn(attack.batch, *latents.shape[1:], generator=generator).to(model.device)
            a = model.alphas[t].view(-1, 1, 1, 1)
            z = a.sqrt() * latents[index.to(model.device)] + (1 - a).sqrt() * noise
            eps = model.predict_noise(
                z, t, Conditioning.cat([encode_vectors(text, prompts, free)] * attack.batch)
            )
            loss = (eps - noise).square().mean()
            gradients = torch.autograd.grad(loss, free)
            for v, g in zip(free, gradients):
                v.grad = g
            optimizer.step()
            if step >= attack.steps * 3 // 4:
                tail.append(loss.item())
            if step + 1 in attack.marks:
                marks[step + 1] = encode_vectors(text, prompts, free).detach()
        return Found(
            encode_vectors(text, prompts, free).detach(), sum(tail) / max(1, len(tail)), start, marks
        )


def attack_images(
    model: DiffusionModel, cond: Conditioning, images: int, seed: int = 0, steps: int = 20
) -> torch.Tensor:
    """Pictures [n, 3, H, W] that the model draws for an attack's conditioning."""
    with torch.no_grad():
        return model.decode(
            model.sample(
                Conditioning.cat([cond] * images), [80_000 + 1000 * seed + i for i in range(images)], steps
            )
        )
