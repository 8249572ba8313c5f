"""Records what a real ComfyUI says of the nodes: the snapshot for the tests and the English texts.

`python tests/comfy/record.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import server

IDS = (
    "SAGE_ApplyErasures",
    "SAGE_CompareErasure",
    "SAGE_ConceptGuard",
    "SAGE_EraseConcept",
    "SAGE_ErasureReport",
    "SAGE_LoadDemoModel",
    "SAGE_RedTeam",
)


def snapshot(info: dict) -> dict:
    """What shared workflows depend on: ids, inputs with their ranges and defaults, outputs.

    Texts and lists of files are left out.
    """
    return {
        name: {
            "inputs": {
                part: {i: stable(v) for i, v in inputs.items()}
                for part, inputs in info[name]["input"].items()
            },
            "outputs": info[name]["output"],
            "names": info[name]["output_name"],
            "display": info[name]["display_name"],
            "category": info[name]["category"],
        }
        for name in IDS
    }


def stable(value):
    if not isinstance(value, list):
        return value
    kind, *options = value
    return [
        "COMBO" if isinstance(kind, list) else kind,
        *({k: v for k, v in o.items() if k not in ("tooltip", "options")} for o in options),
    ]


def english(info: dict) -> dict:
    """locales/en/nodeDefs.json: every display name and tooltip, as the schema has them."""
    texts = {}
    for name in IDS:
        node = info[name]
        inputs = {
            i: {"name": options[0].get("display_name", i), "tooltip": options[0]["tooltip"]}
            for part in ("required", "optional")
            for i, (_, *options) in node["input"].get(part, {}).items()
        }
        outputs = {
            str(i): {"name": n, "tooltip": t}
            for i, (n, t) in enumerate(zip(node["output_name"], node["output_tooltips"]))
        }
        texts[name] = {
            "display_name": node["display_name"],
            "description": node["description"],
            "inputs": inputs,
            "outputs": outputs,
        }
    return texts


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as base,
        server.Server(server.find_comfies()[-1], Path(base)) as running,
    ):
        info = running.get("/object_info")
    write(Path(__file__).parent / "object_info.json", snapshot(info))
    write(server.PACK / "locales" / "en" / "nodeDefs.json", english(info))


def write(path: Path, data: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
