"""CLIP as a zero-shot judge (Radford et al., arXiv 2103.00020), from a local folder.

A word is seen in a picture where its prompt is the most like the picture, by the cosine of their embeddings:
more than the prompt without the word, than words near the concept, and than everyday things.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...diffusion.knowledge import Prompt
from ...diffusion.model import DiffusionModel
from ...errors import SageError, one_line, shown
from ...prompts.kinds import STYLE, THING, guess
from ...prompts.templates import picture_of, without_style, without_thing
from ...prompts.words import other_styles
from ...spec import ErasureSpec
from ..cells import neighbours, plain_prompts
from ..judge import RIVALS, THING_SHOWN
from .folder import Preparation, config_of, in_parts, key_of_folder, load

EVERYDAY = 40  # other things that a picture may show instead
TEXTS_AT_ONCE = 32


@dataclass(frozen=True)
class Clip:
    """The two towers, and what they want of text and pictures. title: its folder's name; key: its files'."""

    network: Any
    tokenizer: Any
    prepare: Preparation
    title: str
    key: str = ""

    @classmethod
    def load(cls, folder: Path) -> Clip:
        """Raises SageError where the folder holds no CLIP model with its tokenizer."""
        from transformers import CLIPModel, CLIPTokenizer

        config = config_of(folder)
        if config.get("model_type") != "clip":
            raise SageError(
                f"The model in {str(folder)!r} is {shown(config.get('model_type'))}, not CLIP; an image"
                " classifier is given as classifier:FOLDER."
            )
        prepare = Preparation.read(folder)
        network = load(folder, CLIPModel.from_pretrained)
        try:
            tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SageError(
                f"The tokenizer in {str(folder)!r} cannot be loaded ({one_line(error)}); it is saved beside"
                " the model."
            ) from error
        return cls(network, tokenizer, prepare, folder.resolve().name, key_of_folder(folder))

    @torch.no_grad()
    def of_texts(self, texts: list[str], device: torch.device) -> torch.Tensor:
        """Embeddings of unit length [texts, d], on the CPU."""
        parts = []
        length = self.network.config.text_config.max_position_embeddings
        for i in range(0, len(texts), TEXTS_AT_ONCE):
            tokens = self.tokenizer(
                texts[i : i + TEXTS_AT_ONCE],
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
            ).to(device)
            states = self.network.text_model(**tokens).pooler_output
            parts.append(self.network.text_projection(states).cpu())
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def of_images(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Embeddings of unit length [n, d] of pictures [n, 3, H, W] in [-1, 1], on the CPU."""

        def look(pixels: torch.Tensor) -> torch.Tensor:
            return self.network.visual_projection(self.network.vision_model(pixels).pooler_output)

        return torch.nn.functional.normalize(in_parts(images, self.prepare, device, look), dim=-1)


class ClipJudge:
    """CLIP as the judge of one erasure."""

    cannot = "it names what is large in a picture; small things, counts and rare names it sees badly"

    def __init__(self, clip: Clip, model: DiffusionModel, spec: ErasureSpec):
        self.clip, self.model, self.spec = clip, model, spec
        self.name = f"CLIP ({clip.title})"
        self.styles = model.knowledge.styles
        self.kind = spec.kind_of(self.styles)
        clip.network.to(model.device)
        self.rivals = self._rivals()
        self.key = clip.key and repr((clip.key, spec.concept, self.kind, self.styles, self.rivals))
        self._known: dict[str, torch.Tensor] = {}

    def _rivals(self) -> list[str]:
        """Words near the concept, and other things from all over the list."""
        if self.kind == STYLE:
            return other_styles(self.model, [self.spec.concept, *self.spec.synonyms])
        words = [w for w in neighbours(self.model, self.spec) if guess(w, self.styles) == THING]
        rest = words[RIVALS:]
        count = min(EVERYDAY, len(rest))
        return [*words[:RIVALS], *(rest[i * len(rest) // count] for i in range(count))]

    def prompts(self, concept: str, given: tuple[str, ...], images: int, seed: int = 0) -> list[Prompt]:
        """`images` prompts for every cell that has words."""
        return plain_prompts(self.model, self.spec, images, seed)

    def expected(self, concept: str) -> str:
        """What `sees` is asked for: the concept itself."""
        return concept

    def sees(self, images: torch.Tensor, expected: list[str], prompts: list[Prompt]) -> list[bool]:
        """Whether each of the pictures [n, 3, H, W], values in [-1, 1], shows the word that is expected."""
        if not len(images):
            return []
        pictures = self.clip.of_images(images, self.model.device)
        verdicts = []
        for picture, word, prompt in zip(pictures, expected, prompts):
            texts = self._texts(word, prompt.thing)
            self._embed(texts)
            like = torch.stack([self._known[text] for text in texts]) @ picture
            verdicts.append(int(like.argmax()) == 0)
        return verdicts

    def shows(self, images: torch.Tensor, words: list[str], kind: str, rivals: list[str]) -> list[bool]:
        """Of each of the pictures [n, 3, H, W] in [-1, 1], whether it is likeliest of its word among the
        rivals, things or styles by their kind.
        """
        asked = list(dict.fromkeys([*rivals, *words]))
        texts = [without_thing(w) if kind == STYLE else picture_of(w, kind) for w in asked]
        like = self.features(images) @ self.clip.of_texts(texts, self.model.device).T
        return [asked[best] == word for best, word in zip(like.argmax(1).tolist(), words)]

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings of unit length [n, d] of pictures [n, 3, H, W] in [-1, 1], on the CPU."""
        return self.clip.of_images(images, self.model.device)

    def scores(self, images: torch.Tensor, texts: list[str]) -> list[float]:
        """The CLIP score of each picture [n, 3, H, W] with its text: 100 max(0, cos)."""
        different = list(dict.fromkeys(texts))
        rows = dict(zip(different, self.clip.of_texts(different, self.model.device)))
        own = torch.stack([rows[text] for text in texts])
        return (100 * (self.features(images) * own).sum(1).clamp(min=0)).tolist()

    def _texts(self, word: str, thing: str) -> list[str]:
        """The word's prompt, and then its rivals'. thing: what a style is shown on, or what else may be
        seen.
        """
        words = [w for w in (word, self.spec.concept, *self.rivals) if w == word or w != thing]
        shown_on = thing or THING_SHOWN
        nothing = without_style(shown_on, self.spec.concept) if self.kind == STYLE else "a picture"
        texts = [picture_of(w, self._kind_of(w), shown_on) for w in dict.fromkeys(words)]
        return list(dict.fromkeys([*texts, nothing]))

    def _kind_of(self, word: str) -> str:
        own = word == self.spec.concept or self.kind == STYLE and word in self.rivals
        return self.kind if own else guess(word, self.styles)

    def _embed(self, texts: list[str]) -> None:
        """Texts that are not known yet: few prompts are asked of many pictures."""
        new = [text for text in texts if text not in self._known]
        if new:
            self._known |= dict(zip(new, self.clip.of_texts(new, self.model.device)))
