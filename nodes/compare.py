"""Compare Erasure: the same prompts and seeds before and after, as one labelled picture with the measured
drift.
"""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from .errors import check_guidance, sentence_of
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
                advanced(
                    io.String.Input(
                        "look_for",
                        default="",
                        optional=True,
                        dynamic_prompts=False,
                        tooltip=(
                            "A concept, for example dog: the model before the erasure then says in which"
                            " pictures it sees that. Takes about as long as drawing. Empty: nobody judges."
                        ),
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
    def validate_inputs(cls, prompts="x", guidance=5.0, look_for=""):
        def check():
            if look_for and look_for.strip():
                from ..sage_core.spec import ErasureSpec

                ErasureSpec(look_for)
            if prompts is not None:
                lines(prompts)
            check_guidance(guidance)

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
        look_for="",
    ) -> io.NodeOutput:
        from . import bridge, variants
        from .pictures import grid

        for model in (model_before, model_after):
            variants.check_drawing(model)
        wanted = lines(prompts)
        if len(wanted) * images > MAX_IMAGES:
            from ..sage_core.errors import SageError

            raise SageError(
                f"{len(wanted)} prompts with {images} pictures each are {len(wanted) * images}; at most"
                f" {MAX_IMAGES} fit into one grid."
            )
        each = [p for p in wanted for _ in range(images)]
        judged = 2 * len(each) if look_for.strip() else 0
        count = _Counter(bridge.Messages(cls.hidden.unique_id), 2 * len(wanted) * steps + judged)
        latents, sides = [], []
        for model, clip in ((model_before, clip_before), (model_after, clip_after)):
            drawn = [
                bridge.sample(
                    model,
                    clip,
                    p,
                    [seed + i for i in range(images)],
                    (size, size),
                    steps,
                    guidance,
                    count.step,
                )
                for p in wanted
            ]
            latents.append(torch.cat(drawn))
            sides.append(bridge.decode(vae, latents[-1]))
        before, after = sides
        moved = (before - after).abs().mean((1, 2, 3)).tolist()
        drift = sum(moved) / len(moved)
        title, seen = f"Before and after: mean drift {drift:.3f}", None
        if judged:
            from .core_model import seen as seen_in

            count.doing = f"looking for {look_for.strip()}"
            both = torch.cat(latents)
            found = seen_in(model_before, clip_before, look_for.strip(), each * 2, both, size, count.step)
            seen = found[: len(each)], found[len(each) :]
            title += f"; {look_for.strip()} seen in {sum(seen[0])} and {sum(seen[1])} of {len(each)}"
        sheet = grid(title, [("before", list(before)), ("after", list(after))], each if captions else None)
        report = "\n".join(_report(wanted, images, moved, seen))
        return io.NodeOutput(sheet, before, after, drift, report, ui=ui.PreviewImage(sheet, cls=cls))


class _Counter:
    """Progress of the node: sampling steps, then pictures that are judged."""

    def __init__(self, messages, total: int):
        self.messages, self.total, self.done, self.doing = messages, total, 0, "drawing before and after"

    def step(self) -> None:
        self.done += 1
        self.messages("compare", self.done, self.total, f"{self.doing}: {self.done}/{self.total}")


def _report(
    wanted: list[str], images: int, moved: list[float], seen: tuple[list[bool], list[bool]] | None
) -> list[str]:
    """A line a prompt: the mean drift of its pictures and, where they were judged, in how many of them the
    concept is seen, before and after. With a line on how far the judge can be trusted.
    """
    rows = []
    for i, prompt in enumerate(wanted):
        part = slice(i * images, (i + 1) * images)
        row = f"{sum(moved[part]) / images:.4f}"
        if seen is not None:
            row += f"  seen {sum(seen[0][part])} -> {sum(seen[1][part])} of {images}"
        rows.append(f"{row}  {prompt}")
    if seen is not None:
        from ..sage_core.evaluate.judge import CANNOT

        rows.append(f"Judged by the model before the erasure: {CANNOT}.")
    return rows


def lines(prompts: str) -> list[str]:
    """One prompt a line. Raises SageError without a prompt or with too many."""
    from ..sage_core.errors import SageError

    found = [" ".join(p.split()) for p in prompts.splitlines() if p.strip()]
    if not found:
        raise SageError("No prompt is given; type one a line.")
    if len(found) > MAX_PROMPTS:
        raise SageError(f"{len(found)} prompts are given; at most {MAX_PROMPTS} fit into one grid.")
    return found
