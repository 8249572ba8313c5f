"""Load Demo Model: MODEL, CLIP and VAE of the bundled model, through ComfyUI's own loader."""

from __future__ import annotations

from comfy_api.latest import io


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
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="MODEL", tooltip="The bundled model's UNet."),
                io.Clip.Output("clip", display_name="CLIP", tooltip="Its text encoder."),
                io.Vae.Output("vae", display_name="VAE", tooltip="Its autoencoder (64 x 64 pixels)."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from .demo_checkpoint import load

        return io.NodeOutput(*load())
