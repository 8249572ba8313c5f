"""Run by a host's own Python, in its folder: its own LoRA code on a file of ours. Prints a line of JSON.

    python host_keys.py forge|neo|classic HOST LORA CHECKPOINT.json

CHECKPOINT.json: names and shapes of a whole checkpoint; no weights are needed to see which keys land.
"""

import json
import sys


def main(host: str, folder: str, lora: str, checkpoint: str) -> None:
    sys.argv = [sys.argv[0], "--cpu" if host == "neo" else "--always-cpu"]
    sys.path[:0] = [folder, f"{folder}/modules_forge/packages", f"{folder}/repositories/huggingface_guess"]
    import torch
    from safetensors.torch import load_file

    if host == "classic":  # the others import gradio there
        from modules_forge.initialization import initialize_forge

        initialize_forge()
    with open(checkpoint, encoding="utf-8") as f:
        shapes = json.load(f)
    sd = {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in shapes.items()}
    file = load_file(lora)
    unet, clip, load, unet_map, clip_map = (classic if host == "classic" else forge)(sd)
    own = {"unet": unet.state_dict(), "clip": clip.state_dict()}
    patches, rest = {}, dict(file)
    for part, keys in (("unet", unet_map(unet, {})), ("clip", clip_map(clip, {}))):
        found, rest = load(rest, keys)
        patches[part] = [name if isinstance(name, str) else name[0] for name in found]
    lost = [name for part in patches for name in patches[part] if name not in own[part]]
    count = sum(name.endswith("lora_down.weight") for name in file)
    result = {"layers": count, "patched": sum(map(len, patches.values())), "left_over": len(rest)}
    print("\n" + json.dumps(result | {"without_a_weight": len(lost)}))


def forge(sd):
    """lllyasviel/stable-diffusion-webui-forge, and Forge Neo, which goes on from it."""
    import torch
    from backend.nn.clip import IntegratedCLIP
    from backend.nn.unet import IntegratedUNet2DConditionModel
    from backend.patcher.clip import JointTextEncoder
    from backend.patcher.lora import load_lora, model_lora_keys_clip, model_lora_keys_unet
    from huggingface_guess import guess
    from transformers import CLIPTextConfig, CLIPTextModel

    whole = torch.nn.Module()
    whole.config = guess(sd)
    with torch.device("meta"):
        whole.diffusion_model = IntegratedUNet2DConditionModel.from_config(whole.config.unet_config)
    configs = {"clip_l": CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)}
    if any(name.startswith("conditioner.") for name in sd):
        configs["clip_g"] = CLIPTextConfig(
            hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32
        )
    with torch.device("meta"):
        encoders = {name: IntegratedCLIP(CLIPTextModel, config) for name, config in configs.items()}

    def leftover(lora, keys):
        patched, rest = load_lora(lora, keys)
        return patched, rest

    return whole, JointTextEncoder(encoders), leftover, model_lora_keys_unet, model_lora_keys_clip


def classic(sd):
    """Haoming02/sd-webui-forge-classic, whose LoRA code is that of the first Forge."""
    import torch
    from ldm_patched.modules import model_detection
    from ldm_patched.modules.lora import load_lora, model_lora_keys_clip, model_lora_keys_unet

    prefix = "model.diffusion_model."
    config = model_detection.model_config_from_unet(sd, prefix, torch.float16)
    model = config.get_model(sd, prefix, device="meta")
    target = config.clip_target()
    clip = target.clip(**target.params, device="meta", dtype=torch.float16)

    def leftover(lora, keys):
        patched = load_lora(lora, keys)
        return (
            (patched[0], patched[1]) if isinstance(patched, tuple) else (patched, _rest(lora, keys, patched))
        )

    return model, clip, leftover, model_lora_keys_unet, model_lora_keys_clip


def _rest(lora, keys, patched):
    taken = {name for name, target in keys.items() if target in patched}
    return {name: value for name, value in lora.items() if name.split(".")[0] not in taken}


main(*sys.argv[1:])
