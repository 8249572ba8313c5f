"""The arguments of the command line's commands."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import __version__
from ..lora.surfaces import SURFACES
from .options import (
    add_exclude,
    add_guard,
    add_kind,
    add_model,
    add_require,
    add_running,
    add_settings,
)

SUITES = ("quick", "hard", "kind", "objects", "styles", "people", "nudity")  # a test holds them to scenes.py
# Of evaluate/attacks/table.py, which loads torch; a test holds them together.
ATTACKS = (
    *("quick", "inversion", "rece", "unlearn-diff", "p4d", "ring-a-bell", "latent", "fine-tune"),
    *("all", "none"),
)


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

    _demo(
        command(
            "demo", "erase a concept from the bundled model and show what became of it (no GPU, no download)"
        )
    )
    _erase(command("erase", "erase a concept from a model and save a LoRA"))
    _batch(
        command(
            "batch",
            "erase every concept of a job file, a LoRA each, with one summary; under `accelerate launch` on"
            " several GPUs",
        )
    )
    _domain(
        command(
            "domain", "list the words that mean a concept in a model, and those close to it; train nothing"
        )
    )
    _evaluate(command("evaluate", "measure what a LoRA erased and what it kept"))
    _bench(
        command(
            "bench",
            "run every method on the same work on the bundled model and compare them; resumes where it"
            " stopped",
        )
    )
    _generate(command("generate", "draw a picture, with or without a LoRA"))
    _merge(command("merge", "join several erasures into one LoRA; with --model, fitted to each other"))
    _inspect(command("inspect", "show what a LoRA file is and how it was made"))
    command("methods", "list the methods and their sources")
    _panel(command("panel", "open a page for the browser: erase, watch, compare, attack (needs gradio)"))
    return main


def _demo(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--concept", default="dog")
    sub.add_argument("--method", default="sage")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--surface", choices=SURFACES, help="what is trained (default: the method's)")
    add_kind(sub)
    sub.add_argument(
        "--out", default="sage-demo", metavar="DIR", help="folder for the LoRA, the picture and the report"
    )


def _erase(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    sub.add_argument("--concept", help='what to erase, as in a prompt: "dog", "in the style of ..."')
    sub.add_argument(
        "--synonym", action="append", default=[], metavar="TEXT", help="another word for it (repeatable)"
    )
    sub.add_argument(
        "--retain", action="append", default=[], metavar="TEXT", help="a word that must stay (repeatable)"
    )
    sub.add_argument(
        "--from", dest="source", metavar="FILE", help="repeat the erasure recorded in this LoRA file"
    )
    add_settings(sub)
    sub.add_argument(
        "--plan",
        action="store_true",
        help="say how it would fit into memory and how long it would take, and stop",
    )
    sub.add_argument("--out", metavar="FILE", help="the LoRA file (default: erased-CONCEPT.safetensors here)")
    sub.add_argument(
        "--save-every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how often the run's state is saved (default 10)",
    )
    sub.add_argument(
        "--preview",
        action=argparse.BooleanOptionalAction,
        help="draw before and after beside the LoRA (default: yes, where it is quick)",
    )
    sub.add_argument(
        "--resume", action="store_true", help="resume from the last saved state of a run that was stopped"
    )


def _batch(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    sub.add_argument(
        "jobs",
        type=Path,
        metavar="JOBS",
        help="text with one concept a line (dog | puppy, hound), or a .json list of concepts and specs",
    )
    add_settings(sub)
    sub.add_argument(
        "--preview",
        action=argparse.BooleanOptionalAction,
        help="draw before and after beside each LoRA (default: yes, where it is quick)",
    )
    sub.add_argument(
        "--out",
        default="erased",
        metavar="DIR",
        help="folder for the LoRAs and the summary; what is there is not made again",
    )
    add_require(sub)
    sub.add_argument(
        "--images", type=int, default=16, help="pictures a cell that --require is measured on (default 16)"
    )


def _domain(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    sub.add_argument("--concept", required=True, help="what would be erased, as in a prompt")
    sub.add_argument(
        "--synonym", action="append", default=[], metavar="TEXT", help="a word known to mean it (repeatable)"
    )
    sub.add_argument(
        "--retain", action="append", default=[], metavar="TEXT", help="a word that must stay (repeatable)"
    )
    add_exclude(sub)
    add_kind(sub)


def _evaluate(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    sub.add_argument(
        "--lora",
        action="append",
        required=True,
        metavar="FILE",
        help="the LoRA to measure (repeatable: several beside each other in one report)",
    )
    sub.add_argument(
        "--attack",
        action="append",
        choices=ATTACKS,
        metavar="NAME",
        help=f"attack to run (repeatable; default: quick): {', '.join(ATTACKS)}",
    )
    sub.add_argument(
        "--judge",
        action="append",
        metavar="JUDGE",
        help="who judges the pictures: the model's own probe where it has one (auto, the default), the"
        " untouched model (model), clip:FOLDER, classifier:FOLDER, or nudenet; repeatable: further ones judge"
        " the same pictures",
    )
    sub.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="TEXT",
        help="a label of the classifier that means the concept (default: found by its name; repeatable)",
    )
    sub.add_argument("--images", type=int, default=16, help="pictures a cell (default 16)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument(
        "--suite",
        action="append",
        choices=SUITES,
        default=[],
        metavar="NAME",
        help="hard also asks for the concept misspelt, in long prompts, with weights, in other languages,"
        " beside another thing, and in edits and inpaintings of pictures of it; objects, styles, people or"
        " nudity ask in fuller scenes, kind picks the one for the concept (repeatable; default: quick)",
    )
    sub.add_argument(
        "--protocol",
        action="append",
        default=[],
        metavar="NAME[=FILE]",
        help="a protocol of papers: imagenette (ten classes), styles (five artists), i2p=FILE (counts"
        " NudeNet's parts); with a file, imagenette and styles take its classes (repeatable)",
    )
    sub.add_argument(
        "--protocol-images",
        type=int,
        metavar="N",
        help="pictures of each class, or of all prompts of i2p (default: as many as papers draw)",
    )
    sub.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="TEXT",
        help="other words for the concept to ask for, in another language, say (repeatable)",
    )
    sub.add_argument(
        "--prompts",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a list of prompts, .csv, .tsv or one a line: how often is the concept seen? (repeatable)",
    )
    sub.add_argument(
        "--list-images",
        type=int,
        metavar="N",
        help="pictures of each list, evenly from it; 0 is all (default: --images)",
    )
    add_guard(sub)
    sub.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the report (HTML, JSON, CSV) and every picture; an interrupted one resumes",
    )
    sub.add_argument(
        "--keeping",
        nargs="?",
        const=True,
        metavar="CSV",
        help="also measure what was kept: near and far over distance, style against content, FID and KID,"
        " naturalness of what is drawn instead; its numbers go to the file, if one is named",
    )
    sub.add_argument(
        "--lpips",
        metavar="FILE",
        help="with --keeping: measure LPIPS too, over this VGG-16, AlexNet or SqueezeNet 1.1 (.safetensors)",
    )
    sub.add_argument("--html", metavar="FILE", help="write the report with its pictures here")
    sub.add_argument(
        "--blur",
        action=argparse.BooleanOptionalAction,
        help="hide the page's pictures until they are clicked (default: where the concept is unsafe)",
    )
    add_require(sub)


def _bench(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--methods", metavar="A,B", help="methods to compare (default: all)")
    sub.add_argument("--concepts", metavar="X,Y", help="concepts to erase (default: six things and a style)")
    sub.add_argument(
        "--seeds",
        type=int,
        default=2,
        help="seeds for sage and the methods in --twice (default 2); the others get one",
    )
    sub.add_argument(
        "--twice", metavar="A,B", default="sage", help="methods that get all seeds (default sage)"
    )
    sub.add_argument("--images", type=int, default=8, help="pictures a cell (default 8)")
    sub.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the work and the processor's cores (default 1)",
    )
    sub.add_argument(
        "--out", default="sage-bench", metavar="DIR", help="folder for rows, table, CSV and plots"
    )


def _generate(sub: argparse.ArgumentParser) -> None:
    add_model(sub)
    sub.add_argument("--prompt", required=True)
    sub.add_argument("--lora", metavar="FILE")
    sub.add_argument("--strength", type=float, default=1.0, help="of the LoRA (default 1.0)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--steps", type=int, default=20)
    sub.add_argument("--guidance", type=float, default=5.0)
    add_guard(sub)
    sub.add_argument("--out", default="picture.png", metavar="PNG")


def _merge(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE")
    sub.add_argument(
        "--model",
        help="the model that they erase from: they are fitted to each other, so that many together keep as"
        " much as one (default: their sum, the same as all of them stacked)",
    )
    add_running(sub)
    sub.add_argument(
        "--strength",
        type=float,
        action="append",
        metavar="S",
        help="of each file in turn (default 1.0 for all)",
    )
    sub.add_argument(
        "--out",
        default="erased.safetensors",
        metavar="FILE",
        help="the joined LoRA (default: erased.safetensors here)",
    )


def _inspect(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path)


def _panel(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--models",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder with checkpoints to choose from, besides the bundled model (repeatable)",
    )
    sub.add_argument("--port", type=int, default=7870, help="0: any that is free (default 7870)")
    sub.add_argument(
        "--listen",
        action="store_true",
        help="let other computers in; needs --password (default: this one only)",
    )
    sub.add_argument("--password", metavar="TEXT", help="what the page asks for before it shows anything")
    sub.add_argument(
        "--out",
        default="sage-panel",
        metavar="DIR",
        help="folder for LoRAs, reports, pictures and the history",
    )
