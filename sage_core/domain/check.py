"""The check of the cycle: how much of the concept's pull is left in each of its names, and which strength of
the LoRA takes just enough of it.

With the erased model's prediction eps and the untouched model's eps0, at a state z:

    left(w) = < eps(z, w) - eps(z, ""), pull0 > / |pull0|^2,   pull0 = eps0(z, concept) - eps0(z, "")

1 is the untouched model, 0 is guidance that says nothing of the concept, less points away from it. In the
small models a thing is drawn above about 0.05 and not below 0 (docs/lab/second-model.md). Where something
replaces the concept, its prompt takes the place of the empty one, and 0 is a model that draws that.

A thing's states are stops of the untouched model's trajectories, the same for every name and strength: one
UNet pass a name and state, so that a check costs less than one picture. A style's are stops on the erased
model's own way: along the untouched model's the picture has the style already, and what is left there says
little of what would be drawn. It differs much between the things that the style is shown on, so these are
more.

A thing can be gone under its bare names and be drawn in a style that training never showed. So its prompts p
in other styles are checked too, beside the same prompts without it, q:

    left(p) = < eps(z, p) - eps0(z, q), pull0 > / < eps0(z, p) - eps0(z, q), pull0 >

at the first state, pure noise, where a model decides what it draws. q is the untouched model's: under an
erasure "a cartoon drawing" can come to draw what it was meant to forget (docs/lab/scenes.md). Styles in which
the untouched model does not draw the concept are left out. A style is checked the same way on things of all
sorts, each beside its own pull, eps0(z, p) - eps0(z, q), where the model is a flow: a UNet
decides later on a style, and what is left of it at the first state says little of its pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch

from ..diffusion.model import DiffusionModel
from ..errors import SageError, shown
from ..prompts.kinds import STYLE
from ..prompts.templates import SHOWN_ON
from ..prompts.words import all_styles
from ..prompts.writer import Writer
from .pull import Stops, encoded, predicted, pulls, walk

TRAJECTORIES = 2
SOLVER_STEPS, KEPT_STOPS = 6, (0, 1)
OWN_SCENES, OWN_STOPS = 4, 3  # of a style, on the erased model's own way
GUIDANCE = 3.0
SEED = 40_000  # of the trajectories, away from the search's and from those that training draws
MOST_NAMES, MOST_STYLE_NAMES = 12, 4  # that are checked
MOST_SCENES, MOST_THINGS = 40, 24  # styles in which a thing is checked, things that show a style
MORE_SCENES = 2  # of these, that training takes in after a check
SAME_PULL = 0.5  # cosine to the concept's own pull from which a styled prompt may draw it
ADDS = 0.2  # of the concept's own pull, what it has to add to the style's
WORST = 3  # names that are looked at again for another strength
TRIES = 2  # strengths after the first
LEAST, MOST = 0.4, 1.4  # strength
SLOPE, GENTLEST = -0.5, -0.1  # of what is left by strength: the first guess, and the least that is believed
CLOSE_ENOUGH = 0.03


@dataclass(frozen=True)
class Bound:
    """aim: what may be left of a name's pull; seen: above this, the name still draws the concept; in_scene:
    above this, a prompt in another style does.
    """

    aim: float
    seen: float
    in_scene: float = 0.4


# The first was chosen on four things and four styles of the second model. Where something else is drawn in
# the concept's place, half of the way there is a picture of that already. In a style, of what was tried, 0.34
# and less drew nothing, 0.45 and more drew the concept.
NOTHING, REPLACED = Bound(-0.1, 0.0), Bound(0.15, 0.3)


def bound_of(writer: Writer) -> Bound:
    """What counts as erased."""
    return REPLACED if writer.becomes else NOTHING


def passes(kind: str, names: int, checks: int = 1, solver_steps: int = 0) -> int:
    """UNet passes, at most, of a run that checks so many names so often, with the trajectories, of so many
    steps each, that training takes in after a check.
    """
    more = (checks - 1) * MORE_SCENES * 3 * solver_steps  # one guided trajectory of the concept, one not
    if kind == STYLE:
        each = 4 * OWN_SCENES * OWN_STOPS
        names = min(names, MOST_STYLE_NAMES)
        once = each * (names + TRIES * min(names, WORST)) + MOST_THINGS
        return more + 2 + 2 * MOST_THINGS + checks * once + each * max(0, names - WORST)
    stops = TRAJECTORIES * len(KEPT_STOPS)
    names = min(names, MOST_NAMES)
    once = stops * (1 + names) + TRIES * stops * (1 + min(names, WORST))
    once += MOST_SCENES
    rest = 2 * MOST_SCENES + (stops * (1 + names - WORST) if names > WORST else 0)
    return more + 2 * TRAJECTORIES * (1 + max(KEPT_STOPS)) + checks * once + rest


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Args:
        left: share of the concept's pull that is left in each name, at the strength below.
        strength: of the LoRA, relative to what was trained.
        seen: names, and prompts in other styles, that still draw the concept.
        passes: UNet passes of all checks of the run.
        scenes: the share that is left in each prompt of a thing in another style.
    """

    left: dict[str, float] = field(default_factory=dict)
    strength: float = 1.0
    seen: tuple[str, ...] = ()
    passes: int = 0
    scenes: dict[str, float] = field(default_factory=dict)

    @property
    def most(self) -> float:
        """What is left in the name or prompt that has most of it, 0 to 1."""
        return min(1.0, max(0.0, *self.left.values(), *self.scenes.values()))

    def sentence(self, concept: str) -> str:
        """What to tell the user."""
        if not self.seen:
            count = f"{len(self.left)} names" if len(self.left) > 1 else "its name"
            count += f" and {len(self.scenes)} other prompts" if self.scenes else ""
            return f"the check of {concept!r} finds nothing of it in {count} (strength {self.strength:.2f})"
        shares = self.left | self.scenes
        listed = ", ".join(f"{name} {shares[name]:.0%}" for name in self.seen)
        return (
            f"the check still finds {concept!r} in: {listed}. Try more effort, or give these words as its"
            " names."
        )

    def to_json(self) -> dict:
        """Plain JSON values; `from_json` is its inverse."""
        left = {name: round(share, 4) for name, share in self.left.items()}
        return {
            "left": left,
            "strength": round(self.strength, 4),
            "seen": list(self.seen),
            "passes": self.passes,
            "scenes": {prompt: round(share, 4) for prompt, share in self.scenes.items()},
        }

    @classmethod
    def from_json(cls, data: object) -> Checked:
        """Raises SageError on anything that `to_json` does not write."""
        try:
            if not isinstance(data, dict):
                raise TypeError("no JSON object")
            left = {str(name): float(share) for name, share in data["left"].items()}
            seen = tuple(str(name) for name in data["seen"])
            scenes = {str(prompt): float(share) for prompt, share in data.get("scenes", {}).items()}
            return cls(left, float(data["strength"]), seen, int(data["passes"]), scenes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SageError(f"The recorded check cannot be read ({shown(error)}).") from error


def checked_names(kind: str, names: list[str]) -> list[str]:
    """Those that a check looks at."""
    return names[: MOST_STYLE_NAMES if kind == STYLE else MOST_NAMES]


def checked_scenes(writer: Writer, flow: bool = False) -> list[str]:
    """Styles in which a check looks at a thing, or things on which it looks at a style of a rectified
    flow.
    """
    if not writer.style:
        return all_styles(writer.names)[:MOST_SCENES]
    if not flow:
        return []
    things = list(dict.fromkeys([*SHOWN_ON, *writer.things]))
    return things[:: math.ceil(len(things) / MOST_THINGS)]  # of all sorts: the list has animals first


def states(model: DiffusionModel, writer: Writer) -> Stops:
    """Where a thing is checked: stops of the untouched model's trajectories; a style on things: the first
    stop of one. Call it with every adapter off.
    """
    count, keep = (1, KEPT_STOPS[:1]) if writer.style else (TRAJECTORIES, KEPT_STOPS)
    seeds = [SEED + i for i in range(count)]
    return walk(model, writer, writer.names[0], [None] * count, seeds, SOLVER_STEPS, keep, GUIDANCE)


@torch.no_grad()
def left_at(model: DiffusionModel, writer: Writer, names: list[str], stops: Stops) -> dict[str, float]:
    """left(w) of each name, the mean over the stops, with whatever adapters are on."""
    along = _along(pulls(model, writer, names, stops), stops.own[None])
    return dict(zip(names, along.mean(1).tolist()))


@dataclass
class Scenes:
    """Styles in which the untouched model draws the concept, or things that it draws in a style, at the first
    state.

    own: the pull to look along, [1, c, h, w], or one for each scene; without: what of it is in the prompt
    without the concept; adds: what the concept adds to that, [scenes].
    """

    names: list[str]
    own: torch.Tensor
    without: torch.Tensor
    adds: torch.Tensor


@torch.no_grad()
def drawn_in(model: DiffusionModel, writer: Writer, scenes: list[str], stops: Stops) -> Scenes:
    """Those of the scenes in which the model draws the concept; call it with every adapter off."""
    name, own = writer.names[0], stops.own[:1]
    pull = _first_pull(model, [writer.plain(name, scene) for scene in scenes], stops)
    if writer.style:
        return _shown_on(model, writer, scenes, pull, stops)
    cosines = torch.nn.functional.cosine_similarity(pull.flatten(1), own.flatten(1))
    like = [i for i, cosine in enumerate(cosines.tolist()) if cosine >= SAME_PULL]
    if not like:
        return Scenes([], own, pull.new_zeros(0), pull.new_zeros(0))
    without = _along(_first_pull(model, [writer.aim(scenes[i], name) for i in like], stops), own)
    adds = _along(pull[like], own) - without
    drawn = (adds >= ADDS).nonzero().flatten().tolist()
    return Scenes([scenes[like[i]] for i in drawn], own, without[drawn], adds[drawn])


def _shown_on(
    model: DiffusionModel, writer: Writer, things: list[str], pull: torch.Tensor, stops: Stops
) -> Scenes:
    """Those of the things on which a style pulls as it does on the others; pull: of each with the style."""
    without = _first_pull(model, [writer.aim(thing, writer.names[0]) for thing in things], stops)
    own = pull - without
    size = own.square().flatten(1).sum(1)
    drawn = (size >= ADDS * size.mean()).nonzero().flatten().tolist()
    own = own[drawn]
    return Scenes([things[i] for i in drawn], own, _along(without[drawn], own), torch.ones_like(size[drawn]))


@torch.no_grad()
def left_in_scenes(model: DiffusionModel, writer: Writer, scenes: Scenes, stops: Stops) -> dict[str, float]:
    """left(p) of the concept in each scene, with whatever adapters are on."""
    if not scenes.names:
        return {}
    prompts = [writer.plain(writer.names[0], scene) for scene in scenes.names]
    along = _along(_first_pull(model, prompts, stops), scenes.own)
    return dict(zip(scenes.names, ((along - scenes.without) / scenes.adds).tolist()))


def _first_pull(model: DiffusionModel, prompts: list[str], stops: Stops) -> torch.Tensor:
    """eps(z, p) - eps0(z, "") of each prompt at the first stop; [prompts, c, h, w]."""
    z, t = stops.z[:1].expand(len(prompts), -1, -1, -1), stops.t[:1].expand(len(prompts))
    return predicted(model, z, t, encoded(model, prompts)) - stops.empty[:1]


@torch.no_grad()
def left_on_own_way(
    model: DiffusionModel, writer: Writer, names: list[str], off: Callable[[], AbstractContextManager]
) -> dict[str, float]:
    """left(w) of each name, the mean over the first stops of trajectories that the erased model takes for it.

    off: inside it, the model is the untouched one.
    """
    pairs = [(name, scene) for name in names for scene in SHOWN_ON[:OWN_SCENES]]
    prompts = [writer.plain(name, scene) for name, scene in pairs]
    prompts += [writer.aim(scene, name) for name, scene in pairs]
    both = encoded(model, prompts)
    with off():
        untouched = encoded(
            model, [writer.plain(writer.names[0], s) for _, s in pairs] + prompts[len(pairs) :]
        )
    solver = model.scheduler(SOLVER_STEPS)
    z = model.noise([SEED + i for i in range(OWN_SCENES)] * len(names))
    found = []
    for t in solver.timesteps[:OWN_STOPS]:
        twice, ts = torch.cat([z, z]), t.expand(2 * len(z)).to(model.device)
        with_it, without = model.predict_noise(twice, ts, both).chunk(2)
        with off():
            own, empty = model.predict_noise(twice, ts, untouched).chunk(2)
        found.append(_along(with_it - without, own - empty))
        z = solver.step(without + GUIDANCE * (with_it - without), t, z).prev_sample
    left = torch.stack(found).view(OWN_STOPS, len(names), OWN_SCENES).mean((0, 2))
    return dict(zip(names, left.tolist()))


def _along(pull: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Length of pulls along the concept's own, in units of it; over the last three dimensions."""
    return (pull * own).flatten(-3).sum(-1) / own.square().flatten(-3).sum(-1).clamp_min(1e-12)


def dose(
    left: Callable[[float, list[str]], dict[str, float]], names: list[str], aim: float
) -> tuple[float, dict[str, float]]:
    """The strength at which no name has more than `aim` left, and what is left there.

    left(strength, names): measures it. All names are measured at full strength, those with most left at up
    to TRIES more: what is left falls nearly linearly there, so each try is a step of the secant method. Where
    no strength up to MOST is enough, the strongest that was tried is taken.
    """
    found = left(1.0, names)
    worst = sorted(found, key=lambda name: -found[name])[:WORST]
    strength, most, slope = 1.0, found[worst[0]], SLOPE
    tried = [(strength, found)]
    for _ in range(TRIES):
        following = min(MOST, max(LEAST, strength + (aim - most) / slope))
        if abs(most - aim) <= CLOSE_ENOUGH or following == strength:
            break
        found = left(following, worst)
        slope = min(GENTLEST, (max(found.values()) - most) / (following - strength))
        strength, most = following, max(found.values())
        tried.append((strength, found))
    enough = [one for one in tried if max(one[1].values()) <= aim + CLOSE_ENOUGH]
    return min(enough, key=lambda one: one[0]) if enough else max(tried, key=lambda one: one[0])
