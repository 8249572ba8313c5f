"""Load Demo Model: MODEL, CLIP and VAE of a bundled model, through ComfyUI's own loader."""

from __future__ import annotations

from comfy_api.latest import io

UNET, FLOW = "UNet (SD 1)", "flow transformer (SD 3)"


class LoadDemoModel(io.ComfyNode):
    """See web/docs/SAGE_LoadDemoModel.md."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGE_LoadDemoModel",
            display_name="Load Demo Model",
            category="SAGE",
            description=(
                "The small text-to-image model that comes with this pack: 117 things in four styles, 64 x 64"
                " pixels, quick on any machine. For learning and trying out; draw with it at 64 x 64."
            ),
            inputs=[
                io.Combo.Input(
                    "architecture",
                    options=[UNET, FLOW],
                    default=UNET,
                    optional=True,
                    tooltip=(
                        "Both draw the same things and read prompts with the same text encoder. The flow"
                        " transformer has Stable Diffusion 3's architecture; sample it with euler and simple."
                    ),
                )
            ],
            outputs=[
                io.Model.Output("model", display_name="MODEL", tooltip="The bundled model's network."),
                io.Clip.Output("clip", display_name="CLIP", tooltip="Its text encoder."),
                io.Vae.Output("vae", display_name="VAE", tooltip="Its autoencoder (64 x 64 pixels)."),
            ],
        )

    @classmethod
    def execute(cls, architecture=UNET) -> io.NodeOutput:
        from . import demo_checkpoint, demo_flow

        if architecture == FLOW:
            return io.NodeOutput(*demo_flow.load())
        return io.NodeOutput(*demo_checkpoint.load())
