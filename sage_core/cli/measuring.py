"""The commands that draw: evaluate, bench, generate."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ..errors import SageError
from ..spec import HOST_SYNTAX, ErasureSpec
from .common import check_images, device_of, load, output_file, output_folder, say, say_claims


def run_evaluate(args) -> dict:
    """Measure LoRA files, judged by the model's own probe or by the untouched model."""
    from ..evaluate.attacks.table import QUICK, named
    from ..evaluate.file import Measuring, measure_file
    from ..evaluate.further import Further
    from ..evaluate.judges.choose import open_judge
    from ..evaluate.keeping.columns import as_csv
    from ..evaluate.lists import read_list
    from ..evaluate.output import labels_of, result_of, save_pictures, write_reports
    from ..evaluate.page.document import document
    from ..evaluate.page.shown import Shown
    from ..evaluate.protocols.choose import open_protocol
    from ..evaluate.require import parse_requirements
    from ..evaluate.summary import lines
    from ..files import check_room, write_text
    from ..jobs.make import about_file
    from ..lora.file import read_lora
    from ..progress import Progress

    check_images(args.images)
    if args.protocol_images is not None:
        check_images(args.protocol_images, "--protocol-images")
    requirements = tuple(parse_requirements(args.require))
    lists = tuple(read_list(argument) for argument in args.prompts)
    suite, scenes = suites_of(args.suite)
    further = Further(suite, tuple(args.also), lists, args.list_images)
    how = Measuring(
        args.images,
        args.seed,
        named(args.attack or [QUICK]),
        asked=bool(args.attack),
        further=further,
        requirements=requirements,
        guarded=tuple(args.guard),
        scenes=scenes,
        protocols=tuple(open_protocol(name) for name in dict.fromkeys(args.protocol)),
        protocol_images=args.protocol_images,
        keeping=_keeping(args),
    )
    how.check()
    names = dict.fromkeys(args.judge or ("auto",))
    how = replace(how, judges=tuple(open_judge(name, tuple(args.label)) for name in names))
    paths = [Path(name) for name in dict.fromkeys(args.lora)]
    files = [read_lora(path) for path in paths]
    for file in files:
        file.spec()  # before a model is read for minutes
    target = output_file(args.html, ".html") if args.html else None
    out = output_folder(args.out) if args.out else None
    if out:
        check_room(out / "report.html")
    repeat, progress = ["sage-erase", *args.typed], Progress(quiet=args.json is True)
    numbers = output_file(args.keeping, ".csv") if isinstance(args.keeping, str) else None
    model = load(args, device_of(args.device))
    labels, shown = labels_of(paths), []
    with _kept(model, out, len(paths), progress) as kept:
        how = replace(how, kept=kept)
        for number, (path, file, label) in enumerate(zip(paths, files, labels), 1):
            if len(paths) > 1:
                progress(f"LoRA {number} of {len(paths)}: {path}")
            evaluation = measure_file(model, path, how, about_file(path, file.rank), progress)
            shown.append(Shown.of(evaluation, label))
            if out:
                save_pictures(evaluation, label, out)
                write_reports(out, shown, args.blur, repeat)
            _say_one(args, evaluation.report, label if len(paths) > 1 else "")
    if target:
        write_text(target, document(shown, args.blur, repeat))
    reports = [one.report for one in shown]
    if numbers:
        write_text(numbers, as_csv(labels, [report["keeping"] for report in reports]))
    if len(paths) > 1:
        say(args, "\n" + "\n".join(lines(labels, reports)))
    if out:
        say(args, f"report in {out}")
    return result_of(reports)


def _say_one(args, report: dict, label: str) -> None:
    """The table of one LoRA, and its claims. label: where there are several."""
    from ..evaluate.protocols import table as protocols
    from ..evaluate.report import table

    say(args, f"\n{label}\n{table(report)}" if label else table(report))
    if own := protocols.text(report.get("protocols", {})):
        say(args, own)
    say_claims(args, report.get("requirements", []), label)


@contextlib.contextmanager
def _kept(model, out: Path | None, files: int, progress):
    """Where finished measurements are: in the report's folder, or, while several LoRAs share those of the
    untouched model, in a temporary one.
    """
    from ..evaluate.kept import Kept, about_model
    from ..evaluate.output import STATE

    if out is None and files == 1:
        yield Kept(on_part=progress)
        return
    with tempfile.TemporaryDirectory(prefix="sage-", ignore_cleanup_errors=True) as own:
        yield Kept(out / STATE if out else Path(own), {"model": about_model(model)}, progress)


def suites_of(names: list[str]) -> tuple[str, str]:
    """(quick or hard, the suite of scenes or "") for the suites on the command line. Raises SageError for two
    of the latter.
    """
    scenes = [name for name in dict.fromkeys(names) if name not in ("quick", "hard")]
    if len(scenes) > 1:
        raise SageError(
            f"The cells can ask for the scenes of one suite, not of {' and '.join(scenes)}; leave one out."
        )
    return "hard" if "hard" in names else "quick", scenes[0] if scenes else ""


def _keeping(args):
    """What --keeping and --lpips ask for; None without."""
    from ..evaluate.keeping.keep import Keeping
    from ..evaluate.keeping.lpips import Lpips

    if not args.keeping:
        if args.lpips:
            raise SageError("--lpips is measured with --keeping; add it.")
        return None
    return Keeping(lpips=Lpips.read(Path(args.lpips)) if args.lpips else None)


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
    guard = guard_of(model, args.guard)
    model.guard = guard
    image = model.generate([args.prompt], [args.seed], args.steps, args.guidance)[0]
    write_picture(to_pil(image), path)
    did, steered = "", {}
    if guard is not None:
        steered = {"guarded_steps": guard.looks.steered, "drawn_again": bool(guard.again)}
        did = f"; the guard stepped in at {guard.looks.steered} of {args.steps} steps"
        if guard.again:
            did += ", of the second drawing: the first still showed the concept"
    say(args, f"saved {path}{did}")
    return {"path": str(path), "prompt": args.prompt, "seed": args.seed} | steered


def guard_of(model, concepts: list[str]):
    """The guard against these concepts; None without any."""
    from ..guard import Guard, not_guarded

    names = [ErasureSpec(concept).concept for concept in concepts]
    if note := not_guarded(names, model.knowledge.styles):
        print(f"sage-erase: {note}", file=sys.stderr)
    return Guard(model, names) if names else None


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
