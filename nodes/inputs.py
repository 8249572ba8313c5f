"""Inputs that the page hides until they are asked for."""

from __future__ import annotations

from comfy_api.latest import io

from .request import AUTOMATIC, GUESSED


def advanced(given):
    """Mark an input as advanced.

    ComfyUI 0.3.64 has no `advanced=` argument yet, but passes extra fields on.
    """
    given.extra_dict["advanced"] = True
    return given


def advanced_inputs() -> list:
    """Those of Erase Concept; what is added later comes last, since a graph stores values by their place."""
    from ..sage_core.lora.surfaces import SURFACES
    from ..sage_core.prompts.kinds import KINDS

    return [
        advanced(
            io.String.Input(
                "retain",
                optional=True,
                multiline=True,
                default="",
                dynamic_prompts=False,
                tooltip=(
                    "Words that must stay, one a line or separated by commas, besides the built-in"
                    " list of everyday things. Name what is close to the concept, for example wolf"
                    " when you erase dog."
                ),
            )
        ),
        advanced(
            io.Combo.Input(
                "surface",
                optional=True,
                options=[AUTOMATIC, *SURFACES],
                default=AUTOMATIC,
                tooltip=(
                    "What is trained: the text encoder, the UNet's cross-attention, both, or all of"
                    " the UNet's attention blocks (unet). Both is harder to attack than text."
                ),
            )
        ),
        advanced(
            io.Int.Input(
                "rank",
                optional=True,
                default=0,
                min=0,
                max=256,
                tooltip="Rank of the LoRA; 0 is the method's default.",
            )
        ),
        advanced(
            io.Int.Input(
                "steps",
                optional=True,
                default=0,
                min=0,
                max=100_000,
                tooltip="Training steps at most; 0 lets effort decide.",
            )
        ),
        advanced(
            io.Float.Input(
                "strength",
                optional=True,
                default=0.0,
                min=0.0,
                max=10.0,
                step=0.05,
                tooltip=(
                    "eta, how far the concept's prompts are pushed beyond the empty prompt, away from"
                    " the concept; 0 is the method's default. Stronger erases surer and costs the"
                    " neighbours more."
                ),
            )
        ),
        advanced(
            io.Int.Input(
                "resolution",
                optional=True,
                default=0,
                min=0,
                max=2048,
                step=64,
                tooltip=(
                    "Side in pixels of what is trained on; 0 is the model's own. Smaller is quicker"
                    " and takes less memory."
                ),
            )
        ),
        advanced(
            io.Combo.Input(
                "kind",
                optional=True,
                options=[GUESSED, *KINDS],
                default=GUESSED,
                tooltip=(
                    "What the concepts are. It decides how prompts are worded: "
                    '"a photo of an owl", "a painting of a house by Hokusai", '
                    '"a portrait of Ada Lovelace". Automatic guesses from the '
                    "words and shows the guess on the node while it trains."
                ),
            )
        ),
        advanced(
            io.String.Input(
                "exclude",
                optional=True,
                multiline=True,
                default="",
                dynamic_prompts=False,
                tooltip=(
                    "Words that the search must not take, one a line or separated by commas: neither"
                    " erased as another word for the concept nor kept as a neighbour of it."
                ),
            )
        ),
        advanced(
            io.Boolean.Input(
                "search",
                optional=True,
                default=True,
                tooltip=(
                    "With sage: search the model for other words that mean the concept and erase"
                    " them too. The node lists them. Off: only the words that you type are erased."
                ),
            )
        ),
        advanced(
            io.Boolean.Input(
                "check",
                optional=True,
                default=True,
                tooltip=(
                    "With sage: check how much of the concept is left in each of its names, and give"
                    " the LoRA the strength that takes all of it. The node says what the check found."
                    " Off: a fixed number of steps, at full strength."
                ),
            )
        ),
        advanced(
            io.String.Input(
                "becomes",
                optional=True,
                default="",
                dynamic_prompts=False,
                tooltip=(
                    "What is drawn in its place: cat where you erase dog, a person in clothes for"
                    " nudity, another style for a style. automatic takes the nearest word that stays."
                    " Empty: nothing in particular."
                ),
            )
        ),
    ]
