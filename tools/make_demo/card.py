"""Measure the bundled model and write its card: `python -m tools.make_demo.card --art DIR/png`.

Seeds from 20,000 on, which nothing was chosen by.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from pathlib import Path

import torch

from sage_core.demo import DEMO
from sage_core.demo.vocabulary import BUNDLED, canonical
from sage_core.evaluate.measure import load_judge
from sage_core.evaluate.pictures import sheet
from sage_core.files import write_picture, write_text
from sage_core.models import load_model
from sage_core.prompts.kinds import THING
from sage_core.prompts.templates import picture_of

from . import judge as probe_training

SEED = 20_000


def questions() -> dict[str, list[tuple[str, str, str | None]]]:
    """(prompt, concept, style) of every figure on the card."""

    def styled(word: str, style: str) -> str:
        return canonical(style, word)

    trained = [
        (c, s) for c in BUNDLED.concepts for s in BUNDLED.styles if (c.name, s) not in BUNDLED.held_out
    ]
    return {
        "names with style": [(styled(c.name, s), c.name, s) for c, s in trained] * 2,
        "synonyms with style": [
            (styled(word, style), c.name, style)
            for c in BUNDLED.concepts
            for word, style in zip(c.synonyms, itertools.cycle(BUNDLED.styles))
        ],
        "names without style": [(picture_of(c.name, THING), c.name, None) for c in BUNDLED.concepts],
        "held-out pairs of name and style": [(styled(n, s), n, s) for n, s in sorted(BUNDLED.held_out)] * 8,
    }


def measure(model, judge) -> tuple[dict[str, tuple[float, float | None, int]], dict[str, torch.Tensor]]:
    """Per figure: share with the concept seen, share with the style seen, number of pictures; and the
    pictures.
    """
    figures, pictures, seed = {}, {}, SEED
    for name, asked in questions().items():
        images = model.generate([p for p, _, _ in asked], list(range(seed, seed + len(asked))), batch=32)
        seed += len(asked)
        seen = judge.look(images)
        concept = sum(s.concept == c for s, (_, c, _) in zip(seen, asked)) / len(asked)
        styles = [s.style == style for s, (_, _, style) in zip(seen, asked) if style]
        figures[name] = concept, (sum(styles) / len(styles) if styles else None), len(asked)
        pictures[name] = images
        wrong = [f"{c} ({s.concept})" for s, (_, c, _) in zip(seen, asked) if s.concept != c]
        print(f"{name}: {concept:.3f} of {len(asked)}; not seen: {', '.join(wrong[:40])}", flush=True)
    return figures, pictures


def seconds_per_image(model, count: int = 7) -> float:
    """Median time of one 20-step picture, alone, decoding included."""
    times = []
    for i in range(count):
        start = time.monotonic()
        model.generate(["a cartoon drawing of a dog"], [i])
        times.append(time.monotonic() - start)
    return statistics.median(times[1:])


def write_card(
    figures,
    seconds: float,
    probe: dict[str, float],
    megabytes: float,
    parameters: dict[str, int],
    training: str,
) -> None:
    rows = "\n".join(
        f"| {name} | {c:.1%} | {'–' if s is None else f'{s:.1%}'} | {n} |"
        for name, (c, s, n) in figures.items()
    )
    probes = "\n".join(f"| {name} | {value:.1%} |" for name, value in probe.items())
    sizes = ", ".join(f"{name} {n / 1e6:.2f} M" for name, n in parameters.items())
    pairs = ", ".join(f"{name} in {style}" for name, style in sorted(BUNDLED.held_out))
    write_text(
        DEMO / "README.md",
        f"""# The bundled model

A small Stable Diffusion for learning, testing and comparing methods of concept erasure: CLIP text
encoder, UNet with cross-attention, TAESD-layout autoencoder, SD 1.x's noise schedule,
epsilon-prediction, diffusers layout, float16. It draws {len(BUNDLED.concepts)} things in
{len(BUNDLED.styles)} styles ({", ".join(BUNDLED.styles)}) at 64 x 64 pixels.
It says nothing about Stable Diffusion itself.

| | |
|---|---|
| parameters | {sizes} |
| size on disk | {megabytes:.1f} MB; the probe beside it 1.5 MB |
| a 20-step picture | {seconds:.2f} s, two CPU cores, float32, batch of one |
| training | {training} |

## What it draws

Share of pictures in which the probe sees what was asked for. Seeds from {SEED}, 20 steps of
DPM-Solver++, guidance 5; made by `python -m tools.make_demo.card`.

| prompts | concept recognised | style recognised | pictures |
|---|---|---|---|
{rows}

The held-out pairs ({pairs}) were never shown in training.
Prompts of the synonym row use words for a thing other than its name, all of which were in the captions;
the eraser is not given any of them.

## The probe

A convolutional network trained on real drawings only, never on generated pictures: the four styles, and
three other artists' sets that the model never saw. On drawings placed afresh:

| | right |
|---|---|
{probes}

It recognises drawings of these sets; it is no judge of pictures at large.

## Licence and sources

The weights may be used under Apache-2.0; the drawings' authors and licences are in ATTRIBUTION.md at the
top of the repository. The pixel-art style derives from Twemoji (CC BY 4.0), which asks for attribution.
""",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", required=True, help="the rasterised drawings, for the probe's own accuracy")
    parser.add_argument(
        "--training", default="see sage_core/demo/make", help="how long it was trained, for the card"
    )
    parser.add_argument("--sheets", type=Path, help="also write contact sheets into this folder")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    model = load_model("demo")
    judge = load_judge(model)
    seconds = seconds_per_image(model)
    print(f"{seconds:.2f} s a picture", flush=True)
    figures, pictures = measure(model, judge)
    parts = {"UNet": model.unet, "text encoder": model.text.encoders[0], "autoencoder": model.vae}
    parameters = {name: sum(p.numel() for p in m.parameters()) for name, m in parts.items()}
    megabytes = sum(p.stat().st_size for p in DEMO.rglob("*") if p.is_file()) / 1e6
    write_card(
        figures,
        seconds,
        probe_training.accuracy(BUNDLED, judge.probe, args.art),
        megabytes,
        parameters,
        args.training,
    )
    if args.sheets:
        asked, images = questions()["names with style"], pictures["names with style"]
        half = len(asked) // 2
        write_picture(
            sheet(images[:half], [c for _, c, _ in asked[:half]], columns=24, side=64),
            args.sheets / "names.png",
        )


if __name__ == "__main__":
    main()
