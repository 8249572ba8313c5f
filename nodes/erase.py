"""Erase Concept: trains an erasure behind any loader, saves the LoRA, and passes the erased MODEL and CLIP
on.
"""

from __future__ import annotations

from comfy_api.latest import io, ui

from .errors import require_packages, sentence_of
from .inputs import advanced_inputs
from .request import AUTOMATIC, EFFORTS, GUESSED, specs


class EraseConcept(io.ComfyNode):
    """See web/docs/SAGE_EraseConcept.md, which is what users read."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..sage_core.methods.table import METHODS

        return io.Schema(
            node_id="SAGE_EraseConcept",
            display_name="Erase Concept",
            category="SAGE",
            is_output_node=True,
            description=(
                "Unlearns concepts from Stable Diffusion (1.x, 2.x, SDXL, SD 3) or a newer flow model (FLUX,"
                " Qwen-Image, Z-Image, Krea 2 and others): trains a LoRA on your machine, saves it in"
                " models/loras/sage and applies it. An unchanged erasure is never trained twice."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model to erase from, from any loader. LoRAs that are applied before this node"
                        " count as part of it."
                    ),
                ),
                io.Clip.Input(
                    "clip",
                    tooltip=(
                        "The same checkpoint's CLIP. It is trained too: use this node's CLIP output"
                        " behind it."
                    ),
                ),
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="dog",
                    dynamic_prompts=False,
                    tooltip=(
                        "What to erase, one concept a line, as you would write it in a prompt. Other words"
                        " for it may follow a bar: dog | puppy, hound. Every concept gets a LoRA of its own,"
                        " so that each can be taken out again."
                    ),
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default="sage",
                    tooltip="; ".join(f"{m.name}: {m.summary} ({m.citation})" for m in METHODS.values()),
                ),
                io.Combo.Input(
                    "effort",
                    options=list(EFFORTS),
                    default="standard",
                    tooltip=(
                        "How many steps at most: standard is the method's own number, quick half, thorough"
                        " twice as many. Training ends earlier when the concept is gone."
                    ),
                ),
                io.String.Input(
                    "lora_name",
                    default="erased-%concept%",
                    tooltip=(
                        "Name of the LoRA file in models/loras/sage. %concept% becomes the concept. A file of"
                        " another erasure is never overwritten: a number is added."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**53,
                    control_after_generate=False,
                    tooltip=(
                        "The same seed, words, settings and model give the same LoRA. Leave it fixed: another"
                        " seed trains anew."
                    ),
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Connect it to see pictures of the concept while it is erased, before and after.",
                ),
                *advanced_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    "erased_model", display_name="MODEL", tooltip="The model with the erasure applied."
                ),
                io.Clip.Output(
                    "erased_clip",
                    display_name="CLIP",
                    tooltip="CLIP with the erasure applied; use it for your prompts.",
                ),
                io.String.Output(
                    "lora_names",
                    display_name="lora_name",
                    tooltip="The saved LoRA's name as the LoRA loaders list it, one a line.",
                ),
                io.Image.Output(
                    "loss_graph",
                    display_name="loss graph",
                    tooltip=(
                        "How much of the concept is left over the training steps, from 100 % to 0 %, and the"
                        " losses below."
                    ),
                ),
                io.Image.Output(
                    "before_after",
                    display_name="before / after",
                    tooltip="Pictures of the concept before and after (needs VAE).",
                ),
                io.String.Output(
                    "test_prompts",
                    display_name="test prompts",
                    tooltip=(
                        "Prompts that show what the erasure did, one a line: the concept, other words "
                        "for it, close words, other things. Link it to Compare Erasure."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        concepts="x",
        method="sage",
        effort="standard",
        lora_name="x",
        retain="",
        surface=AUTOMATIC,
        strength=0.0,
        resolution=0,
        kind=GUESSED,
        exclude="",
        becomes="",
    ):
        """Sentences before anything runs.

        ComfyUI's own check of lists does not know this schema's, so they are named here too.
        """
        from .request import lora_path, lora_stem

        def check():
            if concepts is None or lora_name is None:  # linked: known when it runs
                return
            own = specs(
                concepts,
                method or "sage",
                effort or "standard",
                0,
                retain or "",
                surface or AUTOMATIC,
                strength=_number(strength),
                resolution=resolution or 0,
                kind=kind or GUESSED,
                exclude=exclude or "",
                becomes=becomes or "",
            )
            for spec in own:
                lora_path(_folder(), lora_stem(lora_name, spec.concept, len(own) > 1))

        return sentence_of(check)

    @classmethod
    def fingerprint_inputs(cls, **values):
        """Changes only when a LoRA that these very values made has been deleted: so that one is trained
        again.
        """
        from .session import token

        return token(values)

    @classmethod
    def execute(
        cls,
        model,
        clip,
        concepts,
        method,
        effort,
        lora_name,
        seed,
        vae=None,
        retain="",
        surface=AUTOMATIC,
        rank=0,
        steps=0,
        strength=0.0,
        resolution=0,
        kind=GUESSED,
        exclude="",
        search=True,
        check=True,
        becomes="",
    ) -> io.NodeOutput:
        require_packages()
        from . import session

        wanted = specs(
            concepts,
            method,
            effort,
            seed,
            retain,
            surface,
            rank,
            steps,
            strength,
            resolution,
            kind,
            exclude,
            search,
            check,
            becomes,
        )
        values = {
            "concepts": concepts,
            "method": method,
            "effort": effort,
            "lora_name": lora_name,
            "seed": seed,
            "retain": retain,
            "surface": surface,
            "rank": rank,
            "steps": steps,
            "strength": strength,
            "resolution": resolution,
            "kind": kind,
            "exclude": exclude,
            "search": search,
            "check": check,
            "becomes": becomes,
        }
        done = session.run(model, clip, vae, wanted, lora_name, values, cls.hidden.unique_id)
        return io.NodeOutput(
            done.model,
            done.clip,
            "\n".join(done.names),
            done.graph,
            done.pictures,
            "\n".join(done.prompts),
            ui=ui.PreviewImage(done.shown, cls=cls),
        )


def _folder():
    from .bridge import loras_folder

    return loras_folder()


def _number(value) -> float:
    """A linked strength is None here; its range is no longer checked by ComfyUI once validate_inputs names
    it.
    """
    from ..sage_core.errors import SageError

    value = 0.0 if value is None else float(value)
    if not 0.0 <= value <= 10.0:
        raise SageError(f"strength is a number from 0 to 10, not {value}.")
    return value
