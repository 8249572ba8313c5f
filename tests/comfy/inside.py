"""Runs in ComfyUI's own Python:

`inside.py COMFYUI PACK CASES CHECKPOINT LORA OUT` prints JSON, {case: findings}.

It compares what Erase Concept reads out of a graph with the file that ComfyUI's *Save Checkpoint* writes of
the same graph. CASES, separated by commas: "loaded" (as a queue does it), "file" (through a temporary file),
"lazy" (nothing is merged before it is read; it has to come last).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COMFY, PACK, CASES, CHECKPOINT, LORA, OUT = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import safetensors  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402


def graph(lora: str = LORA):
    """(model, clip) of the checkpoint ("demo": the bundled one) behind the LoRA."""
    if CHECKPOINT == "demo":
        from sage_pack.nodes.demo_checkpoint import load

        model, clip, _ = load()
    else:
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            CHECKPOINT, output_vae=False, output_clip=True
        )
    if lora != "none":
        model, clip = comfy.sd.load_lora_for_models(
            model, clip, comfy.utils.load_torch_file(lora, safe_load=True), 0.8, 0.6
        )
    return model, clip


def never_merged(patcher):
    """As dynamic VRAM leaves a model: no patch is merged into a weight before it is read."""
    comfy.model_management.unload_all_models()
    for module in patcher.model.modules():
        if getattr(module, "comfy_patched_weights", False):
            module.comfy_patched_weights = False


LAZY = [0]  # how many values were read that only `.to("cpu")` turns into the weight


def counted(own_copy):
    def copy(value):
        LAZY[0] += type(value).__name__.startswith("Lazy")
        return own_copy(value)

    return copy


def nothing_is_merged() -> None:
    """From here on, models that are "loaded" stay as dynamic VRAM leaves them."""
    comfy.model_management.load_models_gpu = lambda models, **kwargs: [never_merged(m) for m in models]
    comfy.sd.CLIP.load_model = lambda self, *args: (never_merged(self.patcher), self.patcher)[1]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit by bit: torch cannot compare 8-bit floats."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def findings(case: str, graph_weights, theirs: dict, plain: dict) -> dict:
    """What the pack reads in that case, against *Save Checkpoint*'s tensors and the same graph without the
    LoRA.
    """
    in_memory, LAZY[0] = graph_weights._in_memory, 0
    if case == "lazy":
        nothing_is_merged()
    if case == "file":
        graph_weights._in_memory = lambda model, clip: {"strange": torch.zeros(1)}
    ours = graph_weights.checkpoint(*graph())
    graph_weights._in_memory = in_memory
    if case == "loaded":
        safetensors.torch.save_file(ours, Path(OUT) / "ours.safetensors")
    different = [k for k, v in theirs.items() if k not in ours or not same(ours[k], v)]
    return {
        "tensors": len(theirs),
        "extra": sorted(set(ours) - set(theirs)) if theirs else [],
        "different": different,
        "lazy": LAZY[0],
        "moved": sum(not same(ours[k], v) for k, v in plain.items()),
        "inference": [k for k, v in ours.items() if v.is_inference()],
        "left": [p.name for p in Path(OUT).iterdir() if p.name.startswith("sage-")],
    }


def saved(path: Path) -> dict:
    """*Save Checkpoint*'s tensors.

    Empty where ComfyUI itself cannot write them (0.8.0 with a quantised base).
    """
    try:
        comfy.sd.save_checkpoint(str(path), *graph())
    except safetensors.SafetensorError:
        return {}
    return comfy.utils.load_torch_file(str(path), safe_load=True)


@torch.inference_mode()
def main() -> None:
    import_pack(PACK)
    from sage_pack.nodes import graph_weights

    folder_paths.set_temp_directory(OUT)
    graph_weights._own_copy = counted(graph_weights._own_copy)
    theirs = saved(Path(OUT) / "saved.safetensors")
    plain = graph_weights.checkpoint(*graph(lora="none"))
    print(json.dumps({case: findings(case, graph_weights, theirs, plain) for case in CASES.split(",")}))


main()
