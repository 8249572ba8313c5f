"""Concept Guard's look at pictures, around a whole run of ComfyUI's sampler.

A picture that is handed in to be edited and shows a concept is not edited: its prompt is drawn from noise. A
finished picture that shows one is drawn again, with the guard strict (sage_core/guard.py).
"""

from __future__ import annotations

import comfy.samplers
import torch

from ..sage_core.domain.shown import share_of, shown

WHOLE = 0.99  # of the model's most noise: a run that begins there keeps nothing of a picture
TRAINED_TIMES = 1000


class Pictures:
    """Called by ComfyUI in place of a sampler's run. watch: guarded.Watch, on the same model."""

    def __init__(self, watch):
        self.watch = watch

    def __call__(
        self,
        run,
        guider,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        quiet=False,
    ) -> torch.Tensor:
        """Latents of pictures, as the model has them. Its arguments are those of comfy's Sampler.sample."""
        model, options = guider.inner_model, extra_args["model_options"]

        def drawn(sigmas, noise, latents, mask, strict=False) -> torch.Tensor:
            self.watch.strict = strict
            self.watch.sigma = 0.0  # of no run yet, so that a run of a single step begins too
            options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas
            try:
                return run(guider, sigmas, extra_args, callback, noise, latents, mask, quiet)
            finally:
                self.watch.strict = False

        if len(sigmas) < 2 or float(sigmas[-1]) > 0:  # another sampler finishes the picture
            return drawn(sigmas, noise, latent_image, denoise_mask)
        most = float(model.model_sampling.sigma_max)
        whole = float(sigmas[0]) >= WHOLE * most
        full = sigmas if whole else _all_sigmas(model, len(sigmas) - 1).to(sigmas)
        fresh = noise if noise.count_nonzero() else _noise_like(noise, extra_args.get("seed"))
        nothing = torch.zeros_like(noise)
        given = latent_image is not None and denoise_mask is None and not whole and noise is fresh
        look = given and latent_image.count_nonzero()
        gone = self._shows(model, latent_image, options) if look else None
        if gone is not None and gone.all():
            out = drawn(full, fresh, nothing, None)
        else:
            out = drawn(sigmas, noise, latent_image, denoise_mask)
            if gone is not None and gone.any():
                out = _where(gone, drawn(full, fresh, nothing, None), out)
        still = self._shows(model, out, options)
        if not still.any():
            return out
        latents = nothing if denoise_mask is None else latent_image
        return _where(still, drawn(full, fresh, latents, denoise_mask, strict=True), out)

    def _shows(self, model, latents: torch.Tensor, options: dict) -> torch.Tensor:
        """Which pictures show one of the concepts; [n], bool. latents: clean, as the model has them."""
        sampling, every = model.model_sampling, list(range(len(self.watch.conds) - 1))

        def shares(time: int, noise: torch.Tensor) -> list[torch.Tensor]:
            sigma = torch.tensor([sampling.percent_to_sigma(1 - time / TRAINED_TIMES)]).to(latents)
            x = sampling.noise_scaling(sigma, noise.expand_as(latents), latents)
            base, *towards = self.watch.predicted(model, x, sigma.expand(len(x)), every, options)
            return [share_of(latents, base, toward) for toward in towards]

        return shown(latents, shares)


def _all_sigmas(model, steps: int) -> torch.Tensor:
    """Of a run of so many steps that begins with noise."""
    return comfy.samplers.calculate_sigmas(model.model_sampling, "normal", steps)


def _noise_like(noise: torch.Tensor, seed: int | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed or 0)
    return torch.randn(noise.shape, generator=generator).to(noise)


def _where(which: torch.Tensor, these: torch.Tensor, those: torch.Tensor) -> torch.Tensor:
    return torch.where(which.view(-1, *[1] * (these.ndim - 1)), these.to(those), those)
