"""The commands behind the command line: each takes its arguments and returns what it found as JSON values."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import SageError
from ..spec import HOST_SYNTAX


def given(args) -> dict:
    """The same as fields of a spec."""
    names = (
        "method",
        "surface",
        "faithful",
        "steps",
        "rank",
        "alpha",
        "learning_rate",
        "eta",
        "resolution",
        "seed",
        "kind",
    )
    return {name: getattr(args, name) for name in names}


def _say(args, text: str) -> None:
    if args.json is not True:
        print(text)


def _say_kind(progress, model, spec) -> None:
    """Report a guess of what the concept is."""
    if taken := spec.taken_as(model.knowledge.styles):
        progress(f"{spec.concept!r}: {taken}")


def _device(name: str):
    """The torch device of that name; under `accelerate launch`, this process's own."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from ..jobs.batch import process_state

        return process_state(cpu=name == "cpu").device
    return torch.device(_device_name(name))


def _device_name(name: str) -> str:
    import torch

    if name != "auto":
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError) as error:
            raise SageError(
                f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}); use cpu or auto."
            ) from error
        return name
    mps = getattr(torch.backends, "mps", None)
    return "cuda" if torch.cuda.is_available() else "mps" if mps is not None and mps.is_available() else "cpu"


def _load(args, wanted, device=None):
    """The model in the precision for the wanted device, on it unless another is given."""
    import torch

    from ..memory.plan import frozen_dtype
    from ..models import load_model

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(
        args.precision
    ) or frozen_dtype(wanted)
    return load_model(args.model, device or wanted, dtype, args.prediction)


def output_file(name: str, suffix: str) -> Path:
    """A file the user names: an absolute path as it is, a relative one inside the current folder."""
    from ..files import output_path

    path = Path(name)
    if path.is_absolute():
        return output_path(path.parent, path.name, suffix)
    return output_path(Path.cwd(), name, suffix)


def output_folder(name: str) -> Path:
    """The same for a folder."""
    from ..files import output_path

    if Path(name).is_absolute():
        return Path(name)
    # Shells complete a folder with its separator.
    return output_path(Path.cwd(), name.rstrip("/\\") or name, "")


def run_demo(args) -> dict:
    """The whole way on the bundled model: erase, save, measure, report."""
    from ..cycle.run import ErasureSpec, erase
    from ..evaluate.attack import ConceptInversion
    from ..evaluate.report import table, write_report
    from ..files import check_room, claimed, slug
    from ..jobs.make import save_measured
    from ..models import load_model
    from ..progress import Progress

    spec = ErasureSpec(args.concept, method=args.method, seed=args.seed, surface=args.surface, kind=args.kind)
    folder = output_folder(args.out)
    progress = Progress(quiet=args.json is True)
    model = load_model("demo")
    path = folder / f"erased-{slug(spec.concept)}.safetensors"
    check_room(path)
    _say_kind(progress, model, spec)
    progress(
        f"erasing {spec.concept!r} from the bundled model with {spec.method}, surface"
        f" {spec.resolved().surface}"
    )
    with claimed(path):
        erasure = erase(model, spec, progress, looks=True)
        evaluation = save_measured(
            model, erasure, path, 12, ConceptInversion(steps=100), progress
        )  # enough to see, in a minute
    write_report(evaluation, folder)
    _say(
        args,
        f"\n{table(evaluation.report)}\n\nLoRA     {path}\npicture  {folder / 'before_after.png'}\nreport  "
        f" {folder / 'report.html'}",
    )
    return evaluation.report


def run_erase(args) -> dict:
    """Erase from any model; the LoRA appears whole at the end, a killed run goes on with --resume."""
    from ..files import check_room, slug
    from ..jobs.make import make_lora, passes_of
    from ..lora.file import read_lora
    from ..memory.plan import fit
    from ..progress import Progress
    from ..spec import ErasureSpec

    if args.source:
        spec = ErasureSpec.from_json(read_lora(Path(args.source)).spec())
    elif args.concept is None:
        raise SageError("Say what to erase: --concept TEXT, or --from FILE to repeat a recorded erasure.")
    else:
        spec = ErasureSpec(args.concept, tuple(args.synonym), tuple(args.retain), **given(args))
    path = output_file(args.out or f"erased-{slug(spec.concept)}.safetensors", ".safetensors")
    if path.is_file() and Path(args.model).is_file() and path.samefile(args.model):
        raise SageError(
            f"The output file {path} is the model itself, which would be overwritten; "
            "choose another name with --out."
        )
    check_room(path)  # before a model is read for minutes
    progress, device = Progress(quiet=args.json is True), _device(args.device)
    model = _load(args, device, "cpu")
    plan = fit(model, spec, device)
    if plan is not None:
        progress(str(plan))
    if args.plan:
        return _planned(args, model, spec, plan)
    _say_kind(progress, model, spec)
    progress(
        f"erasing {spec.concept!r} from {args.model} ({model.family.title}) with {spec.method}, surface"
        f" {spec.resolved().surface}"
    )
    made = make_lora(model, spec, path, plan, progress, args.resume, args.save_every, args.preview)
    _say(
        args,
        f"saved {path} ({path.stat().st_size / 1e6:.1f} MB); {passes_of(made)} UNet passes,"
        f" {made['cost']['seconds']:.0f} s",
    )
    return made


