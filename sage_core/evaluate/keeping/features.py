"""FID and KID by torchmetrics, over the features of a judge.

Published values are over Inception's features; these are over a judge's, and named so. Compare them with each
other only, and with `other_seeds`: the same distance between the untouched model's pictures of the same
prompts from two sets of seeds. That is what chance alone gives with so many pictures.

FID: Heusel et al., arXiv 1706.08500. KID: Bińkowski et al., arXiv 1801.01401.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol, runtime_checkable

import torch

from ...errors import SageError, one_line

FEWEST = 2  # pictures that have a covariance
SUBSET = 1000  # pictures of a KID estimate; of more, several are averaged
SUBSETS = 100
INSTALL = "install it with: pip install torchmetrics"


@runtime_checkable
class HasFeatures(Protocol):
    """A judge whose features can be compared."""

    name: str

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Of pictures [n, 3, H, W] in [-1, 1]; [n, d] on the CPU."""


class _Given(torch.nn.Module):
    """Hands features through: torchmetrics takes a network, and they are there already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def fid(first: torch.Tensor, second: torch.Tensor) -> float:
    """The Frechet distance of two Gaussians with the means and covariances of features [n, d] and [m, d]:
    |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). Raises SageError without torchmetrics.
    """
    metric = _metrics().fid.FrechetInceptionDistance(feature=_Given(first.shape[1]))
    metric.update(first.double(), real=True)
    metric.update(second.double(), real=False)
    return float(metric.compute())


def kid(first: torch.Tensor, second: torch.Tensor) -> float:
    """The unbiased estimate of the squared MMD of two sets of features under the kernel (x.y / d + 1)^3. It
    may lie below 0. Raises SageError without torchmetrics.
    """
    most = min(len(first), len(second))
    subsets = 1 if most == max(len(first), len(second)) <= SUBSET else SUBSETS
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that features are kept in memory
        torch.manual_seed(0)
        metric = _metrics().kid.KernelInceptionDistance(
            feature=_Given(first.shape[1]), subsets=subsets, subset_size=min(most, SUBSET)
        )
        metric.update(first.double(), real=True)
        metric.update(second.double(), real=False)
        return float(metric.compute()[0])


def compared(
    judge: HasFeatures, before: torch.Tensor, after: torch.Tensor, again: torch.Tensor
) -> dict[str, Any]:
    """FID and KID of pictures [n, 3, H, W] for the report. again: the untouched model's, of the same prompts
    from other seeds. Raises SageError without torchmetrics.
    """
    own, changed, chance = (judge.features(pictures).double() for pictures in (before, after, again))
    return {
        "over": f"features of {judge.name}",
        "dimensions": own.shape[1],
        "pictures": len(own),
        "fid": round(fid(own, changed), 4),
        "kid": round(kid(own, changed), 6),
        "other_seeds": {"fid": round(fid(own, chance), 4), "kid": round(kid(own, chance), 6)},
    }


def missing() -> str:
    """Why FID and KID cannot be measured here; empty where they can."""
    try:
        _metrics()
    except SageError as error:
        return str(error)
    return ""


def _metrics() -> Any:
    """torchmetrics.image, with `fid` and `kid`."""
    try:
        import torchmetrics.image.fid
        import torchmetrics.image.kid
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision of another torch stops it too
        raise SageError(f"FID and KID need torchmetrics ({one_line(error)}); {INSTALL}") from error
    return torchmetrics.image
