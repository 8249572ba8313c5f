"""Write the trained parts as a diffusers folder in half precision, with the key names that every version
reads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file, save_file

from sage_core.diffusion.names_sd3 import CLIP_G, CONTEXT

from .model import SCHEDULE

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.31.0",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}


def half(source: Path, target: Path, rename=lambda key: key) -> None:
    weights = {
        rename(k): v.half().contiguous() if v.is_floating_point() else v for k, v in load_file(source).items()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, target, metadata={"format": "pt"})


def text_model_prefix(key: str) -> str:
    """The tensor's name with the prefix `text_model.`, which transformers 5.6 dropped from CLIP's names.

    Files keep it, since older versions need it.
    """
    return key if key.startswith("text_model.") else f"text_model.{key}"


def export(work: Path, out: Path) -> None:
    """The bundled model: its probe lies beside its folder."""
    export_model(work, out)
    shutil.copy(work / "probe.safetensors", out.parent / "probe.safetensors")


def export_with_probe(work: Path, out: Path, words: Path, styles: Iterable[str]) -> None:
    """A model that carries its vocabulary and its probe (see sage_core/demo/known.py)."""
    export_model(work, out)
    folder = out / "probe"
    folder.mkdir(exist_ok=True)
    shutil.copy(work / "probe.safetensors", folder / "probe.safetensors")
    shutil.copy(words, folder / "concepts.txt")
    (folder / "styles.txt").write_text("\n".join(styles), encoding="utf-8")


FLOW_INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": "0.31.0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": [None, None],
    "text_encoder_3": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": [None, None],
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}


def export_flow(work: Path, out: Path) -> None:
    """The small flow transformer. Its text encoder is the bundled one, and is not written again."""
    name = "diffusion_pytorch_model.safetensors"
    for part in ("transformer", "vae"):
        half(work / part / name, out / part / name)
        _copy_config(work / part, out / part)
    _widen(out / "transformer" / "config.json")
    schedule = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    _write(out / "scheduler" / "scheduler_config.json", schedule)
    _write(out / "model_index.json", FLOW_INDEX)


def _widen(file: Path) -> None:
    """Say that the transformer is as wide as ComfyUI's conditioning, which has zeros where an encoder is
    missing, and behind CLIP's states. The columns for those are not stored.
    """
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {
        "joint_attention_dim": CONTEXT,
        "pooled_projection_dim": config["pooled_projection_dim"] + CLIP_G,
    }
    _write(file, config)


def _copy_config(source: Path, target: Path) -> None:
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)  # where it was trained is nobody's business
    if config.get("_class_name") == "AutoencoderTiny":
        config.pop("block_out_channels", None)  # written by AutoencoderTiny, but not understood by it
    _write(target / "config.json", config)


def _write(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")


def export_model(work: Path, out: Path) -> None:
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        rename = text_model_prefix if part == "text_encoder" else (lambda key: key)
        half(work / part / f"{name}.safetensors", out / part / f"{name}.safetensors", rename)
        _copy_config(work / part, out / part)
    shutil.copytree(work / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    schedule = {"_class_name": "DDIMScheduler", "set_alpha_to_one": False, **SCHEDULE}
    _write(out / "scheduler" / "scheduler_config.json", schedule)
    _write(out / "model_index.json", INDEX)
