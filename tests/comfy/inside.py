"""Runs in ComfyUI's own Python: `inside.py COMFYUI PACK CASE CHECKPOINT LORA OUT` prints one line of JSON.

It compares what Erase Concept reads out of a graph with the file that ComfyUI's *Save Checkpoint* writes of the same graph.
CASE: "loaded" (as a queue does it), "lazy" (nothing is merged before it is read), "file" (through a temporary file).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

COMFY, PACK, CASE, CHECKPOINT, LORA, OUT = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import torch  # noqa: E402


def pack():
    """The pack as ComfyUI imports it: under a name of its own."""
    spec = importlib.util.spec_from_file_location("sage_pack", Path(PACK) / "__init__.py", submodule_search_locations=[PACK])
    module = importlib.util.module_from_spec(spec)
    sys.modules["sage_pack"] = module
    spec.loader.exec_module(module)


def graph(lora: str = LORA):
    """(model, clip) of the checkpoint ("demo": the bundled one) behind the LoRA."""
    if CHECKPOINT == "demo":
        from sage_pack.nodes.demo_checkpoint import load

        model, clip, _ = load()
    else:
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=False, output_clip=True)
    if lora != "none":
        model, clip = comfy.sd.load_lora_for_models(model, clip, comfy.utils.load_torch_file(lora, safe_load=True), 0.8, 0.6)
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


@torch.inference_mode()
def main() -> None:
    pack()
    from sage_pack.nodes import graph_weights

    folder_paths.set_temp_directory(OUT)
    graph_weights._own_copy = counted(graph_weights._own_copy)
    if CASE == "lazy":
        comfy.model_management.load_models_gpu = lambda models, **kwargs: [never_merged(m) for m in models]
        comfy.sd.model_management.load_models_gpu = comfy.model_management.load_models_gpu
        comfy.sd.CLIP.load_model = lambda self, *args: (never_merged(self.patcher), self.patcher)[1]
    if CASE == "file":
        graph_weights._in_memory = lambda model, clip: {"strange": torch.zeros(1)}
    ours = graph_weights.checkpoint(*graph())
    saved = Path(OUT) / "saved.safetensors"
    if not saved.exists():  # the other cases compare with the file of "loaded"
        comfy.sd.save_checkpoint(str(saved), *graph())
    theirs = comfy.utils.load_torch_file(str(saved), safe_load=True)
    plain = graph_weights.checkpoint(*graph(lora="none"))
    different = [k for k in theirs if k not in ours or ours[k].dtype != theirs[k].dtype or not torch.equal(ours[k], theirs[k])]
    print(json.dumps({
        "tensors": len(theirs), "extra": sorted(set(ours) - set(theirs)), "different": different,
        "moved": sum(not torch.equal(ours[k], v) for k, v in plain.items()), "lazy": LAZY[0],
        "inference": [k for k, v in ours.items() if v.is_inference()],
        "left": [p.name for p in Path(OUT).iterdir() if p.name.startswith("sage-")],
    }))


main()
