"""ComfyUI's own functions in one place: LoRAs onto the graph, progress, cancel, memory, sampling.

Only this file, beside.py, graph_weights.py, guarded.py, hosted.py, gradients.py, demo_checkpoint.py and
demo_flow.py import `comfy`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.lora
import comfy.model_management as management
import comfy.model_sampling
import comfy.sample
import comfy.sd
import comfy.utils
import folder_paths
import torch

from ..sage_core.diffusion.schedule import STEPS, flow
from ..sage_core.errors import SageError
from . import beside, variants
from .beside import UP
from .pictures import data_url

OutOfMemory = (
    torch.cuda.OutOfMemoryError
)  # ComfyUI's own name for it may be Exception, which would swallow its interrupt
REPORT_EVERY = 0.2  # seconds between two messages to the page


def loras_folder() -> Path:
    """Where LoRA files are saved: the first folder that ComfyUI's own loader lists."""
    return Path(folder_paths.get_folder_paths("loras")[0])


def state_folder() -> Path:
    """Where the states of unfinished runs lie, so that they outlive a restart."""
    return Path(folder_paths.get_user_directory()) / "sage_concept_eraser"


def output_folder() -> Path:
    """Where reports are saved: a folder of ours in ComfyUI's output."""
    return Path(folder_paths.get_output_directory()) / "sage"


def lora_names() -> list[str]:
    """Every LoRA that ComfyUI knows, newest listing."""
    return folder_paths.get_filename_list("loras")


def lora_file(name: str) -> Path:
    """The file behind a listed name. Raises SageError where it is missing."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:  # a workflow from Windows names it with another separator
        path = folder_paths.get_full_path("loras", name.replace("\\", "/"))
    if path is None:
        raise SageError(
            f"There is no LoRA {name!r} in models/loras; choose one from the list, or erase the concept"
            " first."
        )
    return Path(path)


@contextmanager
def training() -> Iterator[None]:
    """The executor runs nodes under inference mode, in which nothing can be trained and no loaded weight be
    trained against.
    """
    with torch.inference_mode(False), torch.enable_grad(), beside_the_page():
        yield


@contextmanager
def beside_the_page() -> Iterator[None]:
    """Long work on a CPU leaves a core to whatever draws the page: torch's threads wait for each other in
    every operation, so one that has to share its core holds up all.
    """
    threads = torch.get_num_threads()
    if device().type == "cpu":
        torch.set_num_threads(min(threads, max(1, _cores() - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device() -> torch.device:
    return management.get_torch_device()


def training_dtype() -> torch.dtype:
    """Frozen weights: bfloat16 where the device computes in it, else float16 where that is sound, else
    float32. Adapters are always float32.
    """
    where = device()
    if where.type != "cuda":
        return torch.float32
    return (
        torch.bfloat16
        if management.should_use_bf16(where)
        else torch.float16
        if management.should_use_fp16(where)
        else torch.float32
    )


def free_memory() -> None:
    management.unload_all_models()
    management.soft_empty_cache()


def check_cancelled() -> None:
    """Raises ComfyUI's own interrupt where the user pressed Cancel."""
    management.throw_exception_if_processing_interrupted()


def prediction(model) -> tuple[str, torch.Tensor]:
    """As the graph samples the model: "epsilon", "v" or "flow", and the noise schedule, abar_t [1000].

    Raises SageError where it is sampled otherwise.
    """
    sampling, known = model.get_model_object("model_sampling"), comfy.model_sampling
    if isinstance(sampling, known.ModelSamplingDiscreteFlow) and isinstance(sampling, known.CONST):
        return "flow", flow(float(sampling.shift))
    if isinstance(sampling, known.ModelSamplingFlux) and isinstance(sampling, known.CONST):
        return "flow", flow(math.exp(float(sampling.shift)))  # its shift is mu
    if not isinstance(sampling, known.ModelSamplingDiscrete) or isinstance(
        sampling, known.ModelSamplingDiscreteEDM
    ):
        raise SageError(
            f"The model is sampled with {type(sampling).__name__}, not Stable Diffusion's discrete schedule;"
            " connect an SD 1.x, 2.x or SDXL model, or a rectified flow as SD 3 and FLUX are."
        )
    if len(sampling.sigmas) != STEPS:  # LCM's own sampling knows 50 of them
        raise SageError(
            f"The model is sampled at {len(sampling.sigmas)} noise levels instead of {STEPS}, as"
            " ModelSamplingDiscrete's lcm has it; put Erase Concept before that node, which then samples the"
            " erased model."
        )
    alphas = 1 / (1 + sampling.sigmas.double().cpu() ** 2)
    if isinstance(sampling, known.V_PREDICTION) and not isinstance(sampling, known.EDM):
        return "v", alphas
    if isinstance(sampling, known.EPS) and not isinstance(sampling, (known.V_PREDICTION, known.X0)):
        return "epsilon", alphas
    raise SageError(
        f"The model predicts neither noise nor v ({type(sampling).__name__}); connect an SD 1.x, 2.x or SDXL"
        " model."
    )


