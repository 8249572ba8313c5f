"""The noise schedule: abar_t, the share of the picture's variance that is left at each of the UNet's 1000
timesteps.

z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise. Nearly every Stable Diffusion model has the same schedule; a
zero-terminal-SNR model (Lin et al., arXiv 2305.08891) has one that ends in pure noise.

A rectified flow mixes x = (1 - s) z_0 + s noise instead. Divided by sqrt((1 - s)^2 + s^2), that is the z of a
schedule with abar = (1 - s)^2 / ((1 - s)^2 + s^2). So a flow is one more schedule here, and only the model's
call of its network knows of s (diffusion/networks.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..errors import SageError, shown

STEPS = 1000
# abar at the end of a zero-terminal-SNR schedule, ComfyUI's value: a zero cannot be divided by
TERMINAL = 4.8973451890853435e-08
ZERO_TERMINAL = "zero terminal SNR"
FLOW_SHIFT = 3.0  # Stable Diffusion 3's
NAMED_AT = range(0, STEPS, 111)  # timesteps whose abar names a schedule that is not known


def standard() -> torch.Tensor:
    """abar_t [1000] of Stable Diffusion's own schedule."""
    return _of_betas(_betas({}))


def zero_terminal_snr(alphas: torch.Tensor) -> torch.Tensor:
    """The same schedule shifted and scaled so that its last timestep is pure noise (algorithm 1 of arXiv
    2305.08891); [1000].

    The last value is TERMINAL instead of 0, so that a prediction of v can still be written as one of noise.
    """
    root = alphas.double().sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root.square().clamp_min(TERMINAL).float()


def flow(shift: float = FLOW_SHIFT) -> torch.Tensor:
    """abar_t [1000] of a rectified flow whose times are shifted towards noise (Esser et al. 2024, arXiv
    2403.03206, equation 23): s = shift u / (1 + (shift - 1) u).
    """
    u = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS
    s = shift * u / (1 + (shift - 1) * u)
    kept = (1 - s).square()
    return (kept / (kept + s.square())).clamp_min(TERMINAL).float()


def flow_time(abar: torch.Tensor) -> torch.Tensor:
    """s, the share of noise in a rectified flow's mixture, from 0 to 1, where abar is the schedule's."""
    ratio = ((1 - abar) / abar).sqrt()
    return ratio / (1 + ratio)


def flow_shift(alphas: torch.Tensor) -> float | None:
    """The shift of a rectified flow's schedule; None where the schedule is not one."""
    middle = flow_time(alphas[STEPS // 2 - 1].double())
    shift = round(float(middle / (1 - middle)), 3)  # u is 1/2 there
    return shift if _same(flow(shift), alphas.double()) else None


def from_config(config: Mapping, flows: bool = False) -> torch.Tensor:
    """abar_t [1000] of a diffusers scheduler's configuration. flows: whether the model is a rectified flow.

    Raises SageError where it is not a schedule of discrete noise, or not a flow's.
    """
    kind, steps = str(config.get("_class_name", "")), config.get("num_train_timesteps", STEPS)
    if flows:
        if kind != "FlowMatchEulerDiscreteScheduler" or steps != STEPS:
            raise SageError(
                f"The model's scheduler is {shown(kind)}; a flow transformer's is"
                " FlowMatchEulerDiscreteScheduler with 1000 timesteps. The configuration was altered."
            )
        return flow(float(config.get("shift") or FLOW_SHIFT))
    if kind.startswith("EDM") or "Flow" in kind:
        raise SageError(
            f"The model's scheduler is {kind}, which is not Stable Diffusion's discrete noise schedule; this"
            " model cannot be used."
        )
    if steps != STEPS:
        raise SageError(
            f"The model's scheduler has {steps!r} timesteps; only models with {STEPS} can be used."
        )
    alphas = _of_betas(_betas(config))
    return checked(zero_terminal_snr(alphas) if config.get("rescale_betas_zero_snr") else alphas)


def _betas(config: Mapping) -> torch.Tensor:
    """beta_t [1000], float64."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    start, end, name = (
        config.get("beta_start", 0.00085),
        config.get("beta_end", 0.012),
        config.get("beta_schedule", "scaled_linear"),
    )
    if name == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, STEPS, dtype=torch.float64) ** 2
    if name == "linear":
        return torch.linspace(start, end, STEPS, dtype=torch.float64)
    if name == "squaredcos_cap_v2":
        t = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
        left = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - left[1:] / left[:-1]).clamp_max(0.999)
    raise SageError(
        f"The noise schedule {name!r} is not known (scaled_linear, linear and squaredcos_cap_v2 are); this"
        " model cannot be used."
    )


def _of_betas(betas: torch.Tensor) -> torch.Tensor:
    return torch.cumprod(1 - betas, 0).float()


def checked(alphas: torch.Tensor) -> torch.Tensor:
    """A schedule as it can be trained on: float32, never 0, and exactly the known one where it is that one up
    to rounding, so that the same model trains the same LoRA whoever passes its schedule on. Raises SageError
    where it is not a schedule of 1000 timesteps.
    """
    alphas = alphas.detach().cpu().double().clone()
    if alphas.shape != (STEPS,):
        raise SageError(
            f"The noise schedule has {alphas.numel()} timesteps; only models with {STEPS} can be used."
        )
    falls = bool((alphas[1:] <= alphas[:-1]).all())
    if not torch.isfinite(alphas).all() or not falls or alphas[-1] < 0 or alphas[0] > 1 or alphas[0] <= 0:
        raise SageError(
            f"The noise schedule goes from {alphas[0]:.3g} to {alphas[-1]:.3g} and does not fall from 1 to 0;"
            " the model's scheduler configuration was altered."
        )
    alphas = alphas.clamp_min(TERMINAL)
    shift = flow_shift(alphas)
    known = (standard(), zero_terminal_snr(standard()), *([] if shift is None else [flow(shift)]))
    return next((k for k in known if _same(k, alphas)), alphas.float())


def _same(known: torch.Tensor, alphas: torch.Tensor) -> bool:
    """Up to what float32 rounds on the way through sigma, or another program's smallest value at the end."""
    close = torch.isclose(known.double(), alphas, rtol=1e-3, atol=0)
    return bool(close[:-1].all()) and bool(
        torch.isclose(known[-1].double(), alphas[-1], rtol=1e-3, atol=1e-7)
    )


def is_zero_terminal(alphas: torch.Tensor) -> bool:
    """Whether the last timestep is pure noise, so that nothing of the picture can be seen in
    it.
    """
    return float(alphas[-1]) < 1e-6


def name_of(alphas: torch.Tensor) -> str:
    """Name of a noise schedule: "" for Stable Diffusion's own, else its name or a few of its values.

    Equal names are equal schedules.
    """
    alphas = alphas.cpu()
    if _same(standard(), alphas.double()):
        return ""
    if _same(zero_terminal_snr(standard()), alphas.double()):
        return ZERO_TERMINAL
    if (shift := flow_shift(alphas)) is not None:
        return f"shift {shift:g}"
    return "abar " + " ".join(f"{alphas[t]:.3g}" for t in NAMED_AT)
