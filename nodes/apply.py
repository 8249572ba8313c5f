"""Apply Erasures: several erasure LoRAs, stacked; each can be taken out again by choosing "none"."""

from __future__ import annotations

import math

from comfy_api.latest import io

from .errors import sentence_of
from .inputs import advanced

NONE = "none"
SLOTS = 6
BASIC = 3  # slots that are shown at once


class ApplyErasures(io.ComfyNode):
    """See web/docs/SAGE_ApplyErasures.md."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .bridge import lora_names

        names = [NONE, *lora_names()]
        inputs = [
            io.Model.Input(
                "model", tooltip="The model that the erasures were made for, or one with the same CLIP."
            ),
            io.Clip.Input(
                "clip",
                tooltip=(
                    "Its CLIP. Most erasures change CLIP as well: use this node's CLIP output for your"
                    " prompts."
                ),
            ),
        ]
        for slot in range(1, SLOTS + 1):
            first = slot == 1
            own = [
                io.Combo.Input(
                    f"lora_{slot}",
                    options=names,
                    default=NONE,
                    optional=not first,
                    tooltip=(
                        "An erasure LoRA, or none to take it out. Files whose layers do not all fit the model"
                        " are refused."
                    ),
                ),
                io.Float.Input(
                    f"strength_{slot}",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    optional=not first,
                    tooltip=(
                        "Strength on model and CLIP: 1 is the erasure as it was measured, 0 switches it off."
                    ),
                ),
            ]
            inputs += own if slot <= BASIC else [advanced(i) for i in own]
        return io.Schema(
            node_id="SAGE_ApplyErasures",
            display_name="Apply Erasures",
            category="SAGE",
            description=(
                "Stacks erasure LoRAs on a model. Each one can be taken out again without touching the"
                " others."
            ),
            inputs=inputs,
            outputs=[
                io.Model.Output(
                    "erased_model", display_name="MODEL", tooltip="The model with all chosen erasures."
                ),
                io.Clip.Output("erased_clip", display_name="CLIP", tooltip="CLIP with all chosen erasures."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip=(
                        "What was applied, a line each: name, strength, what it erases and how it measured."
                    ),
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        lora_1=NONE,
        lora_2=NONE,
        lora_3=NONE,
        lora_4=NONE,
        lora_5=NONE,
        lora_6=NONE,
        strength_1=1.0,
        strength_2=1.0,
        strength_3=1.0,
        strength_4=1.0,
        strength_5=1.0,
        strength_6=1.0,
    ):
        def check():
            for slot, value in enumerate(
                (strength_1, strength_2, strength_3, strength_4, strength_5, strength_6), 1
            ):
                _strength(slot, value)
            for name in (lora_1, lora_2, lora_3, lora_4, lora_5, lora_6):
                if name not in (None, NONE):
                    from .bridge import lora_file

                    lora_file(name)

        return sentence_of(check)

    @classmethod
    def execute(cls, model, clip, **slots) -> io.NodeOutput:
        from . import bridge

        lines = []
        for slot in range(1, SLOTS + 1):
            name, strength = slots.get(f"lora_{slot}", NONE), slots.get(f"strength_{slot}", 1.0)
            if name in (None, NONE) or strength == 0:
                continue
            path = bridge.lora_file(name)
            model, clip = bridge.apply_lora(model, clip, path, strength, strength)
            lines.append(_line(name, strength, path))
        return io.NodeOutput(model, clip, "\n".join(lines) or "no erasure is applied")


def _strength(slot: int, value) -> None:
    from ..sage_core.errors import SageError

    if value is not None and not (math.isfinite(float(value)) and -2.0 <= float(value) <= 2.0):
        raise SageError(f"strength_{slot} is a number from -2 to 2, not {value}.")


def _line(name: str, strength: float, path) -> str:
    from ..sage_core.errors import SageError
    from ..sage_core.lora.file import read_lora

    try:
        lora = read_lora(path)
        result = lora.result()
        cells = [f"{k} {v}" for k, v in (result or {"after": {}})["after"].items() if v is not None]
        measured = f"; measured after: {', '.join(cells)}" if cells else ""
        erased = ", ".join(f"{spec['concept']!r} with {spec['method']}" for spec in lora.specs())
        return f"{name} ({strength:g}): erases {erased}{measured}"
    except SageError:
        return f"{name} ({strength:g}): made by another tool"
