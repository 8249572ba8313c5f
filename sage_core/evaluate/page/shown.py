"""What the page shows of an evaluation: its report, and small copies of its pictures as text."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import torch
from PIL import Image

from ...diffusion.knowledge import Prompt
from ..measure import Evaluation, cells_of
from ..pictures import to_pil

MOST_SHOWN = 100  # pictures of a cell on the page
LOSSLESS = 256  # pixels of a side up to which a picture is embedded as it is
SIDE = 384  # pixels of a larger picture's copy
NAME = 60  # characters of a label


@dataclass
class Shown:
    """label: a short name of the erasure, unlike the others' on the page. index: numbers of the prompts whose
    pictures are shown. before, after: data URLs, in the order of `index`. attacked: of the attack's pictures,
    of which there are attack_count in all.
    """

    label: str
    report: dict
    prompts: list[Prompt]
    index: list[int]
    before: list[str]
    after: list[str]
    attacked: list[str] = field(default_factory=list)
    attack_count: int = 0
    seen: list[tuple[bool | None, bool | None]] | None = None

    @classmethod
    def of(cls, evaluation: Evaluation, label: str = "") -> Shown:
        """Its pictures are copied, so that the evaluation's can be given up."""
        index = []
        for cell in cells_of(evaluation.prompts):
            own = [i for i, prompt in enumerate(evaluation.prompts) if prompt.cell == cell]
            index += own[:MOST_SHOWN]
        attacked = [] if evaluation.attacked is None else list(evaluation.attacked)
        return cls(
            label or label_of(evaluation.report),
            evaluation.report,
            evaluation.prompts,
            index,
            [data_url(evaluation.before[i]) for i in index],
            [data_url(evaluation.after[i]) for i in index],
            [data_url(image) for image in attacked[:MOST_SHOWN]],
            len(attacked),
            evaluation.seen,
        )

    def numbers(self, cell: str) -> list[int]:
        """Places in `index` of a cell's pictures."""
        return [place for place, i in enumerate(self.index) if self.prompts[i].cell == cell]

    def same_prompts(self, other: Shown) -> bool:
        """Whether both show the same concept, prompts and pictures before."""
        same = self.report["spec"]["concept"] == other.report["spec"]["concept"]
        return same and self.prompts == other.prompts and self.before == other.before


def label_of(report: dict) -> str:
    """The name of the LoRA file, or of the method, or of the concept."""
    path = str(report.get("lora", {}).get("path", "")).replace("\\", "/").rsplit("/", 1)[-1]
    spec = report["spec"]
    return (path.removesuffix(".safetensors") or spec.get("method") or spec["concept"])[:NAME]


def data_url(image: torch.Tensor) -> str:
    """A picture [3, H, W] in [-1, 1]: small ones exactly, as PNG; of large ones a smaller copy, as JPEG."""
    picture, out = to_pil(image), io.BytesIO()
    if max(picture.size) <= LOSSLESS:
        picture.save(out, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture.save(out, "JPEG", quality=88)
        kind = "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(out.getvalue()).decode("ascii")
