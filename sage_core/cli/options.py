"""Options that several commands share."""

from __future__ import annotations

import argparse

from ..lora.surfaces import SURFACES
from ..prompts.kinds import KINDS

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def add_settings(sub: argparse.ArgumentParser) -> None:
    """What an erasure may say besides its words."""
    sub.add_argument("--method", default="sage")
    sub.add_argument("--surface", choices=SURFACES)
    sub.add_argument(
        "--faithful",
        action="store_true",
        help="train as the method's own code does, at its own cost (for comparisons)",
    )
    for name, kind in (
        ("steps", int),
        ("rank", int),
        ("alpha", float),
        ("learning-rate", float),
        ("eta", float),
    ):
        sub.add_argument(f"--{name}", type=kind)
    sub.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="side of what is trained on (default: what the model was made for)",
    )
    sub.add_argument("--seed", type=int, default=0)
    add_kind(sub)
    add_exclude(sub)
    sub.add_argument(
        "--search",
        action=argparse.BooleanOptionalAction,
        help="search the model for other words that mean the concept (default: sage does)",
    )
    sub.add_argument(
        "--becomes",
        default="",
        metavar="TEXT",
        help='what is drawn in its place ("a mouse"), or "automatic": the nearest word that stays (default:'
        " nothing)",
    )
    sub.add_argument(
        "--check",
        choices=("pull", "none"),
        help="check what is left of the concept in each name and find the strength that takes it (pull), or"
        " train all steps at a fixed cost (none); default: sage checks",
    )


def add_exclude(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="TEXT",
        help="a word that the search must not take (repeatable)",
    )


def add_kind(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--kind", choices=KINDS, help="what the concept is (default: guessed from its words)")


def add_model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "model", metavar="MODEL", help="a .safetensors checkpoint, a diffusers folder, demo, or demo-flow"
    )
    add_running(sub)


def add_running(sub: argparse.ArgumentParser) -> None:
    """How a model is run."""
    sub.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    sub.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the frozen weights (default: on a GPU bf16 or fp16, else fp32)",
    )
    sub.add_argument(
        "--prediction",
        choices=("auto", "epsilon", "v"),
        default="auto",
        help="what the UNet predicts (default: detected from the model)",
    )


def add_guard(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--guard",
        action="append",
        default=[],
        metavar="TEXT",
        help="a thing that is kept away while pictures are drawn, whatever the prompt says (repeatable)",
    )


def add_require(sub: argparse.ArgumentParser) -> None:
    """Claims that a measurement must bear out."""
    sub.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="CLAIM",
        help='fail with status 1 where a claim does not hold: "concept<=0.02"; near and far are compared as a'
        ' share of before: "far>=0.97" (repeatable)',
    )