def run_batch(args) -> dict:
    """Every erasure of a job file; one that fails does not stop the others."""
    from ..files import check_room
    from ..jobs.batch import as_markdown, read_jobs, run_jobs, share_rows, write_summary
    from ..progress import Progress

    specs = read_jobs(args.jobs, given(args))
    folder = output_folder(args.out)
    check_room(folder / "summary.json")
    progress, device = Progress(quiet=args.json is True), _device(args.device)
    rows = share_rows(run_jobs(_load(args, device, "cpu"), specs, folder, device, progress, args.preview))
    if rows is None:
        return {}
    write_summary(rows, folder)
    _say(args, f"\n{as_markdown(rows)}\nLoRAs and summary in {folder}")
    failed = [row for row in rows if "error" in row]
    if failed:
        raise SageError(
            f"{len(failed)} of {len(rows)} erasures failed (first {failed[0]['concept']!r}:"
            f" {failed[0]['error']}); the others are in {folder}."
        )
    return {"erasures": rows}


def _planned(args, model, spec, plan) -> dict:
    """What --plan prints, and its JSON form; memory is null for the bundled model, which fits anywhere."""
    from ..cycle import watch as left
    from ..memory.plan import seconds_a_pass
    from ..methods.table import METHODS

    spec, taken = spec.resolved(model.knowledge.styles), spec.taken_as(model.knowledge.styles)
    method, each = METHODS[spec.method], seconds_a_pass(model, spec)
    passes, looks = method.passes(spec.faithful), left.passes(0 if method.closed else spec.steps)
    minutes = (passes + looks) * each / 60
    if taken:
        _say(args, f"{spec.concept!r}: {taken}")
    _say(
        args,
        f"{spec.concept!r} with {spec.method}: at most {passes:,} UNet passes of {each:.2g} s, and {looks} to"
        f" see how much is left: about {minutes:.1f} minutes",
    )
    memory = (
        None
        if plan is None
        else {
            "peak": plan.peak,
            "weights": plan.weights,
            "step": plan.step,
            "free": plan.free,
            "checkpointing": plan.checkpointing,
            "samples_at_once": plan.at_once,
        }
    )
    return {
        "spec": spec.to_json(),
        "unet_passes": passes,
        "look_passes": looks,
        "seconds": round(60 * minutes, 1),
        "memory": memory,
    }


def run_evaluate(args) -> dict:
    """Measure a LoRA file; the probe's numbers exist for the bundled model only."""
    from ..cycle.run import ErasureSpec
    from ..diffusion.cost import Cost
    from ..evaluate.attack import ConceptInversion
    from ..evaluate.measure import evaluate, measure_original
    from ..evaluate.report import page, table
    from ..files import write_text
    from ..lora.file import load_lora, read_lora
    from ..progress import Progress

    if not 1 <= args.images <= 10_000:
        raise SageError(f"--images is from 1 to 10000, not {args.images}.")
    path = Path(args.lora)
    file = read_lora(path)
    spec = ErasureSpec.from_json(file.spec())
    target = output_file(args.html, ".html") if args.html else None
    model = _load(args, _device(args.device))
    if model.vae is None:
        raise SageError(
            "The checkpoint has no autoencoder, so no picture can be drawn; evaluate with a checkpoint that"
            " has one."
        )
    adapter = load_lora(model, path)
    attack = None if args.attack and "none" in args.attack else ConceptInversion()
    lora = {"path": str(path), "bytes": path.stat().st_size, "rank": file.rank}
    progress = Progress(quiet=args.json is True)
    with adapter.off():
        base = measure_original(model, spec, args.images, args.seed, attack, progress)
    evaluation = evaluate(model, base, spec, Cost(), 0.0, lora, args.images, args.seed, attack, progress)
    if target:
        write_text(target, page(evaluation))
    _say(args, table(evaluation.report))
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
    from ..demo import vocabulary

    plan = Plan(
        listed(args.methods, METHODS, METHODS),
        listed(args.concepts, [*vocabulary.names(), *vocabulary.STYLES], CONCEPTS),
        tuple(range(args.seeds)),
        listed(args.twice, METHODS, ()),
        args.images,
    )
    folder = output_folder(args.out)
    result = run(load_model("demo"), plan, folder, Progress(quiet=args.json is True), args.jobs)
    _say(args, f"\n{as_markdown(result)}\ntable, CSV and plots in {folder}")
    return result


