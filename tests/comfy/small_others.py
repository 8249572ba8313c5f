"""Small random models of flows whose layers the pack does not list, inside ComfyUI, and a CLIP for each."""

from __future__ import annotations

import contextlib
import functools

import torch
from small_flows import FLUX, WordClip, built
from small_variants import LUMINA2

TOKENS = 8  # of a second tokenizer, or of a second text encoder


class TwoTokenizers(WordClip):
    """As Anima's: the states of one encoder, and another tokenizer's numbers of the same words."""

    def encode_from_tokens_scheduled(self, tokens: dict) -> list:
        [[states, extra]] = super().encode_from_tokens_scheduled(tokens)
        ids = [sum(map(ord, word)) % 1000 for word in tokens["words"].split()][:TOKENS]
        extra["t5xxl_ids"] = torch.tensor([*ids, *[1] * (TOKENS - len(ids))])
        extra["t5xxl_weights"] = torch.ones(TOKENS)
        return [[states, extra]]


class EveryLayer(WordClip):
    """As HiDream's: the states of T5, and those of all of Llama's layers."""

    layers = 3

    def encode_from_tokens_scheduled(self, tokens: dict) -> list:
        [[states, extra]] = super().encode_from_tokens_scheduled(tokens)
        extra["conditioning_llama3"] = torch.stack([states[0] * (1 + i) for i in range(self.layers)])[None]
        return [[states, extra]]


KREA2 = {
    "image_model": "krea2",
    "features": 256,
    "tdim": 64,
    "txtdim": 128,
    "heads": 2,
    "kvheads": 1,
    "layers": 2,
    "patch": 2,
    "channels": 16,
    "txtlayers": 3,
    "txtheads": 2,
    "txtkvheads": 2,
    "multiplier": 2,
}
ANIMA = {
    "image_model": "anima",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 256,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 256,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 64,
    "num_blocks": 2,
    "num_heads": 2,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}
ERNIE = {
    "image_model": "ernie",
    "hidden_size": 256,
    "num_attention_heads": 2,
    "num_layers": 2,
    "ffn_hidden_size": 512,
    "text_in_dim": 512,
}
HUNYUAN_IMAGE = {
    "image_model": "hunyuan_video",
    "in_channels": 64,
    "patch_size": [1, 1],
    "out_channels": 64,
    "vec_in_dim": None,
    "axes_dim": [64, 64],
    "meanflow": False,
    "context_in_dim": 512,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 1,
    "theta": 256,
    "qkv_bias": True,
    "byt5": False,
    "guidance_embed": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
KANDINSKY = {
    "image_model": "kandinsky5",
    "in_text_dim": 512,
    "in_text_dim2": 768,
    "time_dim": 128,
    "model_dim": 256,
    "ff_dim": 512,
    "visual_embed_dim": 64,
    "num_text_blocks": 1,
    "num_visual_blocks": 2,
    "axes_dims": (32, 48, 48),
    "rope_scale_factor": (1.0, 1.0, 1.0),
}
OMNIGEN2 = {
    "image_model": "omnigen2",
    "axes_dim_rope": [40, 40, 40],
    "axes_lens": [1024, 1664, 1664],
    "hidden_size": 240,
    "num_attention_heads": 2,
    "num_kv_heads": 1,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "text_feat_dim": 512,
    "timestep_scale": 1000.0,
}
MAGE = {
    "image_model": "mage_flow",
    "in_channels": 128,
    "num_layers": 2,
    "num_attention_heads": 2,
    "joint_attention_dim": 512,
}
LONGCAT = FLUX | {"vec_in_dim": None, "context_in_dim": 512, "guidance_embed": False, "txt_ids_dims": [1, 2]}
AURA = {
    "dim": 256,
    "n_layers": 3,
    "n_double_layers": 2,
    "n_heads": 2,
    "global_conddim": 256,
    "cond_seq_dim": 512,
    "max_seq": 1024,
}
HIDREAM = {
    "image_model": "hidream",
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "num_single_layers": 1,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "caption_channels": [512, 512],
    "text_emb_dim": 768,
    "axes_dims_rope": [64, 32, 32],
    "llama_layers": [0, 1, 2],
    "num_routed_experts": 2,  # as many as are active: a choice between them has no slope
    "num_activated_experts": 2,
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 256,
    "ffn_dim": 512,
    "num_heads": 2,
    "num_layers": 2,
    "text_dim": 512,
}
PLAIN = WordClip, 512, None
OTHERS = {
    "krea2": ("Krea2", KREA2, (WordClip, 384, None)),
    "anima": ("Anima", ANIMA, (TwoTokenizers, 256, None)),
    "ernie": ("ErnieImage", ERNIE, PLAIN),
    "hunyuan_image": ("HunyuanImage21", HUNYUAN_IMAGE, PLAIN),
    "kandinsky": ("Kandinsky5Image", KANDINSKY, (WordClip, 512, 768)),
    "omnigen2": ("Omnigen2", OMNIGEN2, (functools.partial(WordClip, masked=True), 512, None)),
    "mage_flow": ("MageFlow", MAGE, (functools.partial(WordClip, masked=True), 512, None)),
    "lumina2": ("Lumina2", LUMINA2, (functools.partial(WordClip, masked=True), 512, None)),
    "longcat": ("LongCatImage", LONGCAT, PLAIN),
    "aura": ("AuraFlow", AURA, (functools.partial(WordClip, length=16), 512, None)),
    "wan": ("WAN21_T2V", WAN, PLAIN),
    "hidream": ("HiDream", HIDREAM, (EveryLayer, 512, 768)),
}


def other(name: str):
    """(MODEL, CLIP); (None, None) where this ComfyUI does not have the family."""
    kind, config, (clip, width, pooled) = OTHERS[name]
    with _small_adapter():
        model = built(kind, config)
    return (None, None) if model is None else (model, clip(width, pooled))


@contextlib.contextmanager
def _small_adapter():
    """Anima's reader of text has a fixed size, of 100 million weights."""
    try:
        import comfy.ldm.anima.model as anima
    except ImportError:
        yield
        return
    own = anima.LLMAdapter
    anima.LLMAdapter = functools.partial(
        own, source_dim=256, target_dim=256, model_dim=256, num_layers=1, num_heads=2
    )
    try:
        yield
    finally:
        anima.LLMAdapter = own
