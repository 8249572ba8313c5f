"""The text side of the model: tokens, token embeddings, conditionings; one encoder (SD 1.x, 2.x) or two
(SDXL).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from ..errors import SageError
from .t5 import FrozenT5


@dataclass
class Conditioning:
    """What the network reads.

    `hidden`: [batch, tokens, width]. `pooled`: [batch, width], of SDXL and SD3.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index) -> Conditioning:
        """Rows by slice, list or index tensor."""
        return Conditioning(*(t[index] for t in self.tensors()))

    def detach(self) -> Conditioning:
        return Conditioning(*(t.detach() for t in self.tensors()))

    def tensors(self) -> list[torch.Tensor]:
        return [self.hidden] if self.pooled is None else [self.hidden, self.pooled]

    def leaf(self) -> Conditioning:
        """A copy that collects gradients for itself, where this one has any to pass on."""
        return Conditioning(*(t.detach().requires_grad_(t.requires_grad) for t in self.tensors()))

    @staticmethod
    def cat(parts: list[Conditioning]) -> Conditioning:
        """One below the other; all are of one kind."""
        return parts[0].joined(parts)

    def joined(self, parts: list[Conditioning]) -> Conditioning:
        """`cat` of this kind."""
        pooled = None if parts[0].pooled is None else torch.cat([p.pooled for p in parts])
        return Conditioning(torch.cat([p.hidden for p in parts]), pooled)


@dataclass
class Tokens:
    """A batch of prompts as ids, one tensor [batch, 77] an encoder (they pad differently), and where the
    prompt ends.

    `texts`: what T5 reads, where the model has it; None: what the ids say.
    """

    ids: list[torch.Tensor]
    end: torch.Tensor  # [batch], position of the end-of-text token
    texts: list[str] | None = None

    def __len__(self) -> int:
        return len(self.end)

    def rows(self, index: slice) -> Tokens:
        """Some of the prompts."""
        texts = None if self.texts is None else self.texts[index]
        return Tokens([ids[index] for ids in self.ids], self.end[index], texts)

    def trimmed(self) -> Tokens:
        """Without the padding behind the longest prompt.

        CLIP's attention is causal, so the states of real tokens are the same; only the UNet, which reads the
        padding's states too, needs all 77.
        """
        length = int(self.end.max()) + 1
        return Tokens([ids[:, :length] for ids in self.ids], self.end)


@dataclass(frozen=True)
class Section:
    """The part of the network's text sequence that one tokenizer fills: CLIP's, or T5's behind it.

    `first`: the position of a prompt's first word in it, `words`: the ids of a text.
    """

    start: int
    length: int
    first: int
    words: Callable[[str], list[int]]

    def of(self, hidden: torch.Tensor) -> torch.Tensor:
        """Its states, of hidden [..., tokens, width]."""
        return hidden[..., self.start : self.start + self.length, :]

    def end(self, prompt: str) -> int:
        """The position in it of the prompt's end token."""
        return min(self.first + len(self.words(prompt)), self.length - 1)