def run_generate(args) -> dict:
    """Draw one picture."""
    from ..evaluate.report import to_pil
    from ..files import write_picture
    from ..lora.file import load_lora

    path = output_file(args.out, ".png")
    if not 1 <= args.steps <= 1000:
        raise SageError(f"--steps is from 1 to 1000, not {args.steps}.")
    model = _load(args, _device(args.device))
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
    _say(args, f"saved {path}")
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


def run_merge(args) -> dict:
    """Join LoRA files without training."""
    from ..lora.merge import merge_loras

    path = output_file(args.out, ".safetensors")
    merged = merge_loras(args.files, path, args.strength)
    concepts = [spec["concept"] for spec in merged.specs()]
    _say(
        args,
        f"saved {path} ({path.stat().st_size / 1e6:.1f} MB, rank {merged.rank}): erases"
        f" {', '.join(concepts)}",
    )
    return {"path": str(path), "bytes": path.stat().st_size, "rank": merged.rank, "concepts": concepts}


def run_inspect(args) -> dict:
    """What the file is; a LoRA of another maker is shown as far as it goes."""
    from ..lora.file import read_lora
    from ..lora.metadata import LEFT_KEY, LOSSES_KEY, RESULT_KEY, SPEC_KEY, SPECS_KEY

    lora = read_lora(args.file)
    result = {
        "path": str(args.file),
        "bytes": args.file.stat().st_size,
        "layers": len(lora.layers),
        "rank": lora.rank,
        "surfaces": sorted({name.split("_")[1] for name in lora.layers}),
        "spec": lora.spec() if SPEC_KEY in lora.metadata else None,
        "result": lora.result(),
        "metadata": lora.metadata,
    }
    if SPECS_KEY in lora.metadata:
        result["specs"] = lora.specs()
    shown = {
        k: v
        for k, v in lora.metadata.items()
        if k not in (SPEC_KEY, SPECS_KEY, RESULT_KEY, LOSSES_KEY, LEFT_KEY, "format")
    }
    lines = [
        f"{args.file}: {result['layers']} layers, rank {lora.rank}, {result['bytes'] / 1e6:.2f} MB, on"
        f" {', '.join(result['surfaces'])}"
    ]
    for spec in (
        [result["spec"]] if result["spec"] else result.get("specs", [{"spec": "none: made by another tool"}])
    ):
        lines += [f"  {k}: {v}" for k, v in spec.items()]
    if curve := lora.left():
        looks = ", ".join(f"{share:.0%} after step {step}" for step, share in curve[1:])
        lines.append(f"  left of the concept: {curve[0][1]:.0%} before, {looks}")
    if result["result"]:
        lines += _measured_lines(result["result"])
    lines += [f"  {k} = {v}" for k, v in sorted(shown.items())]
    _say(
        args, "\n".join("".join(c if c.isprintable() else "\ufffd" for c in line) for line in lines)
    )  # a file may hold a terminal's commands
    return result


def _measured_lines(result: dict) -> list[str]:
    """The measured cells before and after; no line where nothing was judged."""
    lines = []
    for when in ("before", "after"):
        cells = [f"{name} {value}" for name, value in result[when].items() if value is not None]
        lines += [f"  measured {when}: {', '.join(cells)}"] if cells else []
    return lines


def run_methods(args) -> dict:
    """A method in a few lines: what it does, what it trains, what it costs, where it comes from."""
    from ..methods.table import METHODS

    table = {
        m.name: {
            "title": m.title,
            "summary": m.summary,
            "surface": m.surface,
            "steps": m.training.steps,
            "citation": m.citation,
            "unet_passes": m.passes(),
            "unet_passes_as_published": m.passes(faithful=True),
        }
        for m in METHODS.values()
    }
    for name, m in table.items():
        published = (
            f" ({m['unet_passes_as_published']:,} as published)" if m["unet_passes_as_published"] else ""
        )
        cost = (
            f"about {m['unet_passes']:,} UNet passes{published}"
            if m["unet_passes"]
            else "no UNet pass, seconds"
        )
        _say(
            args,
            f"{name:12} {m['summary']}\n{'':12} trains {m['surface'].replace('_', '-')}, {cost};"
            f" {m['citation']}",
        )
    return table
