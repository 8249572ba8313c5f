"""How much each place looks at some of a prompt's tokens: the attention maps of the layers that read text.

Two kinds of layers do: a UNet's cross-attention, and the joint attention of Stable Diffusion 3's blocks, in
which picture and text look at both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..diffusion.text import TextStack
from ..prompts.compose import compose

PROJECTIONS = ("to_q", "to_k", "add_q_proj", "add_k_proj")  # the picture's; the text's in a joint attention


@dataclass
class Heard:
    """One layer's queries and keys of one pass, by projection; [n, tokens, width] each.

    Nothing is computed of them before it is asked for: inside a block that is computed again for the backward
    pass, what is computed here would be missing the second time.
    """

    attention: Any
    said: dict[str, torch.Tensor]

    @property
    def pictured(self) -> int:
        """Places of the picture; in a joint attention the text's come after them."""
        return self.said["to_q"].shape[1]

    def looks(self, positions: list[int]) -> torch.Tensor:
        """Shares of each place's attention that the prompt's tokens at `positions` take; [n, heads, places,
        positions]. Differentiable.
        """
        queries, keys = self._heads("to_q", "norm_q"), self._heads("to_k", "norm_k")
        if "add_k_proj" in self.said:
            positions = [self.pictured + position for position in positions]
            queries = torch.cat([queries, self._heads("add_q_proj", "norm_added_q")], 2)
            keys = torch.cat([keys, self._heads("add_k_proj", "norm_added_k")], 2)
        shares: torch.Tensor = (queries @ keys.transpose(-1, -2) * self.attention.scale).softmax(-1)
        return shares[..., positions]

    def _heads(self, projection: str, norm: str) -> torch.Tensor:
        """[n, heads, tokens, width of a head]."""
        own = self.said[projection]
        split = own.view(*own.shape[:2], self.attention.heads, -1).transpose(1, 2)
        layer = getattr(self.attention, norm, None)
        if layer is None:
            return split
        normed: torch.Tensor = layer(split)
        return normed


def positions_of(text: TextStack, word: str) -> list[int]:
    """Of a word's tokens in the prompt that is the word alone."""
    positions: list[int] = compose(text, word, ["{}"]).read[0, :-1].tolist()
    return positions


def readers(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The attentions of a network that read text, in the order of their blocks."""
    joint = [m for m in network.modules() if getattr(m, "add_k_proj", None) is not None]
    return joint or [m for name, m in network.named_modules() if name.endswith("attn2")]


@contextlib.contextmanager
def listening(network: torch.nn.Module) -> Iterator[list[Heard]]:
    """Inside, one pass fills the list, an entry for each attention that reads text."""
    heard = [Heard(attention, {}) for attention in readers(network)]
    handles = []
    for layer in heard:
        for name in PROJECTIONS:
            projection = getattr(layer.attention, name, None)
            if projection is not None:
                handles.append(projection.register_forward_hook(_note(layer, name)))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _note(layer: Heard, name: str) -> Callable[..., None]:
    def note(module: torch.nn.Module, args: object, out: torch.Tensor) -> None:
        layer.said[name] = out

    return note
