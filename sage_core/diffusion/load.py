"""Load a model from the bundled one, a diffusers folder, a single-file checkpoint, or a state dict in memory. Never downloads."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from ..errors import SageError
from ..files import parse_json
from ..spec import shown
from . import architecture, names
from .model import DiffusionModel
from .text import TextStack

DEMO = Path(__file__).parent.parent / "demo" / "model"
CLIP_TOKENIZER = Path(__file__).parent / "clip_tokenizer"
WHOLE_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def load_model(source: str | Path | Mapping[str, torch.Tensor], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
               prediction: str = "auto") -> DiffusionModel:
    """`source`: "demo", a diffusers folder, a .safetensors checkpoint or a state dict in the original layout.

    `prediction`: "auto", "epsilon" or "v". Raises SageError with one sentence for anything that cannot be used.
    """
    if isinstance(source, Mapping):
        model = from_state_dict(source, "memory", prediction, dtype)
    elif str(source) == "demo":
        model = from_folder(DEMO, prediction, dtype)
        model.source = "demo"
    else:
        model = _from_path(Path(source), prediction, dtype)
    for module in [*model.text.encoders, model.unet, *([model.vae] if model.vae is not None else [])]:
        module.requires_grad_(False).eval()
    model.to(device)
    model.fingerprint = fingerprint([*model.text.encoders, model.unet])
    return model


def _from_path(path: Path, prediction: str, dtype: torch.dtype) -> DiffusionModel:
    if path.is_dir():
        return from_folder(path, prediction, dtype)
    if path.suffix.lower() in PICKLES:
        raise SageError(f"{path.name} is a pickled checkpoint, which can run code when opened; convert it to .safetensors first.")
    if not path.exists():
        raise SageError(f"There is no file or folder {str(path)!r}; give a .safetensors checkpoint, a diffusers folder or the word demo.")
    return from_state_dict(read_safetensors(path), str(path), prediction, dtype)


@contextlib.contextmanager
def opened(path: Path) -> Iterator:
    """A safetensors file by its header, tensors not yet read. Raises SageError where it is no such file, truncated, or its header lies."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as f:
            yield f
    except (SafetensorError, ValueError, OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:  # what a dtype that torch lacks raises
        told = " ".join(str(error).split())[:200]
        raise SageError(f"{path.name} cannot be read as safetensors ({told}); the file is damaged or something else: get it again.") from error


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file. Raises SageError where it is no safetensors, truncated, or its header lies."""
    with opened(path) as f:
        return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (safe_open is not a dict)


def refuse_nan(parts: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises SageError where a number is none, or a tensor holds no real numbers."""
    for key, value in parts.items():
        if value.is_complex() or value.is_quantized:
            raise SageError(f"{what} holds numbers of a kind that no weight is ({shown(key)} is {value.dtype}); the file is broken: use another one.")
        if value.is_floating_point() and not torch.isfinite(value if value.dtype in WHOLE_FLOATS else _widened(value, key, what)).all():
            raise SageError(f"{what} holds NaN or infinite weights (first in {shown(key)}); the file is broken: use another one.")


def _widened(value: torch.Tensor, key: str, what: str) -> torch.Tensor:
    """Eight-bit numbers, which torch stores and hardly computes with."""
    try:
        return value.float()
    except (RuntimeError, NotImplementedError) as error:
        raise SageError(f"{what} is stored as {value.dtype} (first {shown(key)}), which cannot be read here; use a copy in half precision.") from error


def schedule_alphas(config: Mapping | None = None) -> torch.Tensor:
    """abar_t [1000] of Stable Diffusion's scaled-linear schedule, or of a folder's scheduler config."""
    config = config or {}
    start, end, n = config.get("beta_start", 0.00085), config.get("beta_end", 0.012), config.get("num_train_timesteps", 1000)
    if config.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise SageError(f"The noise schedule {config['beta_schedule']!r} is not Stable Diffusion's (scaled_linear); this model cannot be used.")
    betas = torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def from_state_dict(sd: Mapping[str, torch.Tensor], source: str, prediction: str = "auto", dtype: torch.dtype = torch.float32) -> DiffusionModel:
    """A model from original-layout tensors, as a single-file checkpoint or a host's memory holds them."""
    from diffusers import UNet2DConditionModel

    family = architecture.recognise(sd)
    config = architecture.unet_config(sd, family)
    unet = UNet2DConditionModel(**config)
    _fill(unet, names.unet_to_diffusers(sd, unet.config, architecture.UNET), "The UNet", dtype)
    encoders = []
    for prefix, open_clip in zip(family.text_prefixes, family.open_clip):
        own = names.clip_to_transformers(sd, prefix, open_clip)
        if family.name == "sd2":
            own = _without_last_layer(own)
        encoders.append(_clip(own, quick_gelu=not open_clip, projected=family.name == "sdxl" and open_clip, dtype=dtype))
    velocity = architecture.predicts_velocity(sd, family) if prediction == "auto" else prediction == "v"
    text = TextStack(encoders, _tokenizer_for(encoders[0]), family.clip_layer, _pads(family))
    return DiffusionModel(family, text, unet, _vae(sd, family, dtype), schedule_alphas(), velocity, source, pixels=_pixels(family, unet))


def _pixels(family, unet) -> int:
    """Sizes that a model was trained at do not stand in its tensors; the bundled one (192 wide) is 64."""
    return 64 if unet.config.cross_attention_dim == 192 else family.sample_size


def _pads(family) -> tuple[int, ...] | None:
    if family.name == "sd1":
        return None
    return (0,) if family.name == "sd2" else (49407, 0)


def _without_last_layer(sd: dict) -> dict:
    """SD 2.x reads the state before OpenCLIP's last layer, final norm applied: the same as an encoder one layer shorter."""
    last = max(int(k.split(".")[3]) for k in sd if k.startswith("text_model.encoder.layers."))
    return {k: v for k, v in sd.items() if not k.startswith(f"text_model.encoder.layers.{last}.")}


def _tokenizer_for(encoder):
    from transformers import CLIPTokenizer

    vocabulary = encoder.get_input_embeddings().weight.shape[0]
    for folder in (CLIP_TOKENIZER, DEMO / "tokenizer"):
        if folder.exists() and len(json.loads((folder / "vocab.json").read_text(encoding="utf-8"))) == vocabulary:
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    raise SageError(f"The text encoder has {vocabulary} tokens; only CLIP's own tokenizer (49408) and the bundled model's are known.")


def _clip(sd: dict, quick_gelu: bool, projected: bool, dtype: torch.dtype):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if not projected:
        sd = {k: v for k, v in sd.items() if not k.startswith("text_projection")}
    try:
        config = CLIPTextConfig(**architecture.clip_config(sd, quick_gelu))
    except (KeyError, ValueError) as error:
        raise SageError(f"The text encoder is incomplete (missing {error}); choose another checkpoint.") from error
    encoder = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    _fill(encoder, sd, "The text encoder", dtype)
    return encoder


def _fill(module: torch.nn.Module, sd: Mapping[str, torch.Tensor], what: str, dtype: torch.dtype) -> None:
    """Load every tensor, in either spelling of CLIP's names; refuses missing, misshapen and non-finite ones."""
    refuse_nan(sd, what)
    flat = not any(k.startswith("text_model.") for k in module.state_dict()) and any(k.startswith("text_model.") for k in sd)
    sd = {k.removeprefix("text_model.") if flat else k: v.to(dtype) for k, v in sd.items()}
    try:
        if dtype != torch.float32:
            torch.nn.Module.to(module, dtype)  # diffusers' own warns of half precision
        missing, _ = module.load_state_dict(sd, strict=False)
    except RuntimeError as error:
        raise SageError(f"{what} does not have the expected shapes ({str(error).splitlines()[1].strip()}); choose another checkpoint.") from error
    missing = [k for k in missing if not k.endswith("position_ids")]
    if missing:
        raise SageError(f"{what} lacks {len(missing)} tensors (first {missing[0]!r}): the file is incomplete or of an unknown architecture.")


def _vae(sd: Mapping[str, torch.Tensor], family, dtype: torch.dtype):
    """The autoencoder, or None where the checkpoint has none (erasing needs none; pictures do)."""
    from .autoencoder import from_original

    return from_original(sd, family, dtype)


def from_folder(folder: Path, prediction: str = "auto", dtype: torch.dtype = torch.float32) -> DiffusionModel:
    """A model from a diffusers folder: model_index.json with unet, text_encoder(s), tokenizer, scheduler and vae beside it."""
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    index = _json(folder / "model_index.json")
    try:
        unet = UNet2DConditionModel.from_config(_json(folder / "unet" / "config.json"))
    except (TypeError, ValueError, AttributeError) as error:
        raise SageError(f"{folder}/unet/config.json describes no Stable Diffusion UNet ({error}).") from error
    _fill(unet, _weights(folder / "unet"), "The UNet", dtype)
    encoders = []
    for part in ("text_encoder", "text_encoder_2"):
        if not (folder / part).is_dir() or index.get(part, [None, None])[1] is None:
            continue
        projected = index.get(part, ["", ""])[1] == "CLIPTextModelWithProjection"
        encoder = (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**_json(folder / part / "config.json")))
        _fill(encoder, names.with_text_model(_weights(folder / part)), "The text encoder", dtype)
        encoders.append(encoder)
    if not encoders:
        raise SageError(f"{folder} has no text_encoder folder; give the folder of a whole Stable Diffusion model.")
    family = _family_of(unet, encoders)
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    velocity = scheduler.get("prediction_type", "epsilon") == "v_prediction" if prediction == "auto" else prediction == "v"
    tokenizers = [CLIPTokenizer.from_pretrained(folder / t, local_files_only=True) for t in ("tokenizer", "tokenizer_2") if (folder / t).is_dir()]
    vae = None
    if (folder / "vae").is_dir():
        config = _json(folder / "vae" / "config.json")
        vae = (AutoencoderTiny if config.get("_class_name") == "AutoencoderTiny" else AutoencoderKL).from_config(config)
        _fill(vae, _weights(folder / "vae"), "The autoencoder", dtype)
    text = TextStack(encoders, tokenizers[0], family.clip_layer, tuple(t.pad_token_id for t in tokenizers))
    size = unet.config.sample_size
    return DiffusionModel(family, text, unet, vae, schedule_alphas(scheduler), velocity, str(folder), pixels=8 * (size if isinstance(size, int) else size[0]))


