"""Runs in ComfyUI's own Python:

`inside_variants.py COMFYUI PACK FOLDER` prints JSON: of each small model of small_variants.py None where this
ComfyUI lacks it, else what was found.

Compares the velocity that is trained on with the one that ComfyUI's own sampler computes, and collects the
sentences in which models are refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COMFY, PACK, FOLDER = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import folder_paths  # noqa: E402
import small_variants as variants  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402

PROMPT, SIGMA = "a dog on a sofa", 0.6
LAYER = "transformer.transformer_blocks.0.attn.add_q_proj"  # of every family but Z-Image


def sampled(model, clip, noise: torch.Tensor, **more) -> torch.Tensor:
    """The velocity at SIGMA from ComfyUI's own sampler, which begins at SIGMA times the noise."""
    [[states, extra]] = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    seen = {}

    def step(denoise, x, sigmas, extra_args=None, **_):
        seen["x"], seen["clean"] = x, denoise(x, sigmas[:1].expand(len(x)), **extra_args)
        return x

    comfy.samplers.sample(
        model,
        noise,
        [[states, extra | more]],
        [[states, extra | more]],
        1.0,
        model.load_device,
        comfy.samplers.KSAMPLER(step),
        torch.tensor([SIGMA, 0.0]),
        latent_image=torch.zeros_like(noise),
        disable_pbar=True,
        seed=0,
    )
    assert torch.allclose(seen["x"], SIGMA * noise)
    return (seen["x"] - seen["clean"]) / SIGMA


def trained(name: str) -> dict | None:
    """Velocities with and without a reference picture, and whether a step can be trained."""
    from sage_pack.nodes import core_model
    from sage_pack.sage_core import ErasureSpec

    model, clip = variants.model(name), variants.clip(name)
    if model is None:
        return None
    core = core_model.core_model(model, clip, hosts=True)
    recipe = ErasureSpec("dog", steps=2, resolution=64).recipe(())
    core_model.check_recipes(core, [recipe])
    core.pixels = 64
    noise = core.noise([3])
    own = core.host.velocity(SIGMA * noise, torch.tensor([SIGMA]), [core.host.encode(PROMPT)])
    guidance = {"guidance": 1.0} if core.host.distilled else {}
    if core.host.frames:
        noise = noise.unsqueeze(2)
    plain = sampled(model, clip, noise, **guidance)
    reference = plain
    if name not in variants.ALONE:
        reference = sampled(model, clip, noise, reference_latents=[torch.randn_like(noise)], **guidance)
    with core_model.training(core, recipe):
        pass
    return {
        "family": core.family.name,
        "apart": (own - plain.reshape(own.shape)).abs().max().item(),
        "size": own.abs().mean().item(),
        "by reference": (reference - plain).abs().max().item(),
    }


def compared(compare, model, clip) -> str:
    """The sentence in which Compare Erasure refuses it; empty where it goes on to the pictures."""
    from sage_pack.nodes.errors import SageError as Refusal

    try:
        compare.CompareErasure.execute(model, clip, model, clip, None, "a dog", 1, 0, 1, 1.0, 64)
    except Refusal as error:
        return str(error)
    except AttributeError:  # of the VAE, which is none
        return ""


def refused(name: str) -> dict | None:
    """The sentence in which Erase Concept refuses it, and whether its base model's LoRA fits its layers."""
    from sage_pack.nodes import bridge, compare, session
    from sage_pack.sage_core import ErasureSpec
    from sage_pack.sage_core.errors import SageError

    model, clip = variants.model(name), variants.clip(name)
    if model is None:
        return None
    if name == "control-lora":
        model, _ = comfy.sd.load_lora_for_models(model, None, control_lora(), 1.0, 0.0)
    said, send = [], bridge.Messages.send
    bridge.Messages.send = lambda self, event, data: said.append(data.get("text", ""))
    try:
        session.run(model, clip, None, [ErasureSpec("dog", steps=1, resolution=64)], "dog", {}, None)
        sentence = ""
    except SageError as error:
        sentence = str(error)
    finally:
        bridge.Messages.send = send
    found = {"sentence": sentence, "asked": list(clip.asked), "said": said}
    if name in ("fill", "canny", "layered", "control-lora"):
        found["compared"] = compared(compare, model, clip)
    if name in ("fill", "canny", "layered"):
        found["fits"] = fits(model, clip)
    return found


def control_lora() -> dict:
    """One that widens the layer which reads the latents, in the names that ComfyUI makes of BFL's own."""
    layer = "diffusion_model.img_in"
    return {
        f"{layer}.lora_up.weight": torch.randn(256, 4),
        f"{layer}.lora_down.weight": torch.randn(4, 128),
        f"{layer}.reshape_weight": torch.tensor([256, 128]),
    }


def fits(model, clip) -> float:
    """How far a LoRA of the base model's layers moves this model's own prediction."""
    from safetensors.torch import save_file
    from sage_pack.nodes import bridge

    path = Path(FOLDER) / "base.safetensors"
    width = 256
    save_file(
        {
            f"{LAYER}.lora_A.weight": torch.randn(4, width),
            f"{LAYER}.lora_B.weight": torch.randn(width, 4),
        },
        path,
    )
    frames = (1,) if hasattr(model.model.diffusion_model, "transformer_blocks") else ()
    noise = torch.randn(1, 16, *frames, 8, 8)
    applied, _ = bridge.apply_lora(model, None, path)  # refuses a file of which a layer is lost
    return (sampled(applied, clip, noise) - sampled(model, clip, noise)).abs().max().item()


def main() -> dict:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():  # as the executor runs nodes
        found = {name: trained(name) for name in variants.TRAINED}
        found |= {name: refused(name) for name in variants.REFUSED}
    return found


folder_paths.folder_names_and_paths["loras"] = ([FOLDER], {".safetensors"})
folder_paths.set_user_directory(FOLDER)
import_pack(PACK)
print("RESULT" + json.dumps(main()))
