"""T5, which Stable Diffusion 3 reads prompts through besides CLIP. It is never trained."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from .weights import build, fill

LENGTH = 256  # tokens, as diffusers has it
TABLE = ("shared.weight", "encoder.embed_tokens.weight")
REMEMBERED = 128  # prompts whose states are kept: 2 MB each with T5-XXL in half precision


class FrozenT5:
    """What T5 says of prompts: `length` tokens each, padding included and not masked, as diffusers has it.

    Its states follow CLIP's in the sequence that the network reads. No LoRA of any host changes them.
    """

    def __init__(self, encoder: torch.nn.Module, tokenizer: Any, length: int = LENGTH):
        self.encoder, self.tokenizer, self.length = encoder, tokenizer, length
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return self.encoder.get_input_embeddings().weight.device  # type: ignore[operator]

    def words(self, text: str) -> list[int]:
        """Token ids of a text without the end."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> torch.Tensor:
        """[texts, length, width], on the encoder's device; what does not fit is left out, as in diffusers."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = dict(zip(new, self._read(new))) if new else {}
        found |= {text: self._known[text] for text in texts if text not in found}
        self._remember(found)
        return torch.stack([found[text].to(self.device) for text in texts])

    def _read(self, texts: list[str]) -> torch.Tensor:
        ids = self.tokenizer(
            texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).input_ids
        states: torch.Tensor = self.encoder(ids.to(self.device)).last_hidden_state
        return states

    def _remember(self, found: dict[str, torch.Tensor]) -> None:
        """On the CPU, the latest ones."""
        for text, states in found.items():
            if states.device.type != "meta":
                self._known[text] = states.cpu()
                self._known.move_to_end(text)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def load(config: dict, weights: dict[str, torch.Tensor], tokenizer: Path, dtype: torch.dtype) -> FrozenT5:
    """From the parts of a diffusers folder. tokenizer: its folder. Raises SageError where one is damaged."""
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    encoder = build(lambda c: T5EncoderModel(T5Config(**c)), config, "T5")
    # The table of tokens is stored under one of two names, or both.
    table = next((weights[name] for name in TABLE if name in weights), None)
    fill(encoder, weights if table is None else weights | dict.fromkeys(TABLE, table), "T5", dtype)
    if dtype == torch.float16:
        for name, module in encoder.named_modules():
            if name.endswith(".wo"):
                module.float()  # its sums exceed half precision; T5 converts around it
    own = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
    return FrozenT5(encoder, own)
