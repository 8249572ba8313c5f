"""Load a model from a diffusers folder, a checkpoint file, or a state dict in memory. Never downloads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from ..diffusion import architecture, names, names_sd3, schedule
from ..errors import SageError, one_line, shown
from ..files import parse_json
from .model import DiffusionModel
from .quantised import dequantised
from .t5 import FrozenT5
from .t5 import load as load_t5
from .text import TextStack
from .weights import build, fill, read_safetensors

CLIP_TOKENIZER = Path(__file__).parent / "clip_tokenizer"
WITH_T5 = (
    "The model reads prompts through T5 besides CLIP, which this program reads from diffusers folders only;"
    " choose such a folder, or a file with CLIP-L and CLIP-G alone, or erase the concept in ComfyUI."
)
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


def load_model(
    source: str | Path | Mapping[str, torch.Tensor],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    prediction: str = "auto",
    tokenizers: tuple[Path, ...] = (),
    alphas: torch.Tensor | None = None,
    text: Path | None = None,
) -> DiffusionModel:
    """`source`: a diffusers folder, a .safetensors checkpoint or a state dict in the original layout.

    `prediction`: "auto", "epsilon" or "v". `tokenizers`: folders of tokenizers besides CLIP's own, for
    checkpoints whose vocabulary has another size. `alphas`: the noise schedule, abar_t [1000], where a host
    samples the model with one of its own (None: the one that the source states, else Stable Diffusion's).
    `text`: a folder whose text encoders and tokenizers a diffusers folder without any has.
    Raises SageError with one sentence for what cannot be used.
    """
    try:
        model = _load(source, prediction, dtype, tokenizers, text)
        if alphas is not None:
            model.alphas = schedule.checked(alphas)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        NotImplementedError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # Whatever a damaged or altered model makes of the libraries that read it.
        raise SageError(
            f"{'The model' if isinstance(source, Mapping) else source} cannot be read as Stable Diffusion"
            f" ({type(error).__name__}: {one_line(error)}); it is damaged or of an unknown kind: choose"
            " another one."
        ) from error
    if model.prediction == "epsilon" and schedule.is_zero_terminal(model.alphas):
        raise SageError(
            "The model predicts noise, and its noise schedule ends in pure noise (zero terminal SNR), from"
            " which no picture can be predicted that way; choose v-prediction, or switch zero terminal SNR"
            " off."
        )
    for module in [*model.text.modules, model.unet, *([model.vae] if model.vae is not None else [])]:
        module.requires_grad_(False).eval()
    model.to(device)
    model.fingerprint = fingerprint([*model.text.modules, model.unet])
    return model


def _load(
    source, prediction: str, dtype: torch.dtype, tokenizers: tuple[Path, ...], text: Path | None
) -> DiffusionModel:
    if isinstance(source, Mapping):
        return from_state_dict(source, "memory", prediction, dtype, tokenizers)
    path = Path(source)
    if path.is_dir():
        return from_folder(path, prediction, dtype, text)
    if path.suffix.lower() in PICKLES:
        raise SageError(
            f"{path.name} is a pickled checkpoint, which can run code when opened; convert it to .safetensors"
            " first."
        )
    if not path.exists():
        raise SageError(
            f"There is no file or folder {str(path)!r}; give a .safetensors checkpoint, a diffusers folder or"
            " the word demo or demo-flow."
        )
    return from_state_dict(read_safetensors(path), str(path), prediction, dtype, tokenizers)


def from_state_dict(
    sd: Mapping[str, torch.Tensor],
    source: str,
    prediction: str = "auto",
    dtype: torch.dtype = torch.float32,
    tokenizers: tuple[Path, ...] = (),
) -> DiffusionModel:
    """A model from original-layout tensors, as a single-file checkpoint or a host's memory holds them."""
    from diffusers import UNet2DConditionModel

    sd = dequantised(sd)
    family = architecture.recognise(sd)
    if family.flow:
        return _flow_from_state_dict(sd, family, source, dtype, tokenizers)
    architecture.refuse_continuous(sd)
    config = architecture.unet_config(sd, family)
    unet = build(lambda c: UNet2DConditionModel(**c), config, "The UNet")
    fill(unet, names.unet_to_diffusers(sd, unet.config, architecture.UNET), "The UNet", dtype)
    encoders = []
    for prefix, open_clip in zip(family.text_prefixes, family.open_clip):
        own = names.clip_to_transformers(sd, prefix, open_clip)
        if family.name == "sd2":
            own = _without_last_layer(own)
        encoders.append(
            _clip(own, quick_gelu=not open_clip, projected=family.name == "sdxl" and open_clip, dtype=dtype)
        )
    velocity = architecture.predicts_velocity(sd, family) if prediction == "auto" else prediction == "v"
    text = text_stack(family, encoders, tokenizers)
    standard = schedule.standard()
    alphas = schedule.zero_terminal_snr(standard) if velocity and "ztsnr" in sd else standard
    vae, pixels = _vae(sd, family, dtype), family.sample_size
    return DiffusionModel(family, text, unet, vae, alphas, velocity, source, pixels=pixels)


def _flow_from_state_dict(
    sd: Mapping[str, torch.Tensor],
    family: architecture.Family,
    source: str,
    dtype: torch.dtype,
    tokenizers: tuple[Path, ...],
) -> DiffusionModel:
    """Stable Diffusion 3 with its CLIP encoders. Raises SageError where T5 is loaded too."""
    from diffusers import SD3Transformer2DModel

    if any(key.startswith("text_encoders.t5xxl.") for key in sd):
        raise SageError(WITH_T5)
    config = names_sd3.config_of(sd, architecture.UNET)
    network = build(lambda c: SD3Transformer2DModel(**c), config, "The transformer")
    fill(network, names_sd3.to_diffusers(sd, architecture.UNET), "The transformer", dtype)
    encoders = []
    for prefix in family.text_prefixes:
        own = names.clip_to_transformers(sd, prefix, open_clip=False)
        if own:
            large = bool(encoders)  # CLIP-G is projected and has a plain GELU, CLIP-L is neither
            encoders.append(_clip(own, quick_gelu=not large, projected=large, dtype=dtype))
    tokenizer = _tokenizer_for(encoders[0], tokenizers)
    pads = (tokenizer.eos_token_id, 0)[: len(encoders)]
    widths = config["joint_attention_dim"], config["pooled_projection_dim"]
    text = TextStack(encoders, tokenizer, family.clip_layer, pads, widths)
    vae = _vae(sd, family, dtype)
    # Positions are known up to here; a model for tests knows few.
    pixels = min(family.sample_size, 8 * config["patch_size"] * config["pos_embed_max_size"])
    return DiffusionModel(family, text, network, vae, schedule.flow(), False, source, pixels=pixels)


def text_stack(
    family: architecture.Family, encoders: list[torch.nn.Module], tokenizers: tuple[Path, ...] = ()
) -> TextStack:
    """A family's encoders with the tokenizer of their vocabulary's size: CLIP's, or one of `tokenizers`.

    Raises SageError if it is missing.
    """
    return TextStack(encoders, _tokenizer_for(encoders[0], tokenizers), family.clip_layer, _pads(family))


def _pads(family) -> tuple[int, ...] | None:
    if family.name == "sd1":
        return None
    return (0,) if family.name == "sd2" else (49407, 0)


def _without_last_layer(sd: dict) -> dict:
    """SD 2.x reads the state before OpenCLIP's last layer, final norm applied: the same as an encoder one
    layer shorter.
    """
    last = max(int(k.split(".")[3]) for k in sd if k.startswith("text_model.encoder.layers."))
    return {k: v for k, v in sd.items() if not k.startswith(f"text_model.encoder.layers.{last}.")}


def _tokenizer_for(encoder, tokenizers: tuple[Path, ...]):
    from transformers import CLIPTokenizer

    vocabulary = encoder.get_input_embeddings().weight.shape[0]
    for folder in (CLIP_TOKENIZER, *tokenizers):
        if (
            folder.exists()
            and len(json.loads((folder / "vocab.json").read_text(encoding="utf-8"))) == vocabulary
        ):
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    raise SageError(
        f"The text encoder has {vocabulary} tokens; no tokenizer of that size is known "
        "(CLIP's own has 49408)."
    )


def _clip(sd: dict, quick_gelu: bool, projected: bool, dtype: torch.dtype):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if not projected:
        sd = {k: v for k, v in sd.items() if not k.startswith("text_projection")}
    try:
        config = architecture.clip_config(sd, quick_gelu)
    except (KeyError, ValueError) as error:
        raise SageError(
            f"The text encoder is incomplete (missing {error}); choose another checkpoint."
        ) from error
    encoder = build(
        lambda c: (CLIPTextModelWithProjection if projected else CLIPTextModel)(CLIPTextConfig(**c)),
        config,
        "The text encoder",
    )
    fill(encoder, sd, "The text encoder", dtype)
    return encoder


def _vae(sd: Mapping[str, torch.Tensor], family, dtype: torch.dtype):
    """The autoencoder, or None where the checkpoint has none (erasing needs none; pictures do)."""
    from .autoencoder import from_original

    return from_original(sd, family, dtype)


def _encoders(folder: Path, index: dict, dtype: torch.dtype) -> list[torch.nn.Module]:
    """The CLIP text encoders of a diffusers folder."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    encoders = []
    for part in ("text_encoder", "text_encoder_2"):
        if not (folder / part).is_dir() or index.get(part, [None, None])[1] is None:
            continue
        projected = index.get(part, ["", ""])[1] == "CLIPTextModelWithProjection"
        kind = CLIPTextModelWithProjection if projected else CLIPTextModel
        encoder = build(
            lambda c, kind=kind: kind(CLIPTextConfig(**c)),
            _json(folder / part / "config.json"),
            "The text encoder",
        )
        fill(encoder, names.with_text_model(_weights(folder / part)), "The text encoder", dtype)
        encoders.append(encoder)
    return encoders


def _t5(folder: Path, dtype: torch.dtype) -> FrozenT5:
    part = folder / "text_encoder_3"
    return load_t5(_json(part / "config.json"), _weights(part), folder / "tokenizer_3", dtype)


def from_folder(
    folder: Path,
    prediction: str = "auto",
    dtype: torch.dtype = torch.float32,
    text: Path | None = None,
) -> DiffusionModel:
    """A model from a diffusers folder: model_index.json with unet or transformer, text_encoder(s), tokenizer,
    scheduler and vae beside it. text: see `load_model`.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny
    from transformers import CLIPTokenizer

    index = _json(folder / "model_index.json")
    unet = _network(folder, dtype)
    reads = folder if text is None or (folder / "text_encoder").is_dir() else text
    encoders = _encoders(reads, index, dtype)
    if not encoders:
        raise SageError(
            f"{folder} has no text_encoder folder; give the folder of a whole Stable Diffusion model."
        )
    flow = (folder / "transformer").is_dir()
    family = architecture.FAMILIES["sd3"] if flow else _family_of(unet, encoders)
    scheduler = _json(folder / "scheduler" / "scheduler_config.json")
    velocity = not family.flow and (
        _folder_velocity(scheduler) if prediction == "auto" else prediction == "v"
    )
    tokenizers = [
        CLIPTokenizer.from_pretrained(reads / t, local_files_only=True)
        for t in ("tokenizer", "tokenizer_2")
        if (reads / t).is_dir()
    ]
    vae = None
    if (folder / "vae").is_dir():
        config = _json(folder / "vae" / "config.json")
        vae = build(
            (
                AutoencoderTiny if config.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
            ).from_config,
            config,
            "The autoencoder",
        )
        fill(vae, _weights(folder / "vae"), "The autoencoder", dtype)
    pads, widths = tuple(t.pad_token_id for t in tokenizers), None
    if family.flow:
        widths = (unet.config.joint_attention_dim, unet.config.pooled_projection_dim)
    t5 = _t5(reads, dtype) if family.flow and (reads / "text_encoder_3").is_dir() else None
    stack = TextStack(encoders, tokenizers[0], family.clip_layer, pads, widths, t5)
    size = unet.config.sample_size
    pixels = 8 * (size if isinstance(size, int) else size[0])
    return DiffusionModel(
        family,
        stack,
        unet,
        vae,
        schedule.from_config(scheduler, family.flow),
        velocity,
        str(folder),
        pixels=pixels,
    )


def _network(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The UNet, or SD3's transformer. Raises SageError for other transformers."""
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    if not (folder / "transformer").is_dir():
        unet = build(UNet2DConditionModel.from_config, _json(folder / "unet" / "config.json"), "The UNet")
        fill(unet, _weights(folder / "unet"), "The UNet", dtype)
        return unet
    config = _json(folder / "transformer" / "config.json")
    kind = config.get("_class_name")
    if kind != "SD3Transformer2DModel":
        raise SageError(
            f"The model is a {shown(kind)}; of the flow transformers, only Stable Diffusion 3's and 3.5's can"
            " be used."
        )
    transformer = build(SD3Transformer2DModel.from_config, config, "The transformer")
    weights = names_sd3.widened(_weights(folder / "transformer"), config)
    fill(transformer, weights, "The transformer", dtype)
    return transformer


def _folder_velocity(scheduler: Mapping) -> bool:
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise SageError(
            f"The model predicts {shown(kind)}; only models that predict noise (epsilon) or v (v_prediction)"
            " can be used."
        )
    return kind == "v_prediction"


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
        raise SageError(
            f"{folder} holds no .safetensors weights (pickled .bin files are refused: they can run code)."
        )
    return {k: v for f in plain for k, v in read_safetensors(f).items()}


def fingerprint(modules: list[torch.nn.Module]) -> str:
    """SHA-256 over names, shapes and values in half precision, so that fp16 and fp32 copies of a model agree
    mostly.
    """
    digest = hashlib.sha256()
    for module in modules:
        for key, value in sorted(names.with_text_model(module.state_dict()).items()):
            digest.update(f"{key}{tuple(value.shape)}".encode())
            digest.update(value.detach().half().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
