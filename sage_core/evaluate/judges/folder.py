"""Image networks from a local folder, as transformers saves them.

Nothing is downloaded, nothing is unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...errors import SageError, one_line, shown
from ...files import parse_json
from ..pictures import to_pil

AT_ONCE = 16  # pictures
LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Preparation:
    """What a network wants of a picture. side: it is resized to; crop: the middle of that which is taken;
    mean and std: of the three channels, in [0, 1]. resample: PIL's filter.
    """

    side: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC

    @classmethod
    def read(cls, folder: Path) -> Preparation:
        """From preprocessor_config.json. Raises SageError where that cannot be used."""
        try:
            config = _json(folder / "preprocessor_config.json")
            size = config["size"]
            side = size if isinstance(size, int) else size.get("shortest_edge") or size["height"]
            crop = config.get("crop_size", side) if config.get("do_center_crop") else side
            crop = crop if isinstance(crop, int) else crop["height"]
            normal = config.get("do_normalize", True)
            mean = config["image_mean"] if normal else [0.0] * 3
            std = config["image_std"] if normal else [1.0] * 3
            resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))
            own = cls(side, crop, tuple(map(float, mean)), tuple(map(float, std)), resample)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SageError(
                f"preprocessor_config.json in {str(folder)!r} does not say how pictures are prepared"
                f" ({one_line(error)}); the folder needs the file that transformers saves."
            ) from error
        right = 1 <= own.crop <= own.side <= LARGEST and len(own.mean) == len(own.std) == 3 and all(own.std)
        if not right:
            raise SageError(f"The sizes or values in {str(folder / 'preprocessor_config.json')!r} are wrong.")
        return own

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures [n, 3, H, W] in [-1, 1] as the network wants them, [n, 3, crop, crop], on the CPU."""
        edge = (self.side - self.crop) // 2
        middle = (edge, edge, edge + self.crop, edge + self.crop)
        rows = []
        for image in images:
            # By PIL, which the networks' own preparation uses: other filters round in other ways.
            picture = to_pil(image).resize((self.side, self.side), self.resample).crop(middle)
            rows.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
        shape = (1, 3, 1, 1)
        mean, std = torch.tensor(self.mean).view(shape), torch.tensor(self.std).view(shape)
        return (torch.stack(rows) - mean) / std


def key_of_folder(folder: Path) -> str:
    """SHA-256 over the names and bytes of the files that a network is read from."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json", ".txt"):
            whole.update(path.name.encode())
            with open(path, "rb") as file:
                while chunk := file.read(2**24):
                    whole.update(chunk)
    return whole.hexdigest()


def config_of(folder: Path) -> dict:
    """The folder's config.json. Raises SageError where there is none."""
    try:
        return _json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise SageError(
            f"There is no judge in the folder {str(folder)!r} ({one_line(error)}); it needs config.json and"
            " model.safetensors, as transformers saves them."
        ) from error


def _json(path: Path) -> dict:
    """Raises ValueError for what is no JSON object, and for a file that is not there."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value


def load(folder: Path, load_from: Callable[..., Any]) -> Any:
    """A network by its class's `from_pretrained`, in float32. Raises SageError where the folder's safetensors
    do not fill it: transformers would make up what is missing.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        network, found = load_from(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        raise SageError(f"The judge in {str(folder)!r} cannot be loaded ({one_line(error)}).") from error
    finally:
        logging.enable_progress_bar()
    if missing := sorted(found["missing_keys"]):
        raise SageError(
            f"The judge in {str(folder)!r} lacks {len(missing)} of its tensors (first {shown(missing[0])});"
            " it would judge by chance."
        )
    return network.float().eval()


def in_parts(
    images: torch.Tensor,
    prepare: Preparation,
    device: torch.device,
    look: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """What `look` says of prepared pictures, a few at a time; [n, ...] on the CPU."""
    parts = [look(prepare(part).to(device)).cpu() for part in images.split(AT_ONCE)]
    return torch.cat(parts)
