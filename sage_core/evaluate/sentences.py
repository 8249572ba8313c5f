"""Sentences of a report that the terminal and the page share."""

from __future__ import annotations

from .hard import INPAINT

NAMED = 8  # words that a judge does not know
OFTEN = 0.2  # share of pictures in which a style that nobody asked for is what the model draws anyway


def judged(judge: dict) -> str:
    """Who judged, and how sure that is."""
    text = (
        f"judged by {judge['name']}, which sees the concept in {judge['hits']:.0%} of the untouched model's"
        f" pictures of it, and in {judge['false_alarms']:.0%} of {judge['other_pictures']} of other things"
    )
    if unknown := judge.get("unknown"):
        rest = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        text += f"; it does not know {', '.join(unknown[:NAMED])}{rest}, and those pictures are not counted"
    return text + (f"; {judge['cannot']}" if judge["cannot"] else "")


def unprompted(shares: dict[str, float]) -> str:
    """What edits keep of the concept without a word for it."""
    text = ", ".join(f"{share:.0%} {_edit(cell)}" for cell, share in shares.items())
    return f"of the edits, the concept is left even by the untouched model with an empty prompt in {text}"


def unasked(share: float) -> str:
    """How much of a style a model shows that is not asked for it."""
    asked = "asked for the same things without the style, the untouched model"
    if share == 0:
        return f"{asked} never shows it"
    text = f"{asked} shows it in {share:.0%} of the pictures; so much is no sign that the erasure failed"
    if share >= OFTEN:
        text += "; to be rid of that too, say which other style it becomes (`becomes`)"
    return text


def _edit(cell: str) -> str:
    """Of a cell of edits: "at 0.4", its strength, or "in inpainting"."""
    return "in inpainting" if cell == INPAINT else f"at {cell.removeprefix('edit-')}"


def agreed(judge: dict) -> str:
    """How far a further judge agrees with the first."""
    if judge["kappa"] is None:
        return "Cohen's kappa is undefined: both judges say the same of all pictures"
    return f"Cohen's kappa with the first judge: {judge['kappa']:.2f}"
