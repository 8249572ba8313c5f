"""Small random models of Stable Diffusion 3's architecture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, SD3Transformer2DModel
from safetensors.torch import save_file
from tiny import clip
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from sage_core.demo import DEMO
from sage_core.diffusion import names, names_sd3
from sage_core.diffusion.architecture import FAMILIES, UNET
from sage_core.diffusion.load import CLIP_TOKENIZER

SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}


def transformer(context: int = 4096, pooled: int = 1472, dual: tuple[int, ...] = (), size: int = 8):
    """4 blocks of width 256, as ComfyUI wants them; nothing in it is zero."""
    network = SD3Transformer2DModel(
        sample_size=size,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=4,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=context,
        caption_projection_dim=256,
        pooled_projection_dim=pooled,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=dual,
    )
    for p in network.parameters():
        p.data = p.data + 0.02 * torch.randn_like(p)
    return network.eval()


def bundled_text(path: Path, seed: int = 0) -> Path:
    """A diffusers folder with the bundled text encoder: 64 x 64 pixels."""
    torch.manual_seed(seed)
    transformer().save_pretrained(path / "transformer")
    AutoencoderTiny(latent_channels=16, scaling_factor=1.0).save_pretrained(path / "vae")
    config = json.loads((path / "vae" / "config.json").read_text(encoding="utf-8"))
    config.pop("block_out_channels", None)  # written by AutoencoderTiny, but not understood by it
    (path / "vae" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(DEMO / part, path / part)
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
    }
    return _finished(path, index)


def two_encoders(path: Path, seed: int = 0) -> Path:
    """The same with CLIP's own vocabulary, CLIP-L and CLIP-G, dual attention as in SD 3.5 medium, and a KL
    autoencoder.
    """
    torch.manual_seed(seed)
    transformer(context=256, pooled=192, dual=(0, 1)).save_pretrained(path / "transformer")
    clip(64, 2, "quick_gelu").save_pretrained(path / "text_encoder")
    clip(128, 3, "gelu", projection=128).save_pretrained(path / "text_encoder_2")
    for name, pad in (("tokenizer", None), ("tokenizer_2", "!")):
        extra = {} if pad is None else {"pad_token": pad}
        CLIPTokenizer.from_pretrained(CLIP_TOKENIZER, local_files_only=True, **extra).save_pretrained(
            path / name
        )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        latent_channels=16,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    vae.save_pretrained(path / "vae")
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
    }
    return _finished(path, index)


def with_t5(path: Path, seed: int = 0) -> Path:
    """`two_encoders`, both projected, with a T5 that reads a few words, and all else by letters."""
    two_encoders(path, seed)
    clip(64, 2, "quick_gelu", projection=64).save_pretrained(path / "text_encoder")
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(f"\u2581{word}" for word in ("a", "dog", "castle"))]
    pieces += list("abcdefghijklmnopqrstuvwxyz0123456789,.-'")
    backend = Tokenizer(models.Unigram([(piece, -(len(piece) ** -1.0)) for piece in pieces], unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(path / "tokenizer_3")
    config = T5Config(vocab_size=len(pieces), d_model=256, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    T5EncoderModel(config).save_pretrained(path / "text_encoder_3")
    index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    index["text_encoder"] = ["transformers", "CLIPTextModelWithProjection"]
    index["text_encoder_3"] = ["transformers", "T5EncoderModel"]
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return path


def _finished(path: Path, index: dict) -> Path:
    (path / "scheduler").mkdir()
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER), encoding="utf-8")
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return path


def single_file(model, path: Path) -> Path:
    """A loaded model, without its autoencoder, as one file in SD3's layout."""
    sd = names_sd3.to_original(model.unet.state_dict(), 4, UNET)
    for prefix, encoder in zip(FAMILIES["sd3"].text_prefixes, model.text.encoders):
        sd |= {prefix + k: v for k, v in names.with_text_model(encoder.state_dict()).items()}
    save_file({k: v.clone().contiguous() for k, v in sd.items()}, path)
    return path
