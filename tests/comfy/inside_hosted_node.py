"""Runs in ComfyUI's own Python:

`inside_hosted_node.py COMFYUI PACK FOLDER [FAMILY]` prints JSON.

Has Erase Concept's own session erase a word from a small random flow (FLUX), twice; then asks for what is
refused.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COMFY, PACK, FOLDER = sys.argv[1:4]
FAMILY = sys.argv[4] if len(sys.argv) > 4 else "flux1"
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import folder_paths  # noqa: E402
import small_flows  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402


def refused(call, *args) -> str:
    from sage_pack.sage_core.errors import SageError

    try:
        call(*args)
    except SageError as error:
        return str(error)
    return ""


def main() -> dict:
    from sage_pack.nodes import bridge, core_model, session
    from sage_pack.sage_core import ErasureSpec

    torch.manual_seed(0)
    torch.set_num_threads(1)
    said: list[str] = []

    def send(self, event: str, data: dict) -> None:
        said.append(data.get("text", ""))

    bridge.Messages.send = send
    bridge.REPORT_EVERY = 0

    def run(model, clip, *specs):
        return session.run(model, clip, None, list(specs), "erased-%concept%", {}, None)

    def spec(**other):
        return ErasureSpec(**{"concept": "dog", "steps": 2, "resolution": 64, **other})

    with torch.inference_mode():  # as the executor runs nodes
        model, clip = small_flows.family(FAMILY)
        done = run(model, clip, spec())
        trained = len(said)
        again = run(model, clip, spec())
        other = {
            "method": refused(run, model, clip, spec(method="uce")),
            "text": refused(run, model, clip, spec(surface="text")),
            "automatic": refused(run, model, clip, spec(becomes="automatic")),
            "judging": refused(core_model.core_model, model, clip),
            "no clip": refused(run, model, None, spec()),
        }
        both = run(model, clip, spec(concept="cat"), spec(concept="castle"))
    return {
        "names": done.names,
        "again": again.names,
        "patched": len(done.model.patches),
        "clip": done.clip is clip,
        "graph": list(done.graph.shape),
        "prompts": done.prompts,
        "said": said[:trained],
        "found": [text for text in said[trained:] if "nothing is trained" in text],
        "refused": other,
        "both": both.names,
        "stacked": len(both.model.patches),
        "files": sorted(p.name for p in Path(FOLDER).rglob("*.safetensors")),
        "left behind": sum("forward" in vars(m) for m in model.model.diffusion_model.modules()),
        "hooks": sum(
            len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.diffusion_model.modules()
        ),
    }


folder_paths.folder_names_and_paths["loras"] = ([FOLDER], {".safetensors"})
folder_paths.set_user_directory(FOLDER)
import_pack(PACK)
print("RESULT" + json.dumps(main()))
