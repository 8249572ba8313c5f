"""Which of ComfyUI's flow models can be trained through (hosted.py). Several models share one of its classes:
what sets them apart is read from the configuration that ComfyUI made of the file.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..sage_core.errors import SageError

if TYPE_CHECKING:
    from ..sage_core.diffusion.architecture import Family

KINDS = {  # ComfyUI's classes
    "Flux": "flux1",
    "Chroma": "chroma",
    "Flux2": "flux2",
    "QwenImage": "qwen_image",
    "SD3": "sd3_t5",
    "Lumina2": "z_image",
}
PIXELS = {
    "ChromaRadiance": ("Chroma Radiance", "Chroma itself"),
    "ZImagePixelSpace": ("This variant of Z-Image", "Z-Image itself"),
}
INPUT = "diffusion_model.img_in.weight"


def family_of(model, clip) -> Family | None:
    """The hosted family of the graph's MODEL, by ComfyUI's own class and its modules; None for any other.

    Stable Diffusion 3 is one with a CLIP that has T5, which ComfyUI pads in a way of its own. Without T5 the
    core has a network for it.
    """
    from ..sage_core.diffusion.hosted_families import HOSTED, diffusers_names

    kind, network = type(model.model).__name__, model.model.diffusion_model
    if kind not in KINDS:
        return unlisted(model)
    family = HOSTED[KINDS[kind]]
    paths = {path for path, _ in network.named_modules()}
    if kind == "SD3" and getattr(getattr(clip, "cond_stage_model", None), "t5xxl", None) is None:
        return None
    if kind == "Lumina2" and not _config(model).get("z_image_modulation"):  # other names in diffusers
        return unlisted(model)
    if kind == "Flux" and not {"vector_in.in_layer", "txt_in"} <= paths:  # others of its class
        return unlisted(model)
    if kind == "Flux" and "guidance_in.in_layer" not in paths:
        family = dataclasses.replace(family, modelspec="flux-1-schnell/lora")
    return family if any(diffusers_names(family, path) for path in paths) else unlisted(model)


def unlisted(model) -> Family | None:
    """A family for any other flow of pictures, whose text's layers are found by watching the network
    (text_layers.py); None where it draws no pictures in latents, or reads more than prompts.
    """
    from ..sage_core.diffusion.hosted_families import hosted_family

    latent, own = model.model.latent_format, type(model.model.model_config).__name__
    each = compression(latent)
    drawn = getattr(latent, "latent_dimensions", 2) in (2, 3) and "Audio" not in type(latent).__name__
    more = getattr(model.model, "concat_keys", ()) or getattr(model.model, "image_to_video", False)
    if each == 1 or not drawn or more:
        return None
    return hosted_family(own.lower(), own, own.lower(), (), latent.latent_channels, each)


def compression(latent_format) -> int:
    """Pixels a latent, a side; older versions do not say it."""
    usual = {3: 1, 128: 16, 64: 32}.get(latent_format.latent_channels, 8)  # pixels, FLUX.2, HunyuanImage
    return getattr(latent_format, "spacial_downscale_ratio", usual)


def unknown(model) -> str:
    """Why a flow model of the graph has no family, in a sentence that says what to connect instead."""
    kind = type(model.model).__name__
    if compression(model.model.latent_format) == 1:
        name, other = PIXELS.get(kind, (kind, "a model that works on latents"))
        return f"{name} works on pixels instead of latents, which is not trained here; connect {other}."
    return f"{kind} does not draw pictures from prompts alone, so no concept can be erased from it here."


def check(model) -> None:
    """Raises SageError for a model of a known family that needs more than a prompt to predict as it does in
    use. Models that only may have a reference (Kontext, Qwen-Image-Edit) are trained without one.
    """
    if found := _more_than_prompts(model):
        what, erase_instead, _ = found
        raise SageError(f"{what}, which prompts alone do not train; {erase_instead}.")


def check_drawing(model) -> None:
    """Raises SageError where pictures drawn from prompts alone would not show what the model does in use."""
    if found := _more_than_prompts(model):
        what, _, compare_instead = found
        raise SageError(
            f"{what}, and this node draws from prompts alone; {compare_instead}, or sample both models in the"
            " graph."
        )


def _more_than_prompts(model) -> tuple[str, str, str] | None:
    """(what the model reads or draws besides, what to do about training, what to do about comparing)."""
    kind, config = type(model.model).__name__, _config(model)
    if kind == "Flux" and config.get("in_channels", 0) > config.get("out_channels", 0):
        return (
            "This FLUX.1 model reads a picture beside the noise, as Fill, Canny and Depth do",
            "erase the concept from FLUX.1 dev, whose LoRA fits this model's layers",
            "compare the erasure on FLUX.1 dev",
        )
    if kind == "Flux" and any(map(_widens, model.patches.get(INPUT, []))):
        return (
            "A control LoRA on this FLUX.1 model has it read a picture beside the noise",
            "put Erase Concept before the control LoRA",
            "connect the model from before the control LoRA",
        )
    if kind == "QwenImage" and config.get("use_additional_t_cond"):
        return (
            "Qwen-Image-Layered draws several layers at once",
            "erase the concept from Qwen-Image, whose LoRA fits this model's layers",
            "compare the erasure on Qwen-Image",
        )
    return None


def _config(model) -> dict:
    return model.model.model_config.unet_config


def _widens(patch: tuple) -> bool:
    """Whether a LoRA gives the layer more inputs: the last of its parts is the shape that it asks for."""
    parts = getattr(patch[1], "weights", ())
    return len(parts) > 5 and parts[5] is not None
