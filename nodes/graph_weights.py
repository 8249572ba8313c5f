"""The weights of a MODEL and CLIP in the graph, upstream LoRAs included: what *Save Checkpoint* would write.

ComfyUI has changed how a checkpoint is gathered more than once (0.3.64 to 0.33.0 are tested). The methods
that *Save Checkpoint* itself calls are taken where they exist, since they work in memory. Where they are
missing or return something else, ComfyUI's public `save_checkpoint` writes a temporary file, which is slower
and always right.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import comfy.model_management as management
import comfy.sd
import folder_paths
import torch

from ..sage_core.diffusion.architecture import UNET
from ..sage_core.diffusion.quantised import dequantised
from ..sage_core.diffusion.weights import copied, opened
from ..sage_core.errors import SageError
from .beside import added
from .gradients import packed


def checkpoint(model, clip) -> dict[str, torch.Tensor]:
    """A state dict in the single-file layout, in main memory and independent of the graph's own tensors.

    Call it under inference mode, as the executor runs nodes: the patchers' tensors belong to it. Raises
    SageError where a link is empty or the weights cannot be read.
    """
    if model is None or clip is None:
        raise SageError(
            "The model or CLIP that is connected is empty; load a full checkpoint (not a UNet alone) and"
            " connect both."
        )
    for part, whole in (("MODEL", model.model), ("CLIP", clip.cond_stage_model)):
        if any(map(packed, whole.parameters())):
            raise SageError(
                f"The {part} is packed as GGUF, and its weights cannot be read out of the graph; load the"
                " same model from a safetensors file."
            )
    return _with_those_beside(_plain(model, clip), model)


def _plain(model, clip) -> dict[str, torch.Tensor]:
    """What *Save Checkpoint* would write, without what lies beside quantised weights."""
    try:
        state = _in_memory(model, clip)
        if any(key.startswith(UNET) for key in state):
            return state
        problem = f"first tensor {next(iter(state), 'none')!r}"
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        problem = f"{type(error).__name__}: {error}"
    logging.info(
        "[SAGE Concept Eraser] reading the weights through a temporary checkpoint file (%s)", problem
    )
    return _through_a_file(model, clip)


def _with_those_beside(state: dict[str, torch.Tensor], model) -> dict[str, torch.Tensor]:
    """The state with the LoRAs that lie beside quantised weights added to these, in float16."""
    changes = added(model)
    if not changes:
        return state
    with torch.inference_mode(False):
        state = dequantised(state)
        for path, change in changes.items():
            key = f"model.{path}.weight"
            state[key] = (state[key].float() + change.to(state[key].device)).half()
    return state


def _in_memory(model, clip) -> dict[str, torch.Tensor]:
    """What *Save Checkpoint* hands to safetensors.

    Values may be lazy: only their `.to("cpu")` is the patched weight.

    CLIP's are read before the checkpoint is put together, because SDXL's query, key and value matrices are
    joined there, which does not work on lazy values.
    """
    patchers = [model, clip.load_model()]
    if not hasattr(
        model, "state_dict_for_saving"
    ):  # until early 2026: LoRAs are merged into the weights first
        management.load_models_gpu(patchers, force_patch_weights=True)
        return _own_copies(model.model.state_dict_for_saving(clip.get_sd()))
    texts = clip.state_dict_for_saving() if hasattr(clip, "state_dict_for_saving") else clip.get_sd()
    texts = _own_copies(texts)
    management.load_models_gpu(patchers)
    return _own_copies(model.state_dict_for_saving(texts))


def _own_copies(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: _own_copy(value) for key, value in state.items()}


def _own_copy(value: torch.Tensor) -> torch.Tensor:
    """A normal tensor: the graph's belong to inference mode, in which nothing can be trained against them."""
    weight = value.to("cpu")
    weight = getattr(
        weight, "_qdata", weight
    )  # 0.8: a quantised weight as one object, its scale beside it as a tensor
    with torch.inference_mode(False):
        return torch.empty(weight.shape, dtype=weight.dtype).copy_(weight)


def _through_a_file(model, clip) -> dict[str, torch.Tensor]:
    """Slow (a checkpoint's size on the disk), through the one function whose signature has not changed."""
    Path(folder_paths.get_temp_directory()).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="sage-", dir=folder_paths.get_temp_directory()))
    try:
        comfy.sd.save_checkpoint(str(folder / "graph.safetensors"), model, clip)
        with torch.inference_mode(False), opened(folder / "graph.safetensors") as file:
            return copied(file)
    except (AttributeError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise SageError(
            f"The weights of this model cannot be read ({type(getattr(model, 'model', model)).__name__}:"
            f" {error}); connect an SD 1.x, 2.x or SDXL checkpoint."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
