"""Concept Guard: keeps concepts away while a picture is drawn, whatever the prompt or the embedding says."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from .errors import sentence_of
from .inputs import advanced

MAX_CONCEPTS = 20
THRESHOLD, PUSH = 0.7, 0.6  # as in sage_core/guard.py, which is not imported at start-up


class ConceptGuard(io.ComfyNode):
    """See web/docs/SAGE_ConceptGuard.md."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SAGE_ConceptGuard",
            display_name="Concept Guard",
            category="SAGE",
            description=(
                "Watches the sampler: where a step draws a concept, that part of the step is taken out. It"
                " sees what is being drawn, not what was asked, so other words and embeddings do not get"
                " past it."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that pictures are drawn with, erased or not."),
                io.Clip.Input(
                    "clip", tooltip="CLIP as it was before any erasure: it says what the concept is."
                ),
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="dog",
                    dynamic_prompts=False,
                    tooltip=(
                        "Things that must not be drawn, one a line; styles are not seen. Other words need not"
                        " be listed. Each"
                        " costs time: two more passes of the model a step for one concept, three for several."
                    ),
                ),
                io.Model.Input(
                    "model_before",
                    optional=True,
                    tooltip=(
                        "The model before the erasure, if `model` is erased: the guard watches with it."
                        " Without it the guard watches with `model`."
                    ),
                ),
                advanced(
                    io.Float.Input(
                        "threshold",
                        default=THRESHOLD,
                        min=0.05,
                        max=0.95,
                        step=0.05,
                        optional=True,
                        tooltip=(
                            "How far a step must point the concept's way to be changed (a cosine). From the"
                            " tenth step on, 0.65 of it is enough as a mean over the steps. Lower is"
                            " stricter and costs pictures of similar things."
                        ),
                    )
                ),
                advanced(
                    io.Float.Input(
                        "push",
                        default=PUSH,
                        min=0.0,
                        max=5.0,
                        step=0.1,
                        optional=True,
                        tooltip="How far beyond zero the concept's part of a step is turned around.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "pictures",
                        default=True,
                        optional=True,
                        tooltip=(
                            "Look at whole pictures too. An edit of a picture that shows a concept is drawn"
                            " from noise instead, and a finished picture that shows one is drawn again."
                        ),
                    )
                ),
            ],
            outputs=[
                io.Model.Output("guarded", display_name="MODEL", tooltip="The model with the guard on it.")
            ],
        )

    @classmethod
    def validate_inputs(cls, concepts="x", threshold=THRESHOLD, push=PUSH):
        def check():
            if concepts is not None:
                names(concepts)
            from ..sage_core.guard import Looks

            Looks(1, THRESHOLD if threshold is None else threshold, PUSH if push is None else push)

        return sentence_of(check)

    @classmethod
    def execute(
        cls, model, clip, concepts, model_before=None, threshold=THRESHOLD, push=PUSH, pictures=True
    ) -> io.NodeOutput:
        from ..sage_core.guard import not_guarded
        from .guarded import guarded

        found = names(concepts)
        if note := not_guarded(found):
            logging.warning("Concept Guard: %s", note)
        return io.NodeOutput(guarded(model, clip, found, model_before, threshold, push, pictures))


def names(concepts: str) -> list[str]:
    """One concept a line; synonyms behind a bar are not needed and left out. Raises SageError."""
    from ..sage_core.errors import SageError
    from ..sage_core.spec import ErasureSpec, parse_concepts

    found = [ErasureSpec(name).concept for name, _ in parse_concepts(concepts)]
    if len(found) > MAX_CONCEPTS:
        raise SageError(f"{len(found)} concepts are given; at most {MAX_CONCEPTS} can be guarded at once.")
    return found
