"""The model as an eraser sees it: encode a prompt, predict the noise, sample, decode.

Every UNet pass is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from .architecture import Family
from .cost import Cost
from .knowledge import UNKNOWN, Knowledge
from .networks import flow_noise, unet_output
from .schedule import name_of
from .text import Conditioning, TextStack

AGAIN = 46_000  # seed of what a guard has drawn from noise in place of an edit


class Guard(Protocol):
    """Keeps a concept away while a picture is drawn (sage_core/guard.py). again: pictures drawn again."""

    again: int

    def begin(self, strict: bool = False) -> None: ...

    def shows(self, z0: torch.Tensor) -> torch.Tensor: ...

    def __call__(self, z: torch.Tensor, t: torch.Tensor, guided: torch.Tensor) -> torch.Tensor: ...


@dataclass
class DiffusionModel:
    """A latent diffusion model, whichever layout it came from.

    Nothing in it is trained; adapters are hung on it.
    """

    family: Family
    text: TextStack
    unet: torch.nn.Module  # the network that predicts: a UNet, or a family's transformer
    vae: torch.nn.Module | None
    alphas: (
        torch.Tensor
    )  # the noise schedule: cumulative products of 1 - beta, [1000], never 0 (see schedule.py)
    velocity: bool  # the UNet predicts v instead of epsilon
    source: str  # what the user named: a path, or where the weights came from
    fingerprint: str = ""  # SHA-256 over the UNet's and text encoders' tensors
    pixels: int = 512
    cost: Cost = field(default_factory=Cost)
    at_once: int | None = None  # at most this number of samples go through the UNet together; None: no limit
    readings: dict[str, torch.Tensor] = field(
        default_factory=dict
    )  # of words by the untouched text encoder; erasures of one model share them
    knowledge: Knowledge = UNKNOWN  # set by whoever loads a model and recognises it
    on_pass: Callable[[], None] | None = (
        None  # called before every UNet pass; a host raises its own interrupt from here
    )
    guard: Guard | None = None  # what every guided prediction of the sampler goes through

    @property
    def hosted(self) -> bool:
        """Whether a host runs the network and sees to its memory (diffusion/hosted.py)."""
        return False

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return next(self.unet.parameters()).dtype

    def to(self, device: torch.device | str) -> DiffusionModel:
        """Move what training needs; the autoencoder follows when pictures are drawn."""
        for module in (*self.text.modules, self.unet):
            module.to(device)
        self.alphas = self.alphas.to(device)
        return self

    @property
    def prediction(self) -> str:
        """What the network predicts, as modelspec.prediction_type names it, or "flow"."""
        if self.family.flow:
            return "flow"
        return "v" if self.velocity else "epsilon"

    @property
    def schedule(self) -> str:
        """The noise schedule's name; empty for Stable Diffusion's own."""
        return name_of(self.alphas)

    @property
    def sampling(self) -> str:
        """What the network predicts, "epsilon", "v" or "flow", and the noise schedule's name where it is not
        Stable Diffusion's own. The same weights, sampled in another way, are another model to erase from.
        """
        return f"{self.prediction}, {self.schedule}" if self.schedule else self.prediction

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.pixels // self.family.compression
        return self.family.latent_channels, side, side

    def encode(self, prompts: list[str]) -> Conditioning:
        """Conditioning of prompts, with whatever adapter is switched on."""
        return self.text(prompts)

    def predict_noise(self, z: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """epsilon(z_t, t, h): noise predicted in `z` [n, c, h, w] at integer timesteps `t` [n]; float32.

        A v-predicting UNet is turned into one that predicts epsilon: eps = sqrt(abar) v + sqrt(1 - abar) z.
        At the last timestep of a zero-terminal-SNR schedule that is z itself, whatever the prompt. So is a
        rectified flow (networks.py).
        """
        if self.at_once is not None and len(z) > self.at_once and not torch.is_grad_enabled():
            parts = [slice(i, i + self.at_once) for i in range(0, len(z), self.at_once)]
            return torch.cat([self.predict_noise(z[p], t[p], cond[p]) for p in parts])
        if self.on_pass is not None:
            self.on_pass()
        out = self.output(z, t, cond)
        self.cost.forwards += len(z)
        if out.requires_grad:
            self.cost.backwards += len(z)
        if self.velocity:
            a = self.alphas[t].view(-1, 1, 1, 1)
            out = a.sqrt() * out + (1 - a).sqrt() * z.float()
        return out

    def output(self, z: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """What the network predicts, epsilon or v, and a flow's noise; [n, c, h, w], float32."""
        if self.family.flow:
            return flow_noise(self.unet, z, self.alphas[t], cond, self.dtype)
        return unet_output(self.unet, z, t, cond, self.dtype, self.pixels)

    def guided(
        self, z: torch.Tensor, t: torch.Tensor, cond: Conditioning, empty: Conditioning, guidance: float
    ) -> torch.Tensor:
        """Classifier-free guidance; one batch of twice the size."""
        conditional, unconditional = self.predict_noise(
            torch.cat([z, z]), torch.cat([t, t]), Conditioning.cat([cond, empty])
        ).chunk(2)
        return unconditional + guidance * (conditional - unconditional)

    def noise(self, seeds: list[int]) -> torch.Tensor:
        """Initial latents, one per seed, drawn on the CPU so that every device starts from the same ones."""
        draw = [torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(draw).to(self.device)

    def scheduler(self, steps: int):
        """A second-order multistep solver (DPM-Solver++, Lu et al. 2022) over this model's noise schedule."""
        from diffusers import DPMSolverMultistepScheduler

        solver = DPMSolverMultistepScheduler(
            trained_betas=self._betas(),
            algorithm_type="dpmsolver++",
            solver_order=2,
            timestep_spacing="trailing",
            final_sigmas_type="zero",
            lower_order_final=True,
        )
        solver.set_timesteps(steps, device=self.device)
        return solver

    def _betas(self):
        previous = torch.cat([torch.ones(1), self.alphas[:-1].cpu()])
        return (1 - self.alphas.cpu() / previous).numpy()

    @torch.no_grad()
    def sample(
        self,
        cond: Conditioning,
        seeds: list[int],
        steps: int = 20,
        guidance: float = 5.0,
        empty: Conditioning | None = None,
    ) -> torch.Tensor:
        """Denoise from seeded noise; latents [n, 4, h, w].

        `empty` defaults to the empty prompt, encoded with the current adapter.
        """
        empty = Conditioning.cat([self.encode([""])] * len(seeds)) if empty is None else empty
        solver = self.scheduler(steps)
        return self.denoise(self.noise(seeds), solver, solver.timesteps, cond, empty, guidance)

    @torch.no_grad()
    def denoise(
        self,
        z: torch.Tensor,
        solver,
        times: torch.Tensor,
        cond: Conditioning,
        empty: Conditioning,
        guidance: float,
        keep: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Latents z [n, 4, h, w], noisy as at the first of the solver's `times`, denoised; past the guard,
        which has those drawn again that show its concept.

        keep: puts back what must stay in the latents after each step, by the step's number.
        """
        drawn = self._denoise(z, solver, times, cond, empty, guidance, keep)
        if self.guard is None:
            return drawn
        shown = self.guard.shows(drawn)
        if not shown.any():
            return drawn
        self.guard.again += int(shown.sum())
        whole = len(times) == len(solver.timesteps)
        start = z if whole else self.noise([AGAIN]).expand_as(z)
        anew = self.scheduler(len(solver.timesteps))
        again = self._denoise(start, anew, anew.timesteps, cond, empty, guidance, keep, strict=True)
        return torch.where(shown.view(-1, 1, 1, 1), again, drawn)

    def _denoise(
        self, z, solver, times, cond, empty, guidance: float, keep=None, strict: bool = False
    ) -> torch.Tensor:
        """`denoise` without the look at what was drawn. strict: whether the guard is."""
        if self.guard is not None:
            self.guard.begin(strict)
        for number, t in enumerate(times):
            predicted = self.guided(z, t.expand(len(z)), cond, empty, guidance)
            if self.guard is not None:
                predicted = self.guard(z, t, predicted)
            z = solver.step(predicted, t, z).prev_sample
            if keep is not None:
                z = keep(z, number)
        return z

    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Latents to images [n, 3, H, W] in [-1, 1], float32; a few at a time, since an autoencoder takes
        much memory a pixel.
        """
        self.vae.to(z.device)
        own = next(self.vae.parameters()).dtype
        parts = (z / self.vae.config.scaling_factor + self._vae_shift()).to(own).split(together(self.pixels))
        return torch.cat([self.vae.decode(part, return_dict=False)[0].float() for part in parts]).clamp(-1, 1)

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Images [n, 3, H, W] in [-1, 1] to latents [n, 4, h, w], float32: the inverse of `decode`."""
        assert self.vae is not None
        self.vae.to(self.device)
        own = next(self.vae.parameters())
        latents = []
        for part in images.to(own).split(together(self.pixels)):
            out = self.vae.encode(part)
            latents.append(out.latents if hasattr(out, "latents") else out.latent_dist.mode())
        return (torch.cat(latents).float() - self._vae_shift()) * self.vae.config.scaling_factor

    def _vae_shift(self) -> float:
        """What the autoencoder's latents are shifted by; a TAESD, whose config has another meaning for it, by
        nothing.
        """
        assert self.vae is not None
        tiny = type(self.vae).__name__ == "AutoencoderTiny"
        return 0.0 if tiny else self.vae.config.get("shift_factor") or 0.0

    def generate(
        self, prompts: list[str], seeds: list[int], steps: int = 20, guidance: float = 5.0
    ) -> torch.Tensor:
        """Images [n, 3, H, W] of prompts and their seeds, as many at once as their size allows."""
        images, batch = [], together(self.pixels)
        for i in range(0, len(prompts), batch):
            with torch.no_grad():
                cond = self.text.encode(self.text.tokenize(prompts[i : i + batch], truncate=True))
            images.append(self.decode(self.sample(cond, seeds[i : i + batch], steps, guidance)))
        return torch.cat(images)


def together(pixels: int) -> int:
    """Number of pictures of that side that are drawn at once: 16 small ones, 4 of 512, one of 1024."""
    return min(16, max(1, 2**20 // pixels**2))
