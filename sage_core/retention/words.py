"""Which words the eraser keeps by itself: the model's other concepts, less whatever already means the erased one."""

from __future__ import annotations

from pathlib import Path

import torch

from ..diffusion.model import DiffusionModel
from ..domain.prompts import likeness

TEMPLATES = ("{}", "a {}", "a picture of a {}", "a photo of a {}", "a drawing of a {}", "an image of a {}")
TOO_LIKE = 0.8  # cosine of the end tokens above which a word counts as another name of the concept

STYLES = ("watercolor", "oil painting", "pencil sketch", "photograph", "comic book", "3d render", "pixel art", "ink drawing")


def other_styles(model: DiffusionModel, erased: list[str]) -> list[str]:
    """Styles that stay while another is erased."""
    if model.is_demo:
        from ..demo.vocabulary import STYLES as known
    else:
        known = STYLES
    taken = {w for name in erased for w in name.lower().split()}
    return [s for s in known if not taken & set(s.split())]


def candidates(model: DiffusionModel) -> list[str]:
    """The bundled model's retained half of its vocabulary, or a general list of everyday things and styles."""
    if model.is_demo:
        from ..demo import vocabulary

        return [c.name for c in vocabulary.retained()]
    lines = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@torch.no_grad()
def retained_words(model: DiffusionModel, erased: list[str], wanted: tuple[str, ...]) -> list[str]:
    """Candidates and the user's own words, without those that hold an erased word or lie within the concept's domain."""
    taken = {w for name in erased for w in name.lower().split()}
    words = [w for w in candidates(model) if not taken & set(w.lower().split())]
    kept = [w for w, value in zip(words, likeness_to(model, erased, words)) if value < TOO_LIKE]
    return list(dict.fromkeys([*wanted, *kept]))


@torch.no_grad()
def likeness_to(model: DiffusionModel, erased: list[str], words: list[str]) -> list[float]:
    """Of each word the cosine of its end state to the nearest erased name's; call it with every adapter off."""
    empty = _ends(model, [""])
    erased_ends, ends = _ends(model, erased) - empty, _ends(model, words) - empty
    return torch.stack([likeness(ends[:, None], e[None, None].expand(len(ends), 1, -1)) for e in erased_ends]).amax(0).tolist()


def _ends(model: DiffusionModel, texts: list[str]) -> torch.Tensor:
    tokens = model.text.tokenize(texts, truncate=True)
    parts = [type(tokens)([i[a : a + 32] for i in tokens.ids], tokens.end[a : a + 32]).trimmed() for a in range(0, len(texts), 32)]
    states = [model.text.encode(part).hidden for part in parts]
    return torch.cat([h[torch.arange(len(h), device=h.device), part.end] for h, part in zip(states, parts)]).float()
