"""Red Team: learns an embedding that makes an erased model draw the concept again, to see the leak."""

from __future__ import annotations

from comfy_api.latest import io

from .errors import require_packages, sentence_of
from .inputs import advanced

STARTS = ("object", "concept")  # a neutral word, and the concept's own tokens


class RedTeam(io.ComfyNode):
    """See web/docs/SAGE_RedTeam.md."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGE_RedTeam",
            display_name="Red Team",
            category="SAGE",
            description=(
                "Attacks an erasure: learns words that make the erased model draw the concept again, and puts"
                " them out as CONDITIONING, so that you see what is still in the weights."
            ),
            inputs=[
                io.Model.Input("model_before", tooltip="The model before the erasure: it draws the concept."),
                io.Clip.Input("clip_before", tooltip="Its CLIP."),
                io.Model.Input("model", tooltip="The erased model, which is attacked."),
                io.Clip.Input("clip", tooltip="The erased CLIP."),
                io.String.Input(
                    "concept",
                    default="dog",
                    dynamic_prompts=False,
                    tooltip="What was erased, as in a prompt.",
                ),
                io.Int.Input(
                    "steps",
                    default=120,
                    min=1,
                    max=2000,
                    tooltip="Of the attack from each of its two starts: eight pictures each, so about as long"
                    " as training.",
                ),
                advanced(
                    io.Int.Input(
                        "tokens",
                        default=3,
                        min=1,
                        max=8,
                        optional=True,
                        tooltip="Learnt words. More of them attack harder.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "seed",
                        default=0,
                        min=0,
                        max=2**31,
                        control_after_generate=False,
                        optional=True,
                        tooltip="Of the attack's random draws.",
                    )
                ),
                advanced(
                    io.Int.Input(
                        "size",
                        default=0,
                        min=0,
                        max=2048,
                        step=8,
                        optional=True,
                        tooltip="Side in pixels of the pictures that it learns from; 0 is what the model was"
                        " made for.",
                    )
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "found",
                    display_name="CONDITIONING",
                    tooltip="The strongest prompt that was found; draw it with the erased model.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Where the attack started and what it reached."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, concept="x"):
        def check():
            from ..sage_core.spec import ErasureSpec

            if concept is not None:
                ErasureSpec(concept)

        return sentence_of(check)

    @classmethod
    def execute(
        cls, model_before, clip_before, model, clip, concept, steps, tokens=3, seed=0, size=0
    ) -> io.NodeOutput:
        require_packages()
        from . import bridge
        from .attacking import attack

        messages = bridge.Messages(cls.hidden.unique_id)
        graph = (model_before, clip_before), (model, clip)
        cond, report = attack(*graph, concept.strip(), STARTS, steps, tokens, seed, size, messages)
        return io.NodeOutput(cond, report)
