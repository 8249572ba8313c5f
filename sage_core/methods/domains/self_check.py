"""SAGE's self-check: find prompts that the encoder in training still encodes as the concept (arXiv
2506.09363).

Inside-out: the search starts from real prompts with the concept in them and moves only the TEMPLATE words'
embeddings. The authors published neither code nor equations that could be read; this is our reconstruction of
them:

    maximise  cos(T(tau_p), T0(c)) - beta relu(m - cos(T0(tau_p), T0(c)))

The first term is the leak, the second keeps the prompt inside what the original encoder calls the concept. No
UNet pass.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import torch

from ...diffusion.text import Conditioning, TextStack, Tokens
from ...prompts.compose import ConceptPrompts, compose, likeness, meaning
from ...prompts.templates import concept_templates
from ..base import Domain, DomainPart
from ..context import Context


@dataclass(frozen=True)
class SelfCheck(Domain):
    """steps: normalised-gradient steps a cycle (0: the templates as they are); stride: length of a step in
    units of an embedding's norm; margin m and beta: as in the equation; attacks: prompts searched a cycle;
    pool: how many of the strongest are kept; plain: the share of the samples that are the concept's names in
    plain templates; random: replace every gradient by a random direction (the outside-in ablation).
    """

    steps: int = 6
    stride: float = 0.6
    margin: float = 0.4
    beta: float = 1.0
    attacks: int = 2
    pool: int = 8
    plain: float = 0.5
    random: bool = False

    def start(self, context: Context) -> SelfCheckSearch:
        return SelfCheckSearch(self, context)


@dataclass(eq=False)
class Attack:
    """A found prompt: free embeddings for its real tokens, template words moved.

    `leak`: how much still shows.
    """

    name: str
    prompts: ConceptPrompts
    embeddings: list[torch.Tensor]
    scene: str | None = None
    leak: float = 1.0

    def conditioning(self, text: TextStack) -> Conditioning:
        """T(tau_p) over all 77 tokens, as the UNet reads it."""
        padded = []
        for own, whole in zip(self.embeddings, text.embed(self.prompts.tokens)):
            padded.append(torch.cat([own, whole[:, own.shape[1] :]], dim=1))
        return text.encode(self.prompts.tokens, padded)


@dataclass
class SelfCheckSearch(DomainPart):
    """The search's state over one run: the pool of the strongest attacks so far."""

    config: SelfCheck
    context: Context
    pool: list[Attack] = field(default_factory=list)

    def __call__(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> Conditioning:
        """Conditionings that still mean the concept, one a scene: fresh finds T(tau_p), the pool's strongest,
        plain prompts last.
        """
        plain = min(len(scenes) - 1, round(self.config.plain * len(scenes)))
        found = self.found(rng, generator, scenes[: len(scenes) - plain])
        names = [self.context.erased_prompt(rng, scene) for scene in scenes[len(scenes) - plain :]]
        return found if not plain else Conditioning.cat([found, self.context.model.encode(names)])

    def found(self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]) -> Conditioning:
        """The search's prompts, one a scene, encoded with the current adapter."""
        fresh = self.search(rng, generator, scenes)
        self.pool = sorted([*self.refreshed(), *fresh], key=lambda a: -a.leak)[: self.config.pool]
        known = [*fresh, *(a for a in self.pool if a not in fresh)]
        chosen, uses = [], {id(a): 0 for a in known}
        for scene in (
            scenes
        ):  # the least used one that shows this very scene: a style's prompt must not change what it shows
            attack = min((a for a in known if a.scene == scene), key=lambda a: uses[id(a)])
            uses[id(attack)] += 1
            chosen.append(attack)
        return Conditioning.cat([a.conditioning(self.context.model.text) for a in chosen])

    def search(
        self, rng: random.Random, generator: torch.Generator, scenes: list[str | None]
    ) -> list[Attack]:
        """One cycle of the search, from `attacks` random templates, or from one for each of a style's
        scenes.
        """
        context, config = self.context, self.config
        name, shown = (
            context.any_name(rng),
            ([None] * config.attacks if scenes[0] is None else list(dict.fromkeys(scenes))),
        )
        if scenes[0] is None:
            templates = rng.sample(concept_templates(name, context.kind), config.attacks)
        else:
            templates = [context.template(rng, scene, name) for scene in shown]
        prompts = compose(context.model.text, name, templates)
        for row, scene in enumerate(shown):
            if scene is not None:  # what a style is shown on must stay what it is
                prompts.template[row] &= ~torch.isin(
                    prompts.tokens.ids[0][row],
                    torch.tensor(context.model.text.words(scene)).to(prompts.template.device),
                )
        start = context.model.text.embed(prompts.tokens.trimmed())
        moved, leak = start, torch.ones(len(prompts))
        for _ in range(config.steps):
            moved, leak = self.step(prompts, moved, name, generator)
        return [Attack(name, *_row(prompts, moved, i), shown[i], float(leak[i])) for i in range(len(prompts))]

    def objective(
        self, prompts: ConceptPrompts, embeddings: list[torch.Tensor], name: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The equation above and its first term, the leak; both [batch]."""
        leak = self.likeness_to(name, prompts, embeddings)
        with self.context.adapter.off():
            inside = self.likeness_to(name, prompts, embeddings)
        return leak - self.config.beta * torch.relu(self.config.margin - inside), leak.detach()

    def likeness_to(self, name: str, prompts: ConceptPrompts, embeddings: list[torch.Tensor]) -> torch.Tensor:
        """cos(T(tau_p), T0(c)) by the encoder as it stands, adapter on (the leak) or off; [batch]."""
        context = self.context
        hidden = context.model.text.encode_clip(prompts.tokens.trimmed(), embeddings).hidden
        return likeness(
            meaning(hidden, prompts.read, context.empty_end),
            context.meaning_of(name).expand(len(prompts), -1, -1),
        )

    def step(
        self,
        prompts: ConceptPrompts,
        embeddings: list[torch.Tensor],
        name: str,
        generator: torch.Generator,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """One normalised-gradient ascent step on the template words' embeddings."""
        free = [e.detach().requires_grad_(True) for e in embeddings]
        value, leak = self.objective(prompts, free, name)
        gradients = list(torch.autograd.grad(value.sum(), free))
        if self.config.random:  # the ablation: as far, but anywhere
            gradients = [torch.randn(g.shape, generator=generator).to(g) for g in gradients]
        mask = prompts.template[:, : embeddings[0].shape[1]].unsqueeze(-1)
        moved = []
        for e, g in zip(embeddings, gradients):
            direction = g / g.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            further = e + self.config.stride * e.norm(dim=-1, keepdim=True) * direction
            moved.append(torch.where(mask, further, e).detach())
        return moved, leak

    def tensors(self) -> dict[str, torch.Tensor]:
        """The pool. Text travels as bytes, since a saved state holds nothing but tensors."""
        about = json.dumps([[attack.name, attack.scene, attack.leak] for attack in self.pool])
        out = {"about": torch.tensor(list(about.encode()), dtype=torch.uint8)}
        for i, attack in enumerate(self.pool):
            prompts = attack.prompts
            out |= {
                f"{i}.template": prompts.template,
                f"{i}.read": prompts.read,
                f"{i}.end": prompts.tokens.end,
            }
            for j, (ids, embeddings) in enumerate(zip(prompts.tokens.ids, attack.embeddings)):
                out |= {f"{i}.ids.{j}": ids, f"{i}.embeddings.{j}": embeddings}
        return out

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        encoders = range(len(self.context.model.text.encoders))
        self.pool = []
        for i, (name, scene, leak) in enumerate(json.loads(bytes(tensors["about"].tolist()))):
            tokens = Tokens([tensors[f"{i}.ids.{j}"] for j in encoders], tensors[f"{i}.end"])
            prompts = ConceptPrompts(tokens, tensors[f"{i}.template"], tensors[f"{i}.read"])
            own = [tensors[f"{i}.embeddings.{j}"] for j in encoders]
            self.pool.append(Attack(name, prompts, own, scene, leak))

    @torch.no_grad()
    def refreshed(self) -> list[Attack]:
        """The pool with its leaks measured against the encoder as it is now."""
        for attack in self.pool:
            attack.leak = float(self.likeness_to(attack.name, attack.prompts, attack.embeddings))
        return self.pool


def _row(
    prompts: ConceptPrompts, embeddings: list[torch.Tensor], i: int
) -> tuple[ConceptPrompts, list[torch.Tensor]]:
    """One prompt of a batch, its embeddings cut to its own length."""
    tokens = prompts.tokens.rows(slice(i, i + 1))
    length = int(tokens.end) + 1
    return ConceptPrompts(tokens, prompts.template[i : i + 1], prompts.read[i : i + 1]), [
        e[i : i + 1, :length].detach() for e in embeddings
    ]