def apply_lora(model, clip, path: Path, strength_model: float = 1.0, strength_clip: float = 1.0):
    """(model, clip) with the LoRA on them, as ComfyUI's own loader does it, but refused unless every layer
    lands. On quantised weights it lies beside them.
    """
    # Copies: ComfyUI maps the file and keeps the tensors, and Windows does not delete or replace a mapped
    # file.
    tensors = {k: v.clone() for k, v in comfy.utils.load_torch_file(str(path), safe_load=True).items()}
    layers = {k.removesuffix(up) for k in tensors for up in UP if k.endswith(up)}
    keys: dict = {}
    if model is not None:
        keys = comfy.lora.model_lora_keys_unet(model.model, keys)
    if clip is not None:
        keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, keys)
    if not layers:
        raise SageError(f"{path.name} holds no LoRA layers.")
    if lost := sorted(layer for layer in layers if layer not in keys):
        raise SageError(
            f"{path.name}: {len(lost)} of {len(layers)} layers do not exist in the connected model (first"
            f" {lost[0]!r}); the LoRA was made for another architecture, or CLIP is not connected."
        )
    owners = [p.model for p in (model, clip.patcher if clip is not None else None) if p is not None]
    for layer in layers:
        _check_shape(path, layer, tensors, keys[layer], owners)
    if model is not None:
        model, tensors = beside.attach(model, tensors, keys, strength_model)
    return comfy.sd.load_lora_for_models(model, clip, tensors, strength_model, strength_clip)


def _check_shape(path: Path, layer: str, tensors: dict, key, owners: list) -> None:
    """A LoRA of the right names and the wrong width would only fail in the middle of sampling."""
    weight = next((w for w in (beside.weight_of(owner, key) for owner in owners) if w is not None), None)
    up, down = beside.sides(tensors, layer)
    if up is None or down is None or weight is None:
        return
    if (up.shape[0], down.shape[1]) != (weight.shape[0], weight.shape[1]):
        raise SageError(
            f"{path.name}: {layer!r} is {down.shape[1]} to {up.shape[0]} wide, the connected model's layer"
            f" {weight.shape[1]} to {weight.shape[0]}; the LoRA was made for another architecture."
        )


def encode(clip, prompt: str) -> list:
    """ComfyUI's conditioning of a text."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def rows(conditionings: list[list]) -> list:
    """Conditionings of the same length as one, a row each."""
    hidden = torch.cat([cond[0][0] for cond in conditionings])
    pooled = [cond[0][1].get("pooled_output") for cond in conditionings]
    return [[hidden, {} if any(p is None for p in pooled) else {"pooled_output": torch.cat(pooled)}]]


@beside_the_page()
def sample(
    model,
    clip,
    prompt: str | list,
    seeds: list[int],
    size: tuple[int, int],
    steps: int,
    guidance: float,
    on_step: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Latents [n, c, h, w] by ComfyUI's own sampler (DPM++ 2M, Karras; Euler for a flow), one noise a seed.

    size: (width, height) in pixels. prompt: text, or ComfyUI's conditioning of one row or of one a seed.
    """
    flows = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
    latent = model.get_model_object("latent_format")
    positive = encode(clip, prompt) if isinstance(prompt, str) else prompt
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    each = variants.compression(latent)
    shape = len(seeds), latent.latent_channels, *frames(latent), size[1] // each, size[0] // each
    empty = torch.zeros(shape, device=management.intermediate_device())
    noise = torch.cat([comfy.sample.prepare_noise(empty[:1], seed) for seed in seeds])
    return comfy.sample.sample(
        model,
        noise,
        steps,
        guidance,
        "euler" if flows else "dpmpp_2m",
        "simple" if flows else "karras",
        positive,
        negative,
        empty,
        seed=seeds[0],
        disable_pbar=True,
        callback=lambda *_: on_step(),
    )


def as_trained(model, latents: torch.Tensor) -> torch.Tensor:
    """A sampler's latents at the scale at which the model was trained, float32."""
    own = model.model.process_latent_in(latents).float()
    return own.squeeze(2) if own.ndim == 5 else own


def as_sampled(model, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `as_trained`: latents [n, c, h, w] as ComfyUI's autoencoders take them."""
    single = frames(model.get_model_object("latent_format"))
    return model.model.process_latent_out(latents.unsqueeze(2) if single else latents)


def frames(latent_format) -> tuple[int, ...]:
    """One frame, in the latents of a picture model that has a video's autoencoder (Qwen-Image); else none."""
    return (1,) if getattr(latent_format, "latent_dimensions", 2) == 3 else ()


@beside_the_page()
def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """ComfyUI's latents to images [n, H, W, 3] in [0, 1]."""
    with torch.inference_mode():
        images = vae.decode(latents).float().cpu()
        return images.flatten(0, 1) if images.ndim == 5 else images  # a video's autoencoder: one frame each


class Messages:
    """Progress to the page: bar, text and pictures.

    Every call honours Cancel. `own_face`: the pack's script shows text and pictures on the node, so ComfyUI's
    own line of text is left out. Pictures do not go through ComfyUI's previews: those stay on a node beside
    its output.
    """

    def __init__(self, node_id: str | None, own_face: bool = False):
        self.node_id, self.own_face = node_id, own_face
        self.bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self.last = 0.0

    def __call__(self, phase: str, step: int, total: int, text: str, preview=None, **data) -> None:
        """preview: a PIL image for the pack's script, which shows it on the node. data:

        JSON values for the script.
        """
        check_cancelled()
        finished = step >= total
        if preview is None and not finished and time.monotonic() - self.last < REPORT_EVERY:
            return
        self.last = time.monotonic()
        self.bar.update_absolute(step, total)
        picture = {} if preview is None else {"preview": data_url(preview)}
        self.send(
            "sage.progress", {"phase": phase, "step": step, "total": total, "text": text, **picture, **data}
        )
        if not self.own_face and (server := _server()) is not None and self.node_id is not None:
            server.send_progress_text(text, self.node_id)

    def send(self, event: str, data: dict) -> None:
        if (server := _server()) is not None:
            server.send_sync(event, {"node": self.node_id, **data})


def _server():
    try:
        from server import PromptServer
    except ImportError:
        return None
    return getattr(PromptServer, "instance", None)