class TextStack:
    """CLIP text encoders with their tokenizer, and T5 where the model reads it too.

    `layer`: "last" (final norm applied), "penultimate" (SDXL), or "joined" (SD3): the penultimate states and
    the pooled ones of all encoders side by side. `widths`: of hidden and pooled states as the network reads
    them; what an encoder that is not there would say is zeros, as ComfyUI has it. `t5`: its states follow
    CLIP's; `encoders` are CLIP's alone, which a LoRA can train.

    open: its tokens and embeddings can be reached, and its weights trained; a host's encoders are not open
    (diffusion/hosted.py).
    """

    open = True

    def __init__(
        self,
        encoders: list[torch.nn.Module],
        tokenizer,
        layer: str = "last",
        pads: tuple[int, ...] | None = None,
        widths: tuple[int, int] | None = None,
        t5: FrozenT5 | None = None,
    ):
        self.encoders, self.tokenizer, self.layer = encoders, tokenizer, layer
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.pads = pads or (self.eos,) * len(encoders)
        self.widths, self.t5 = widths, t5
        self.length = 77

    @property
    def modules(self) -> list[torch.nn.Module]:
        """All that reads prompts, T5 included."""
        return [*self.encoders, *([] if self.t5 is None else [self.t5.encoder])]

    @property
    def sections(self) -> list[Section]:
        """Of the sequence that the network reads."""
        clip = Section(0, self.length, 1, self.words)
        if self.t5 is None:
            return [clip]
        return [clip, Section(self.length, self.t5.length, 0, self.t5.words)]

    @property
    def device(self) -> torch.device:
        return self.encoders[0].get_input_embeddings().weight.device

    @property
    def width(self) -> int:
        """Of the states that the encoders give. What the network reads may be wider: zeros follow."""
        if self.t5 is not None and self.widths is not None:
            return self.widths[0]
        return sum(encoder.config.hidden_size for encoder in self.encoders)

    @cached_property
    def scales(self) -> list[float]:
        """The root mean square of each encoder's embedding table, the unit of steps in it; the tables are
        frozen.
        """
        return [
            e.get_input_embeddings().weight.detach().float().square().mean().sqrt().item()
            for e in self.encoders
        ]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the token embedding tables; see `embedding_fingerprint`."""
        return embedding_fingerprint([e.get_input_embeddings().weight for e in self.encoders])

    def words(self, text: str) -> list[int]:
        """Token ids of a text without start and end."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def assemble(self, sequences: list[list[int]]) -> Tokens:
        """Wrap id sequences in start and end tokens and pad.

        Raises SageError where one does not fit into 75 tokens.
        """
        if (longest := max(map(len, sequences))) > self.length - 2:
            raise SageError(
                f"A prompt has {longest} tokens; CLIP reads {self.length - 2} at most: shorten it."
            )
        end = torch.tensor([len(s) + 1 for s in sequences], device=self.device)
        rows = [[self.bos, *s, self.eos] for s in sequences]
        ids = [
            torch.tensor([r + [pad] * (self.length - len(r)) for r in rows], device=self.device)
            for pad in self.pads
        ]
        return Tokens(ids, end)

    def tokenize(self, prompts: list[str], truncate: bool = False) -> Tokens:
        """Prompts to tokens; with `truncate` the rest of a long prompt is dropped instead of refused."""
        rows = [self.words(p) for p in prompts]
        tokens = self.assemble([r[: self.length - 2] for r in rows] if truncate else rows)
        tokens.texts = list(prompts)
        return tokens

    def embed(self, tokens: Tokens) -> list[torch.Tensor]:
        """Token embeddings before positions are added, one float32 tensor [batch, 77, width] an encoder."""
        return [e.get_input_embeddings()(ids).detach().float() for e, ids in zip(self.encoders, tokens.ids)]

    def encode(self, tokens: Tokens, embeddings: list[torch.Tensor] | None = None) -> Conditioning:
        """Conditioning of tokens, or of `embeddings` in CLIP's place of them (differentiable with respect to
        both).
        """
        cond = self.encode_clip(tokens, embeddings)
        if self.t5 is None:
            return cond
        read = self.t5(tokens.texts or self._texts(tokens)).to(cond.hidden)
        return Conditioning(torch.cat([cond.hidden, read], dim=1), cond.pooled)

    def _texts(self, tokens: Tokens) -> list[str]:
        """Prompts as the ids have them: in small letters, as CLIP's tokenizer reads them."""
        rows = zip(tokens.ids[0].tolist(), tokens.end.tolist())
        return [self.tokenizer.decode(ids[1:end]).strip() for ids, end in rows]

    def encode_clip(self, tokens: Tokens, embeddings: list[torch.Tensor] | None = None) -> Conditioning:
        """The same without T5; the tokens may be trimmed."""
        outs = []
        for i, encoder in enumerate(self.encoders):
            given = None if embeddings is None else embeddings[i]
            outs.append(_run(encoder, tokens.ids[i], given, self.layer != "last"))
        if self.layer == "last":
            return Conditioning(outs[0][0])
        hidden = torch.cat([hidden for hidden, _ in outs], dim=-1)
        if self.layer == "penultimate":
            return Conditioning(hidden, outs[-1][1])
        assert self.widths is not None
        pooled = torch.cat([pooled for _, pooled in outs], dim=-1)
        return Conditioning(_widened(hidden, self.widths[0]), _widened(pooled, self.widths[1]))

    def __call__(self, prompts: list[str]) -> Conditioning:
        return self.encode(self.tokenize(prompts))


def embedding_fingerprint(tables: list[torch.Tensor]) -> str:
    """SHA-256 over tables [vocabulary, width] in bfloat16: the same for copies in fp32, fp16 and bf16.

    LoRAs change linear layers only, so a model keeps it whatever LoRAs are applied.
    """
    digest = hashlib.sha256()
    for table in tables:
        digest.update(str(tuple(table.shape)).encode())
        rounded = table.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _run(encoder, ids, embeddings, penultimate: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states and pooled state of one encoder, projected where it projects.

    A hook puts `embeddings` in place of the looked-up ones.
    """
    handle = None
    if embeddings is not None:
        table = encoder.get_input_embeddings()
        handle = table.register_forward_hook(lambda module, args, out: embeddings.to(out.dtype))
    try:
        out = encoder(input_ids=ids, output_hidden_states=penultimate)
    finally:
        if handle is not None:
            handle.remove()
    hidden = out.hidden_states[-2] if penultimate else out.last_hidden_state
    pooled = getattr(out, "text_embeds", None)
    return hidden, out.pooler_output if pooled is None else pooled


def _widened(states: torch.Tensor, width: int) -> torch.Tensor:
    """With zeros behind, to [..., width]."""
    return torch.nn.functional.pad(states, (0, width - states.shape[-1]))
