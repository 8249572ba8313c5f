"""The commands that draw: evaluate, bench, generate."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import SageError
from ..spec import HOST_SYNTAX
from .common import device_of, load, output_file, output_folder, say


def run_evaluate(args) -> dict:
    """Measure a LoRA file, judged by the model's own probe or by the untouched model."""
    from ..diffusion.cost import Cost
    from ..evaluate.attacks.table import QUICK, named
    from ..evaluate.judge import ModelJudge
    from ..evaluate.measure import evaluate, load_judge, measure_original
    from ..evaluate.report import page, table
    from ..files import write_text
    from ..jobs.make import about_file
    from ..lora.file import load_lora, read_lora
    from ..progress import Progress
    from ..spec import ErasureSpec

    if not 1 <= args.images <= 10_000:
        raise SageError(f"--images is from 1 to 10000, not {args.images}.")
    attacks = named(args.attack or [QUICK])
    path = Path(args.lora)
    file = read_lora(path)
    spec = ErasureSpec.from_json(file.spec())
    target = output_file(args.html, ".html") if args.html else None
    model = load(args, device_of(args.device))
    if model.vae is None:
        raise SageError(
            "The checkpoint has no autoencoder, so no picture can be drawn; evaluate with a checkpoint that"
            " has one."
        )
    adapter = load_lora(model, path)
    lora = about_file(path, file.rank)
    progress = Progress(quiet=args.json is True)
    with adapter.off():
        judge = None if args.judge == "model" else load_judge(model)
        if judge is None:
            judge = ModelJudge(model, spec)
            # It would take as many passes again as a training of thousands of steps: only if asked for.
            attacks = attacks if args.attack else ()
        base = measure_original(model, spec, args.images, args.seed, attacks, progress, judge)
    evaluation = evaluate(model, base, spec, Cost(), 0.0, lora, args.images, args.seed, attacks, progress)
    if target:
        write_text(target, page(evaluation))
    say(args, table(evaluation.report))
    return evaluation.report


def run_bench(args) -> dict:
    """Every method on the same work; what is in the folder already is not made again."""
    from ..bench.bench import CONCEPTS, Plan, as_markdown, run
    from ..methods.table import METHODS
    from ..models import load_model
    from ..progress import Progress

    def listed(text: str | None, known, default) -> tuple[str, ...]:
        names = (
            tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip())) if text else tuple(default)
        )
        if bad := [n for n in names if n not in known]:
            raise SageError(f"There is no {bad[0]!r} to bench; choose from {', '.join(list(known)[:20])}.")
        return names

    if not (1 <= args.images <= 1000 and 1 <= args.seeds <= 100 and 1 <= args.jobs <= 64):
        raise SageError(
            f"--images is from 1 to 1000, --seeds from 1 to 100 and --jobs from 1 to 64, not {args.images},"
            f" {args.seeds} and {args.jobs}."
        )
    from ..demo.vocabulary import BUNDLED

    plan = Plan(
        listed(args.methods, METHODS, METHODS),
        listed(args.concepts, [*BUNDLED.names, *BUNDLED.styles], CONCEPTS),
        tuple(range(args.seeds)),
        listed(args.twice, METHODS, ()),
        args.images,
    )
    folder = output_folder(args.out)
    result = run(load_model("demo"), plan, folder, Progress(quiet=args.json is True), args.jobs)
    say(args, f"\n{as_markdown(result)}\ntable, CSV and plots in {folder}")
    return result


def run_generate(args) -> dict:
    """Draw one picture."""
    from ..evaluate.pictures import to_pil
    from ..files import write_picture
    from ..lora.file import load_lora

    path = output_file(args.out, ".png")
    if not 1 <= args.steps <= 1000:
        raise SageError(f"--steps is from 1 to 1000, not {args.steps}.")
    model = load(args, device_of(args.device))
    if model.vae is None:
        raise SageError(
            "The checkpoint has no autoencoder, so no picture can be drawn; use a checkpoint that has one."
        )
    if args.lora:
        load_lora(model, args.lora, args.strength)
    for note in _unread(model, args.prompt):
        print(f"sage-erase: {note}", file=sys.stderr)
    image = model.generate([args.prompt], [args.seed], args.steps, args.guidance)[0]
    write_picture(to_pil(image), path)
    say(args, f"saved {path}")
    return {"path": str(path), "prompt": args.prompt, "seed": args.seed}


def _unread(model, prompt: str) -> list[str]:
    """What a host would read in a prompt and this command does not."""
    notes = []
    if found := HOST_SYNTAX.search(prompt):
        notes.append(
            f"{found.group()!r} is read as plain text: weights, LoRA files and learnt words are a host's"
        )
    if (count := len(model.text.words(prompt))) > model.text.length - 2:
        notes.append(
            f"the prompt has {count} tokens; those after the first {model.text.length - 2} are left out"
        )
    return notes
