"""A model that a host has in memory already: the host predicts, and encodes prompts; the core trains.

Nothing of it is copied or rewritten here. The host is reached through `Host` alone, so the core knows none.
The adapters hang on the host's own linear layers. The text encoders are frozen: a prompt is encoded once, and
what the host says of it goes back to the host as it came.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch

from .architecture import Family
from .model import DiffusionModel
from .networks import mixture
from .text import Conditioning, TextStack


@dataclass(frozen=True)
class Row:
    """What a host says of one prompt. `value` is the host's own; rows of one `kind` fit into one batch."""

    kind: Hashable
    value: Any


class Host(Protocol):
    """What the core asks of a host."""

    device: torch.device
    dtype: torch.dtype  # in which the network computes

    def encode(self, prompt: str) -> Row:
        """Of the untouched text encoders."""

    def velocity(self, x: torch.Tensor, s: torch.Tensor, rows: list[Row]) -> torch.Tensor:
        """noise - z_0 as the network predicts it in the flow's states x [n, c, h, w] at times s [n], from 0
        to 1; float32. Rows are of one kind. Differentiable with respect to adapters on the network's layers.
        """


class HostedConditioning(Conditioning):
    """Rows of a host, whatever their lengths. Nothing in them is trained, so nothing collects gradients."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index) -> HostedConditioning:
        if isinstance(index, slice):
            return HostedConditioning(self.rows[index])
        places = index.tolist() if isinstance(index, torch.Tensor) else index
        return HostedConditioning([self.rows[i] for i in places])

    def detach(self) -> HostedConditioning:
        return self

    def leaf(self) -> HostedConditioning:
        return self

    def tensors(self) -> list[torch.Tensor]:
        return []

    def joined(self, parts: list[Conditioning]) -> HostedConditioning:
        return HostedConditioning([row for part in parts for row in cast(HostedConditioning, part).rows])


class HostedText:
    """A host's text encoders in the place of a TextStack, as far as prompts go: it is not open, so nothing of
    it can be searched, edited or trained.
    """

    open = False
    encoders: tuple[torch.nn.Module, ...] = ()
    modules: tuple[torch.nn.Module, ...] = ()
    t5 = None
    width = 0

    def __init__(self, host: Host):
        self.host = host
        self.known: dict[str, Row] = {}

    def tokenize(self, prompts: list[str], truncate: bool = False) -> list[str]:
        """The prompts themselves; the host cuts or refuses what is too long."""
        return prompts

    def encode(self, tokens: list[str], embeddings: None = None) -> HostedConditioning:
        """Conditioning of what `tokenize` returned; each prompt is encoded once."""
        for prompt in tokens:
            if prompt not in self.known:
                self.known[prompt] = self.host.encode(prompt)
        return HostedConditioning([self.known[prompt] for prompt in tokens])

    def __call__(self, prompts: list[str]) -> HostedConditioning:
        return self.encode(prompts)


class HostedModel(DiffusionModel):
    """A rectified flow that a host runs, in the place of a model that the core loaded.

    network: the host's own, on whose layers adapters are hung. alphas: the noise schedule that it is sampled
    with. about: how the host is asked, for the file's metadata. One sample at a time goes through the
    network: it is large, and the host sees to the memory.
    """

    def __init__(
        self,
        family: Family,
        host: Host,
        network: torch.nn.Module,
        alphas: torch.Tensor,
        source: str,
        fingerprint: str,
        about: str = "",
    ):
        text = cast(TextStack, HostedText(host))
        super().__init__(family, text, network, None, alphas, False, source, fingerprint, family.sample_size)
        self.host, self.about, self.at_once = host, about, 1

    @property
    def hosted(self) -> bool:
        return True

    @property
    def device(self) -> torch.device:
        """Where the network computes; the host may keep weights elsewhere."""
        return self.host.device

    @property
    def dtype(self) -> torch.dtype:
        return self.host.dtype

    def to(self, device: torch.device | str) -> HostedModel:
        """The schedule alone: the host moves its network."""
        self.alphas = self.alphas.to(device)
        return self

    def output(self, z: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """The flow's noise x + (1 - s) v, as networks.flow_noise has it; a batch for each kind of rows."""
        rows = cast(HostedConditioning, cond).rows
        x, s = mixture(z, self.alphas[t])
        kinds: dict[Hashable, list[int]] = {}
        for i, row in enumerate(rows):
            kinds.setdefault(row.kind, []).append(i)
        parts = [self.host.velocity(x[own], s[own], [rows[i] for i in own]) for own in kinds.values()]
        order = torch.tensor([i for own in kinds.values() for i in own], device=x.device)
        v = torch.cat(parts)[order.argsort()]
        return x + (1 - s.view(-1, 1, 1, 1)) * v
