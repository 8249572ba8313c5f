"""Compare Erasure: the same prompts and seeds before and after, as one labelled picture with the measured
drift.
"""

from __future__ import annotations

import math

import torch
from comfy_api.latest import io, ui

from .errors import sentence_of
from .inputs import advanced
from .request import MAX_PROMPTS

MAX_IMAGES = 64


class CompareErasure(io.ComfyNode):
    """See web/docs/SAGE_CompareErasure.md."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGE_CompareErasure",
            display_name="Compare Erasure",
            category="SAGE",
            is_output_node=True,
            description=(
                "Draws the same prompts from the same seeds with the model before and after an erasure, and"
                " measures how far each picture moved."
            ),
            inputs=[
                io.Model.Input(
                    "model_before", tooltip="The model as it was, for example from the checkpoint loader."
                ),
                io.Clip.Input("clip_before", tooltip="CLIP as it was."),
                io.Model.Input("model_after", tooltip="The erased model."),
                io.Clip.Input("clip_after", tooltip="The erased CLIP."),
                io.Vae.Input("vae", tooltip="Turns latents into pictures."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="a picture of a dog\na picture of a cat",
                    dynamic_prompts=False,
                    tooltip=(
                        "One prompt a line: the concept, other words for it, what must stay. "
                        "Erase Concept puts out such prompts (test prompts)."
                    ),
                ),
                io.Int.Input(
                    "images",
                    default=2,
                    min=1,
                    max=8,
                    tooltip="Pictures a prompt, from seeds that follow each other.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53,
                    control_after_generate=False,
                    tooltip="Seed of the first picture.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=200, tooltip="Sampling steps (DPM++ 2M, Karras)."
                ),
                io.Float.Input(
                    "guidance",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    tooltip="Classifier-free guidance (CFG).",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Side of the pictures in pixels; 64 for the bundled model.",
                ),
                advanced(
                    io.Boolean.Input(
                        "captions",
                        default=True,
                        optional=True,
                        tooltip="Write the prompts under the pictures.",
                    )
                ),
            ],
            outputs=[
                io.Image.Output(
                    "grid", display_name="grid", tooltip="Before above after, one column a picture."
                ),
                io.Image.Output(
                    "images_before", display_name="before", tooltip="The pictures before, as a batch."
                ),
                io.Image.Output(
                    "images_after", display_name="after", tooltip="The pictures after, in the same order."
                ),
                io.Float.Output(
                    "drift",
                    display_name="drift",
                    tooltip="Mean absolute difference of the pictures, 0 (same) to 1.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="The drift of each prompt, one a line."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, prompts="x", guidance=5.0):
        def check():
            if prompts is not None:
                lines(prompts)
            if guidance is not None and not (math.isfinite(guidance) and 1.0 <= guidance <= 30.0):
                from ..sage_core.errors import SageError

                raise SageError(f"guidance is a number from 1 to 30, not {guidance}.")

        return sentence_of(check)

    @classmethod
    def execute(
        cls,
        model_before,
        clip_before,
        model_after,
        clip_after,
        vae,
        prompts,
        images,
        seed,
        steps,
        guidance,
        size,
        captions=True,
    ) -> io.NodeOutput:
        from . import bridge
        from .pictures import grid

        wanted = lines(prompts)
        if len(wanted) * images > MAX_IMAGES:
            from ..sage_core.errors import SageError

            raise SageError(
                f"{len(wanted)} prompts with {images} pictures each are {len(wanted) * images}; at most"
                f" {MAX_IMAGES} fit into one grid."
            )
        messages, total = bridge.Messages(cls.hidden.unique_id), 2 * len(wanted) * steps
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            messages("compare", done, total, f"drawing before and after: {done}/{total}")

        sides = []
        for model, clip in ((model_before, clip_before), (model_after, clip_after)):
            drawn = [
                bridge.sample(
                    model, clip, p, [seed + i for i in range(images)], (size, size), steps, guidance, step
                )
                for p in wanted
            ]
            sides.append(bridge.decode(vae, torch.cat(drawn)))
        before, after = sides
        moved = (before - after).abs().mean((1, 2, 3)).tolist()
        drift = sum(moved) / len(moved)
        per = [sum(moved[i * images : (i + 1) * images]) / images for i in range(len(wanted))]
        names = [p for p in wanted for _ in range(images)] if captions else None
        sheet = grid(
            f"Before and after: mean drift {drift:.3f}",
            [("before", list(before)), ("after", list(after))],
            names,
        )
        report = "\n".join(f"{d:.4f}  {p}" for d, p in zip(per, wanted))
        return io.NodeOutput(sheet, before, after, drift, report, ui=ui.PreviewImage(sheet, cls=cls))


def lines(prompts: str) -> list[str]:
    """One prompt a line. Raises SageError without a prompt or with too many."""
    from ..sage_core.errors import SageError

    found = [" ".join(p.split()) for p in prompts.splitlines() if p.strip()]
    if not found:
        raise SageError("No prompt is given; type one a line.")
    if len(found) > MAX_PROMPTS:
        raise SageError(f"{len(found)} prompts are given; at most {MAX_PROMPTS} fit into one grid.")
    return found
