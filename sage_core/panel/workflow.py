"""The workflow of an erasure for ComfyUI: Erase Concept with the very values that made the file, and a
comparison.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePath
from typing import Any

from ..errors import SageError
from ..lora.file import LoraFile
from ..spec import ErasureSpec, parse_concepts

AUTOMATIC = "as the method has it"  # of a surface; the node's word
# The widgets of Load Demo Model that load each bundled model; what it loads by default needs none.
DEMO: dict[str, list[str]] = {"demo": [], "demo-flow": ["flow transformer (SD 3)"]}
SIZES = {"sd_v1": 512, "sd_v2": 768, "sdxl_base_v1-0": 1024, "sd3": 1024}
# The node's widgets in their order, in which a workflow stores their values; a test compares it with the
# node.
WIDGETS = (
    *("concepts", "method", "effort", "lora_name", "seed", "retain", "surface", "rank", "steps", "strength"),
    *("resolution", "kind", "exclude", "search", "check", "becomes"),
)


def workflow_of(file: LoraFile) -> dict[str, Any]:
    """From the metadata of a LoRA, the file that ComfyUI opens. Raises SageError where the node cannot make
    this file.
    """
    specs = []
    for data in file.specs():
        if data.get("strength", 1.0) != 1.0:
            raise SageError(
                "The file joins erasures at other strengths than 1, which Erase Concept does not do."
            )
        specs.append(ErasureSpec.from_json({k: v for k, v in data.items() if k != "strength"}))
    base = file.metadata.get("ss_sd_model_name", "")
    size = SIZES.get(file.metadata.get("ss_base_model_version", ""), 512)
    return workflow(specs, base, 64 if base in DEMO else size)


def workflow(specs: list[ErasureSpec], base: str, size: int) -> dict[str, Any]:
    """base: the checkpoint's file name, "demo" or "demo-flow". size: of the compared pictures, in pixels.

    Raises SageError where the node has no input for what was asked, or cannot load the model.
    """
    if base not in DEMO and not base.endswith(".safetensors"):
        raise SageError(
            "ComfyUI's checkpoint loader opens .safetensors files, and the model was"
            f" {base or 'not recorded'} (a diffusers folder); save it as one file first."
        )
    values = node_values(specs)
    loader: tuple[str, list] = (
        ("SAGE_LoadDemoModel", DEMO[base]) if base in DEMO else ("CheckpointLoaderSimple", [base])
    )
    prompts = "\n".join(f"a picture of {spec.concept}" for spec in specs)
    links: list[list[Any]] = []

    def link(origin: int, slot: int, target: int, place: int, kind: str) -> int:
        links.append([len(links) + 1, origin, slot, target, place, kind])
        return len(links)

    erase_in = [
        {"name": name.lower(), "type": name, "link": link(1, slot, 2, slot, name)}
        for slot, name in enumerate(("MODEL", "CLIP", "VAE"))
    ]
    sides = (("model_before", 1, 0), ("clip_before", 1, 1), ("model_after", 2, 0), ("clip_after", 2, 1))
    compare_in: list[dict[str, Any]] = []
    for place, (name, origin, slot) in enumerate((*sides, ("vae", 1, 2))):
        kind = ("MODEL", "CLIP", "VAE")[slot]
        compare_in.append({"name": name, "type": kind, "link": link(origin, slot, 3, place, kind)})
    text = {"name": "prompts", "type": "STRING", "widget": {"name": "prompts"}}
    compare_in.append(text | {"link": link(2, 5, 3, 5, "STRING")})
    outputs = [(n, n) for n in ("MODEL", "CLIP", "VAE")]
    erased = [
        *(("MODEL", "MODEL"), ("CLIP", "CLIP"), ("lora_name", "STRING"), ("loss graph", "IMAGE")),
        *(("before / after", "IMAGE"), ("test prompts", "STRING")),
    ]
    compared = [(n, "IMAGE") for n in ("grid", "before", "after")] + [
        ("drift", "FLOAT"),
        ("report", "STRING"),
    ]
    nodes = [
        _node(1, loader[0], (0, 0), (280, 110), [], outputs, loader[1], links),
        _node(
            2,
            "SAGE_EraseConcept",
            (320, 0),
            (440, 940),
            erase_in,
            erased,
            [values[w] for w in WIDGETS],
            links,
        ),
        _node(
            *(3, "SAGE_CompareErasure", (820, 0), (440, 780), compare_in, compared),
            [prompts, 1, 0, 20, 5.0, size, True, ""],
            links,
        ),
    ]
    return {
        "id": "00000000-0000-0000-0000-000000000000",
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _node(
    number: int,
    kind: str,
    pos: tuple[int, int],
    size: tuple[int, int],
    inputs: list[dict],
    outputs: list[tuple[str, str]],
    values: list,
    links: list[list],
) -> dict[str, Any]:
    """A node as the page saves it."""
    out = []
    for slot, (name, type_) in enumerate(outputs):
        own = [link[0] for link in links if (link[1], link[2]) == (number, slot)]
        out.append({"name": name, "type": type_, "links": own or None})
    return {
        **{"id": number, "type": kind, "pos": list(pos), "size": list(size), "flags": {}},
        **{"order": number - 1, "mode": 0, "inputs": inputs, "outputs": out},
        **{"properties": {"Node name for S&R": kind}, "widgets_values": values},
    }


def node_values(specs: list[ErasureSpec]) -> dict[str, Any]:
    """The widgets of Erase Concept for these erasures. Raises SageError where no values give them."""
    first = specs[0].recipe()
    lines = []
    for spec in specs:
        lines.append(f"{spec.concept} | {', '.join(spec.synonyms)}" if spec.synonyms else spec.concept)
    values: dict[str, Any] = {
        "concepts": "\n".join(lines),
        "method": first.method.name,
        "effort": "standard",
        "lora_name": "erased-%concept%",
        "seed": first.seed,
        "retain": "\n".join(first.retain),
        "surface": first.surface,
        "rank": 0,
        "steps": 0,
        "strength": 0.0,
        "resolution": first.resolution or 0,
        "kind": first.kind,
        "exclude": "\n".join(first.exclude),
        "search": first.search,
        "check": first.check,
        "becomes": first.becomes,
    }
    own = {"rank": first.rank, "steps": first.steps, "strength": float(first.eta or 0.0)}
    # The method's own numbers where they are meant: the page is easier to read then, and closed forms have
    # no others.
    for given in ({}, {"strength": own["strength"]}, own):
        if _gives(values | given, specs):
            return values | given
    raise SageError(
        f"Erase Concept has no inputs that give this very erasure of {specs[0].concept!r} (its learning rate,"
        " its alpha, words with commas in them, or settings that differ between several concepts); repeat it"
        " with: sage-erase erase MODEL --from FILE"
    )


def _gives(values: dict[str, Any], specs: list[ErasureSpec]) -> bool:
    """Whether the node makes these erasures of these values."""
    try:
        made = as_the_node_reads(values)
    except SageError:
        return False
    return [_name(spec) for spec in made] == [_name(spec) for spec in specs]


def _name(spec: ErasureSpec) -> str:
    return spec.recipe().fingerprint()


def as_the_node_reads(values: dict[str, Any]) -> list[ErasureSpec]:
    """What nodes/request.py makes of these values; a test compares them. Raises SageError."""
    base = ErasureSpec(
        "concept",
        retain=_words(values["retain"]),
        method=values["method"],
        seed=values["seed"],
        surface=None if values["surface"] == AUTOMATIC else values["surface"],
        steps=values["steps"] or None,
        rank=values["rank"] or None,
        eta=values["strength"] or None,
        resolution=values["resolution"] or None,
        kind=values["kind"],
        exclude=_words(values["exclude"]),
        search=None if values["search"] else False,
        check=None if values["check"] else False,
        becomes=values["becomes"],
    )
    made = []
    for name, synonyms in parse_concepts(values["concepts"]):
        spec = dataclasses.replace(base, concept=name, synonyms=synonyms)
        made.append(spec if spec.steps else dataclasses.replace(spec, steps=spec.recipe().steps))
    return made


def _words(text: str) -> tuple[str, ...]:
    parts = text.replace(",", "\n").splitlines()
    return tuple(dict.fromkeys(" ".join(part.split()) for part in parts if part.strip()))


def file_name(concept: str) -> str:
    """Of the workflow."""
    from ..files import slug

    return str(PurePath(f"erase-{slug(concept)}.json"))
