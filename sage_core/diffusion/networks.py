"""How each kind of network is called: Stable Diffusion's UNets, and SD3's transformer."""

from __future__ import annotations

import torch

from .schedule import flow_time
from .text import Conditioning


def unet_output(
    unet: torch.nn.Module,
    z: torch.Tensor,
    t: torch.Tensor,
    cond: Conditioning,
    dtype: torch.dtype,
    pixels: int,
) -> torch.Tensor:
    """What a UNet of SD 1.x, 2.x or XL predicts, epsilon or v, [n, 4, h, w]; float32."""
    added = added_conditions(cond, pixels)
    out = unet(z.to(dtype), t, cond.hidden.to(dtype), added_cond_kwargs=added, return_dict=False)[0]
    return out.float()


def added_conditions(cond: Conditioning, pixels: int) -> dict | None:
    """SDXL's pooled states, and its sizes and crops, [n, 6]: an uncropped square. None for SD 1.x and 2.x."""
    if cond.pooled is None:
        return None
    size = [pixels, pixels, 0, 0, pixels, pixels]
    time_ids = torch.tensor([size], dtype=cond.pooled.dtype, device=cond.pooled.device).expand(len(cond), -1)
    return {"text_embeds": cond.pooled, "time_ids": time_ids}


def flow_noise(
    transformer: torch.nn.Module,
    z: torch.Tensor,
    abar: torch.Tensor,
    cond: Conditioning,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The noise that a rectified-flow transformer predicts in z [n, c, h, w], float32.

    z is the variance-preserving state of the schedule; the flow's is x = z sqrt((1 - s)^2 + s^2) =
    (1 - s) z_0 + s noise. The network predicts v = noise - z_0 there, so noise = x + (1 - s) v. At s = 1
    that is x itself, whatever the prompt. abar: [n]. (Time 1000 s, as SD3 has it.)
    """
    x, s = mixture(z, abar)
    assert cond.pooled is not None
    v = transformer(
        x.to(dtype),
        encoder_hidden_states=cond.hidden.to(dtype),
        pooled_projections=cond.pooled.to(dtype),
        timestep=1000 * s,
        return_dict=False,
    )[0].float()
    return x + (1 - s.view(-1, 1, 1, 1)) * v


def mixture(z: torch.Tensor, abar: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A rectified flow's own state x [n, c, h, w], float32, and its time s [n], of the schedule's z."""
    s = flow_time(abar)
    wide = s.view(-1, 1, 1, 1)
    return z.float() * ((1 - wide).square() + wide.square()).sqrt(), s