def _family_of(unet, encoders) -> architecture.Family:
    if len(encoders) == 2:
        return architecture.FAMILIES["sdxl"]
    return architecture.FAMILIES["sd2" if unet.config.use_linear_projection else "sd1"]


def _json(path: Path) -> dict:
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SageError(f"{path} is missing; this is not a whole diffusers model folder.") from error
    except (OSError, ValueError) as error:
        raise SageError(f"{path} is not readable JSON ({error}).") from error
    if not isinstance(data, dict):
        raise SageError(f"{path} is no JSON object; this is not a whole diffusers model folder.")
    return data


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of one part; half-precision variants and sharded files are read as well."""
    files = sorted(folder.glob("*.safetensors"))
    plain = [f for f in files if ".fp16." not in f.name and ".non_ema" not in f.name] or files
    if not plain:
        raise SageError(f"{folder} holds no .safetensors weights (pickled .bin files are refused: they can run code).")
    return {k: v for f in plain for k, v in read_safetensors(f).items()}


def fingerprint(modules: list[torch.nn.Module]) -> str:
    """SHA-256 over names, shapes and values in half precision, so that fp16 and fp32 copies of a model agree mostly."""
    digest = hashlib.sha256()
    for module in modules:
        for key, value in sorted(names.with_text_model(module.state_dict()).items()):
            digest.update(f"{key}{tuple(value.shape)}".encode())
            digest.update(value.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
