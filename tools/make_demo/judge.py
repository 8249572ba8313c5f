"""Train the probe on real drawings only: the four styles of the model, and three sets that the model never
sees.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from sage_core.demo.probe import Probe
from sage_core.demo.vocabulary import Vocabulary

from . import art
from .optim import Schedule


def pictures(vocabulary: Vocabulary, art_dir: str, copies: int, seed: int):
    """Images uint8 [n, 3, 64, 64], concept labels [n], style labels [n] (-1: a set that is not one of the
    styles).
    """
    rng = np.random.default_rng(seed)
    images, concepts, styles = [], [], []
    for i, name in enumerate(vocabulary.names):
        for _ in range(copies):
            for j, style in enumerate(art.STYLE_SETS):
                images.append(
                    art.draw(art_dir, name, style, tuple(rng.choice(art.PLACEMENTS)))
                    if style == "pixel art" or rng.random() < 0.3
                    else art.place_freely(art.drawing(art_dir, art.STYLE_SETS[style], name), rng)
                )
                concepts.append(i)
                styles.append(j)
            for other in art.PROBE_SETS:
                source = art.drawing(art_dir, other, name)
                if source is not None:
                    images.append(art.place_freely(source, rng))
                    concepts.append(i)
                    styles.append(-1)
    return (
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
        torch.tensor(concepts),
        torch.tensor(styles),
    )


def spoil(x: torch.Tensor) -> torch.Tensor:
    """Blur, noise, tint, contrast and covered corners: ordinary damage, none of it from a generator."""
    n = len(x)
    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    pick = torch.rand(n, 1, 1, 1)
    x = torch.where(pick < 0.3, blurred, torch.where(pick < 0.5, soft, x))
    x = x * (0.8 + 0.4 * torch.rand(n, 3, 1, 1)) + 0.15 * torch.randn(n, 3, 1, 1)
    x = x + 0.12 * torch.rand(n, 1, 1, 1) * torch.randn_like(x)
    top, left = torch.randint(0, 64, (2, n)).tolist()
    for i in range(0, n, 3):
        x[i, :, top[i] : top[i] + 14, left[i] : left[i] + 14] = 1.0
    return x.clamp(-1, 1)


def train(
    vocabulary: Vocabulary, art_dir: str, seconds: float, out: Path, batch: int = 128, seed: int = 0
) -> Probe:
    torch.manual_seed(seed)
    images, concepts, styles = pictures(vocabulary, art_dir, 12, seed)
    probe = Probe(len(vocabulary.names), len(vocabulary.styles))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = Schedule([optimizer], seconds)
    start, step = time.time(), 0
    while (elapsed := time.time() - start) < seconds:
        schedule(elapsed)
        index = torch.randint(len(images), (batch,))
        with torch.autocast("cpu", torch.bfloat16):
            c, s = probe(spoil(images[index].float().div(127.5).sub(1)))
        loss = F.cross_entropy(c.float(), concepts[index], label_smoothing=0.05) + 0.5 * F.cross_entropy(
            s.float(), styles[index], ignore_index=-1
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % 50 == 0:
            right = (c.argmax(-1) == concepts[index]).float().mean().item()
            print(
                f"probe {elapsed:5.0f} s  step {step}  loss {loss.item():.3f}  right {right:.3f}", flush=True
            )
    save_file({k: v.half() if v.is_floating_point() else v for k, v in probe.state_dict().items()}, out)
    return probe.eval()


@torch.no_grad()
def accuracy(vocabulary: Vocabulary, probe: Probe, art_dir: str, seed: int = 1) -> dict[str, float]:
    """On drawings placed afresh: how often the concept and the style are named rightly."""
    images, concepts, styles = pictures(vocabulary, art_dir, 2, seed)
    named, styled = [], []  # logits of the concepts and of the styles, by batch
    for batch in images.split(256):
        of_concepts, of_styles = probe(batch.float().div(127.5).sub(1))
        named.append(of_concepts)
        styled.append(of_styles)
    right = (torch.cat(named).argmax(-1) == concepts).float()
    right_style = (torch.cat(styled).argmax(-1) == styles).float()
    own = styles >= 0
    return {
        "concept, the model's styles": right[own].mean().item(),
        "concept, other sets": right[~own].mean().item(),
        "style": right_style[own].mean().item(),
    }
