"""Tensor names: Stable Diffusion's original layout to diffusers' and transformers'.

For any depth and width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
OPEN_CLIP = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}

OPEN_CLIP_TOP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def unet_prefixes(config: Mapping) -> dict[str, str]:
    """Original module prefix to diffusers module prefix, for a UNet of diffusers' `config`."""
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    table = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }

    def resnet(old: str, new: str) -> None:
        table.update({f"{old}.{a}": f"{new}.{b}" for a, b in RESNET.items()})

    index = 1
    for level in range(levels):
        for layer in range(layers):
            resnet(f"input_blocks.{index}.0", f"down_blocks.{level}.resnets.{layer}")
            table[f"input_blocks.{index}.1"] = f"down_blocks.{level}.attentions.{layer}"
            index += 1
        table[f"input_blocks.{index}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
        index += 1
    resnet("middle_block.0", "mid_block.resnets.0")
    table["middle_block.1"] = "mid_block.attentions.0"
    resnet("middle_block.2", "mid_block.resnets.1")
    for level in range(levels):
        attention = config["up_block_types"][level].startswith("CrossAttn")
        for layer in range(layers + 1):
            old = f"output_blocks.{level * (layers + 1) + layer}"
            resnet(f"{old}.0", f"up_blocks.{level}.resnets.{layer}")
            if attention:
                table[f"{old}.1"] = f"up_blocks.{level}.attentions.{layer}"
        # The upsampler is behind the attention where there is one.
        table[f"{old}.{2 if attention else 1}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return table


def rename(key: str, prefixes: Mapping[str, str]) -> str | None:
    """`key` with its longest known module prefix replaced, or None where no prefix fits."""
    parts = key.split(".")
    for n in range(len(parts) - 1, 0, -1):
        if (new := prefixes.get(".".join(parts[:n]))) is not None:
            return ".".join([new, *parts[n:]])
    return None


def unet_to_diffusers(
    sd: Mapping[str, torch.Tensor], config: Mapping, prefix: str
) -> dict[str, torch.Tensor]:
    """A UNet's tensors under original names (after `prefix`), renamed to diffusers'."""
    table = unet_prefixes(config)
    named = {rename(k[len(prefix) :], table): v for k, v in sd.items() if k.startswith(prefix)}
    named.pop(None, None)
    return named


def unet_to_original(sd: Mapping[str, torch.Tensor], config: Mapping, prefix: str) -> dict[str, torch.Tensor]:
    """The inverse of `unet_to_diffusers`."""
    table = {new: old for old, new in unet_prefixes(config).items()}
    return {prefix + rename(k, table): v for k, v in sd.items()}


def clip_to_transformers(
    sd: Mapping[str, torch.Tensor], prefix: str, open_clip: bool
) -> dict[str, torch.Tensor]:
    """A CLIP text encoder's tensors in transformers' names, always with `text_model.` in front."""
    own = {k[len(prefix) :]: v for k, v in sd.items() if k.startswith(prefix)}
    return _from_open_clip(own) if open_clip else with_text_model(own)


def with_text_model(sd: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Puts `text_model.` back where transformers 5.6 and later (or an old checkpoint) left it out."""
    top = ("text_model.", "text_projection.")
    return {
        k if k.startswith(top) else f"text_model.{k}": v
        for k, v in sd.items()
        if not k.endswith(("position_ids", "logit_scale"))
    }


def _from_open_clip(sd: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {}
    for key, value in sd.items():
        if key in OPEN_CLIP_TOP:
            out[f"text_model.{OPEN_CLIP_TOP[key]}"] = value
        elif key == "text_projection":
            out["text_projection.weight"] = value.T.contiguous()
        elif key.startswith("transformer.resblocks."):
            _, _, layer, rest = key.split(".", 3)
            base = f"text_model.encoder.layers.{layer}"
            if rest.startswith("attn.in_proj_"):
                kind = rest.removeprefix("attn.in_proj_")
                for name, part in zip("qkv", value.chunk(3)):
                    out[f"{base}.self_attn.{name}_proj.{kind}"] = part
            else:
                module, kind = rest.rsplit(".", 1)
                if module in OPEN_CLIP:
                    out[f"{base}.{OPEN_CLIP[module]}.{kind}"] = value
    return out
