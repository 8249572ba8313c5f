"""Erasure Report: how much of a concept is left and what else changed, as a table, pictures and a page."""

from __future__ import annotations

from comfy_api.latest import io, ui

from .errors import check_guidance, require_packages, sentence_of
from .inputs import advanced


class ErasureReport(io.ComfyNode):
    """See web/docs/SAGE_ErasureReport.md."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGE_ErasureReport",
            display_name="Erasure Report",
            category="SAGE",
            is_output_node=True,
            description=(
                "Measures an erasure: draws the concept, other words for it, its neighbours and other things"
                " before and after, says in which pictures the concept is seen, and saves a page to show."
            ),
            inputs=[
                io.Model.Input("model_before", tooltip="The model before the erasure."),
                io.Clip.Input("clip_before", tooltip="Its CLIP."),
                io.Model.Input("model_after", tooltip="The erased model."),
                io.Clip.Input("clip_after", tooltip="The erased CLIP."),
                io.Vae.Input("vae", tooltip="Turns latents into pictures."),
                io.String.Input(
                    "concept",
                    default="dog",
                    dynamic_prompts=False,
                    tooltip="What was erased, as in a prompt.",
                ),
                io.Int.Input(
                    "images",
                    default=8,
                    min=1,
                    max=200,
                    tooltip="Pictures of each of the four groups, before and after. With 16, none seen means"
                    " below 20 %.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31,
                    control_after_generate=False,
                    tooltip="Other seeds for all pictures.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="Side of the pictures in pixels; 64 for the bundled model.",
                ),
                io.Boolean.Input(
                    "attack",
                    default=False,
                    tooltip="Also attack both models: learn words that draw the concept. Takes much"
                    " longer than drawing.",
                ),
                advanced(
                    io.Int.Input(
                        "steps",
                        default=20,
                        min=1,
                        max=200,
                        optional=True,
                        tooltip="Sampling steps (DPM++ 2M, Karras).",
                    )
                ),
                advanced(
                    io.Float.Input(
                        "guidance",
                        default=5.0,
                        min=1.0,
                        max=30.0,
                        step=0.5,
                        optional=True,
                        tooltip="Classifier-free guidance (CFG).",
                    )
                ),
                advanced(
                    io.String.Input(
                        "also",
                        default="",
                        optional=True,
                        multiline=True,
                        dynamic_prompts=False,
                        tooltip="Other words for the concept, one a line: in another language, say.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "attack_steps",
                        default=150,
                        min=1,
                        max=2000,
                        optional=True,
                        tooltip="Of the attack from each of its two starts.",
                    )
                ),
            ],
            outputs=[
                io.String.Output(
                    "table", display_name="table", tooltip="Shares before and after, one group a line."
                ),
                io.Image.Output(
                    "pictures", display_name="pictures", tooltip="Before above after for every group."
                ),
                io.String.Output(
                    "path", display_name="path", tooltip="Where the page is saved: open it in a browser."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, concept="x", guidance=5.0):
        def check():
            from ..sage_core.spec import ErasureSpec

            if concept is not None:
                ErasureSpec(concept)
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
        concept,
        images,
        seed,
        size,
        attack,
        steps=20,
        guidance=5.0,
        also="",
        attack_steps=150,
    ) -> io.NodeOutput:
        require_packages()
        from . import bridge
        from .measuring import Asked, measure, save

        words = tuple(" ".join(line.split()) for line in also.splitlines() if line.strip())
        asked = Asked(
            concept.strip(), images, seed, size, steps, guidance, words, attack_steps if attack else 0
        )
        messages = bridge.Messages(cls.hidden.unique_id)
        graph = (model_before, clip_before), (model_after, clip_after)
        table, pictures, path = save(measure(*graph, vae, asked, messages), bridge.output_folder())
        return io.NodeOutput(table, pictures, str(path), ui=ui.PreviewImage(pictures, cls=cls))
