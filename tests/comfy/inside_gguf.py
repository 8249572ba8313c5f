"""Runs in ComfyUI's own Python:

`inside_gguf.py COMFYUI PACK GGUF FOLDER FAMILY TYPE` prints JSON. GGUF: the folder of the custom node
ComfyUI-GGUF.

Trains on a small random model that the custom node loaded from a file in TYPE, and compares its gradient with
those of the same model unpacked and of the model before it was packed. FAMILY sd1: the sentence in which the
bundled model is refused, packed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from pathlib import Path

COMFY, PACK, GGUF, FOLDER, FAMILY, TYPE = sys.argv[1:7]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_patcher  # noqa: E402
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import small_flows  # noqa: E402
import torch  # noqa: E402
from inside_compared import compared  # noqa: E402
from inside_pack import import_pack  # noqa: E402

WIDTH = small_flows.FLUX["hidden_size"]
NAMES = {
    "qwen_image": "qwen_image",
    "z_image": "lumina2",
    "sd1": "sd1",
    "sd3": "sd3",
}  # of architectures, in files
KIND = small_flows.KINDS.get(FAMILY, ("Flux", small_flows.FLUX | {"guidance_embed": True}))


def pack(sd: dict, path: Path) -> dict:
    """Write a file as converters do, the blocks' matrices in TYPE; what the file holds, unpacked."""
    import gguf

    kinds, unpacked = gguf.GGMLQuantizationType, {}
    writer = gguf.GGUFWriter(path, NAMES.get(FAMILY, "flux"))
    for key, value in sd.items():
        whole = value.ndim != 2 or not any(part in key for part in ("blocks.", "layers.", "refiner."))
        kind = kinds.F32 if whole else kinds[TYPE]
        if kind.name.endswith("_K"):
            data = drawn(kind, *value.shape)
        else:
            data = gguf.quants.quantize(value.float().numpy(), kind)
        writer.add_tensor(key, data, raw_dtype=kind)
        unpacked[key] = torch.from_numpy(gguf.quants.dequantize(data, kind).copy()).view(value.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return unpacked


def drawn(kind, rows: int, columns: int) -> np.ndarray:
    """A random packed matrix: the package reads these types and does not write them. All bytes of its blocks
    of 256 are drawn but for their scales, which make numbers of mean 0 and deviation about 1 / sqrt(columns).
    """
    import gguf

    width, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (rows, columns // width, size), np.uint8)
    if kind.name == "Q6_K":  # one scale, last; its numbers are signed
        scales = np.array([1 / (1369 * columns**0.5)], np.float16)
        blocks[..., -2:] = scales.view(np.uint8)
    else:  # two, first: of the numbers, and of what is taken off them
        middle, spread = {"Q4_K": (7.5, 200), "Q5_K": (15.5, 400)}[kind.name]
        scales = np.array([1, middle], np.float32) / (spread * columns**0.5)
        blocks[..., :4] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def loaded(name: str):
    """A MODEL by the custom node's loader; where ComfyUI does not detect so small a width, by its parts."""
    from comfyui_gguf import loader, nodes, ops

    if FAMILY == "flux1":
        with contextlib.suppress(ValueError, RuntimeError):
            model = nodes.UnetLoaderGGUF().load_unet(name)[0]
            if model.model.diffusion_model.hidden_size == WIDTH:
                return model, True
    sd = loader.gguf_sd_loader(str(Path(FOLDER) / name))
    model = small_flows.built(*KIND, sd=sd, operations=ops.GGMLOps())
    return nodes.GGUFModelPatcher.clone(model), False


def refused() -> dict:
    """Stable Diffusion is trained from its own weights, which a packed MODEL does not give."""
    from comfyui_gguf import loader, nodes, ops
    from sage_pack.nodes import core_model, demo_checkpoint
    from sage_pack.sage_core.errors import SageError

    with torch.inference_mode():
        whole, clip, _ = demo_checkpoint.load()
        pack(whole.model.diffusion_model.state_dict(), Path(FOLDER) / "model.gguf")
        whole.model.model_config.custom_operations = ops.GGMLOps()
        model = whole.model.model_config.get_model({}, "")
        model.load_model_weights(loader.gguf_sd_loader(str(Path(FOLDER) / "model.gguf")), "")
        patcher = comfy.model_patcher.ModelPatcher(model, whole.load_device, whole.offload_device)
        try:
            core_model.core_model(nodes.GGUFModelPatcher.clone(patcher), clip)
        except SageError as error:
            return {"sentence": str(error)}
    return {"sentence": ""}


def main() -> dict:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():  # as the executor runs nodes
        first, _ = small_flows.family(FAMILY)
        if first is None:
            return {"missing": True}
        sd = {key: value.clone() for key, value in first.model.diffusion_model.state_dict().items()}
        unpacked = small_flows.built(*KIND, sd=pack(sd, Path(FOLDER) / "model.gguf"))
        model, by_loader = loaded("model.gguf")
        found = compared(FAMILY, FOLDER, model, unpacked, first)
    packed = sum(p.dtype == torch.uint8 for p in model.model.diffusion_model.parameters())
    return found | {"class": type(model).__name__, "by its loader": by_loader, "packed": packed}


folder_paths.folder_names_and_paths["unet"] = ([FOLDER], {".gguf"})
folder_paths.folder_names_and_paths["diffusion_models"] = ([FOLDER], {".gguf"})
import_pack(PACK)
node = importlib.util.spec_from_file_location(
    "comfyui_gguf", Path(GGUF) / "__init__.py", submodule_search_locations=[GGUF]
)
sys.modules["comfyui_gguf"] = importlib.util.module_from_spec(node)
node.loader.exec_module(sys.modules["comfyui_gguf"])
print("RESULT" + json.dumps(refused() if FAMILY == "sd1" else main()))
