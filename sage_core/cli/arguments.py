"""The arguments of the command line's commands."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import __version__
from ..lora.surfaces import SURFACES
from ..prompts.kinds import KINDS

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="sage-erase",
        description="Erase a concept from a Stable Diffusion model and save the change as a LoRA.",
    )
    main.add_argument("--version", action="version", version=__version__)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument(
            "--json",
            nargs="?",
            const=True,
            metavar="FILE",
            help="print the machine-readable result, or write it to FILE",
        )
        return sub

    demo = command(
        "demo", "erase a concept from the bundled model and show what became of it (no GPU, no download)"
    )
    demo.add_argument("--concept", default="dog")
    demo.add_argument("--method", default="sage")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--surface", choices=SURFACES, help="what is trained (default: the method's)")
    _kind(demo)
    demo.add_argument(
        "--out", default="sage-demo", metavar="DIR", help="folder for the LoRA, the picture and the report"
    )

    erase = command("erase", "erase a concept from a model and save a LoRA")
    _model(erase)
    erase.add_argument("--concept", help='what to erase, as in a prompt: "dog", "in the style of ..."')
    erase.add_argument(
        "--synonym", action="append", default=[], metavar="TEXT", help="another word for it (repeatable)"
    )
    erase.add_argument(
        "--retain", action="append", default=[], metavar="TEXT", help="a word that must stay (repeatable)"
    )
    erase.add_argument(
        "--from", dest="source", metavar="FILE", help="repeat the erasure recorded in this LoRA file"
    )
    _settings(erase)
    erase.add_argument(
        "--plan",
        action="store_true",
        help="say how it would fit into memory and how long it would take, and stop",
    )
    erase.add_argument(
        "--out", metavar="FILE", help="the LoRA file (default: erased-CONCEPT.safetensors here)"
    )
    erase.add_argument(
        "--save-every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how often the run's state is saved (default 10)",
    )
    erase.add_argument(
        "--preview",
        action=argparse.BooleanOptionalAction,
        help="draw before and after beside the LoRA (default: yes, where it is quick)",
    )
    erase.add_argument(
        "--resume", action="store_true", help="go on from the last saved state of a run that was stopped"
    )

    batch = command(
        "batch",
        "erase every concept of a job file, a LoRA each, with one summary; under `accelerate launch` on"
        " several GPUs",
    )
    _model(batch)
    batch.add_argument(
        "jobs",
        type=Path,
        metavar="JOBS",
        help="text with one concept a line (dog | puppy, hound), or a .json list of concepts and specs",
    )
    _settings(batch)
    batch.add_argument(
        "--preview",
        action=argparse.BooleanOptionalAction,
        help="draw before and after beside each LoRA (default: yes, where it is quick)",
    )
    batch.add_argument(
        "--out",
        default="erased",
        metavar="DIR",
        help="folder for the LoRAs and the summary; what is there is not made again",
    )

    evaluate = command("evaluate", "measure what a LoRA erased and what it kept")
    _model(evaluate)
    evaluate.add_argument("--lora", required=True, metavar="FILE")
    evaluate.add_argument(
        "--attack", action="append", choices=("inversion", "none"), help="attack to run (default: inversion)"
    )
    evaluate.add_argument("--images", type=int, default=16, help="pictures a cell (default 16)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--html", metavar="FILE", help="write the report with its pictures here")

    bench = command(
        "bench",
        "run every method on the same work on the bundled model and compare them; resumes where it stopped",
    )
    bench.add_argument("--methods", metavar="A,B", help="methods to compare (default: all)")
    bench.add_argument(
        "--concepts", metavar="X,Y", help="concepts to erase (default: six things and a style)"
    )
    bench.add_argument(
        "--seeds",
        type=int,
        default=2,
        help="seeds for sage and the methods in --twice (default 2); the others get one",
    )
    bench.add_argument(
        "--twice", metavar="A,B", default="sage", help="methods that get all seeds (default sage)"
    )
    bench.add_argument("--images", type=int, default=8, help="pictures a cell (default 8)")
    bench.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the work and the processor's cores (default 1)",
    )
    bench.add_argument(
        "--out", default="sage-bench", metavar="DIR", help="folder for rows, table, CSV and plots"
    )

    generate = command("generate", "draw a picture, with or without a LoRA")
    _model(generate)
    generate.add_argument("--prompt", required=True)
    generate.add_argument("--lora", metavar="FILE")
    generate.add_argument("--strength", type=float, default=1.0, help="of the LoRA (default 1.0)")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--steps", type=int, default=20)
    generate.add_argument("--guidance", type=float, default=5.0)
    generate.add_argument("--out", default="picture.png", metavar="PNG")

    merge = command("merge", "join several erasures into one LoRA, the same as all of them stacked")
    merge.add_argument("files", type=Path, nargs="+", metavar="FILE")
    merge.add_argument(
        "--strength",
        type=float,
        action="append",
        metavar="S",
        help="of each file in turn (default 1.0 for all)",
    )
    merge.add_argument(
        "--out",
        default="erased.safetensors",
        metavar="FILE",
        help="the joined LoRA (default: erased.safetensors here)",
    )

    inspect = command("inspect", "show what a LoRA file is and how it was made")
    inspect.add_argument("file", type=Path)
    command("methods", "list the methods and their sources")
    return main


def _settings(sub: argparse.ArgumentParser) -> None:
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
    _kind(sub)


def _kind(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--kind", choices=KINDS, help="what the concept is (default: guessed from its words)")


def _model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "model", metavar="MODEL", help="a .safetensors checkpoint, a diffusers folder, or the word demo"
    )
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
        help="what the UNet predicts (default: detected)",
    )
