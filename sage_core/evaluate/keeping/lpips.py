"""LPIPS (Zhang et al., arXiv 1801.03924) by torchmetrics, over a backbone that the user has as a file.

torchmetrics carries the linear layers. The backbone, of 10 to 60 MB, it would download: here it is read from
a .safetensors file with torchvision's tensor names, such as timm's vgg16.tv_in1k.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...diffusion.weights import copied, opened
from ...errors import SageError, one_line, shown

AT_ONCE = 16  # pairs of pictures
TITLES = {"vgg": "VGG-16", "alex": "AlexNet", "squeeze": "SqueezeNet 1.1"}
INSTALL = "install them with: pip install torchmetrics torchvision, torchvision from where torch came from"


class Lpips:
    """The distance of pairs of pictures. name: of the backbone."""

    def __init__(self, network: Any, name: str):
        self.network, self.name = network, name

    @classmethod
    def read(cls, path: Path) -> Lpips:
        """Raises SageError where the file is no backbone, or the libraries are not installed."""
        tensors = _tensors(path)
        name = _backbone(tensors, path)
        try:
            from torchmetrics.functional.image.lpips import _LPIPS  # the public class always downloads
        except (ImportError, RuntimeError, OSError) as error:  # a torchvision of another torch
            raise SageError(
                f"LPIPS needs torchmetrics and torchvision ({one_line(error)}); {INSTALL}"
            ) from error
        try:
            network = _LPIPS(net=name, pnet_rand=True)
        except (ImportError, NameError, RuntimeError) as error:  # torchmetrics without torchvision
            raise SageError(f"LPIPS needs torchvision ({one_line(error)}); {INSTALL}") from error
        own = {key: tensors.get(_feature(key)) for key in network.net.state_dict()}
        missing = [_feature(key) for key, tensor in own.items() if tensor is None]
        if missing:
            raise SageError(
                f"The LPIPS backbone in {str(path)!r} lacks {len(missing)} tensors of {TITLES[name]} (first"
                f" {shown(missing[0])})."
            )
        try:
            network.net.load_state_dict({key: tensor.float() for key, tensor in own.items()})
        except RuntimeError as error:
            raise SageError(
                f"The LPIPS backbone in {str(path)!r} does not fit {TITLES[name]} ({one_line(error)})."
            ) from error
        return cls(network.eval(), TITLES[name])

    @torch.no_grad()
    def __call__(self, before: torch.Tensor, after: torch.Tensor) -> list[float]:
        """Of each pair of pictures [n, 3, H, W] in [-1, 1]; 0 is the same picture."""
        pairs = zip(before.float().cpu().split(AT_ONCE), after.float().cpu().split(AT_ONCE))
        return [value for a, b in pairs for value in self.network(a, b).flatten().tolist()]


def _feature(key: str) -> str:
    """torchvision's name of a tensor that LPIPS calls slice2.4.weight or slices.1.3.squeeze.weight."""
    parts = key.split(".")
    return ".".join(["features", *parts[2 if parts[0] == "slices" else 1 :]])


def _backbone(tensors: dict[str, torch.Tensor], path: Path) -> str:
    """The backbone's name for LPIPS, by its tensors."""
    first = tensors.get("features.0.weight")
    if first is not None and tuple(first.shape) == (64, 3, 11, 11):
        return "alex"
    if "features.3.squeeze.weight" in tensors:
        return "squeeze"
    if "features.28.weight" in tensors:
        return "vgg"
    raise SageError(
        f"There is no LPIPS backbone in {str(path)!r}; give a .safetensors file of VGG-16, AlexNet or"
        " SqueezeNet 1.1 with torchvision's names (features.0.weight, ...)."
    )


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with opened(path / "model.safetensors" if path.is_dir() else path) as file:
        return copied(file)
