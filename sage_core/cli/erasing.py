"""The commands that erase: demo, erase, batch."""

from __future__ import annotations

from pathlib import Path

from ..errors import SageError
from .common import (
    check_images,
    device_of,
    given,
    load,
    output_file,
    output_folder,
    say,
    say_claims,
    say_kind,
)


def run_demo(args) -> dict:
    """The whole way on the bundled model: erase, save, measure, report."""
    from ..cycle.run import erase
    from ..evaluate.attacks.inversion import ConceptInversion
    from ..evaluate.report import table, write_report
    from ..files import check_room, claimed, slug
    from ..jobs.make import save_measured
    from ..models import load_model
    from ..progress import Progress
    from ..spec import ErasureSpec

    spec = ErasureSpec(args.concept, method=args.method, seed=args.seed, surface=args.surface, kind=args.kind)
    folder = output_folder(args.out)
    progress = Progress(quiet=args.json is True)
    model = load_model("demo")
    path = folder / f"erased-{slug(spec.concept)}.safetensors"
    check_room(path)
    recipe = spec.recipe_for(model)
    attack = ConceptInversion(steps=100)  # enough to see, in a minute
    say_kind(progress, model, spec)
    progress(f"erasing {spec.concept!r} from the bundled model with {spec.method}, surface {recipe.surface}")
    with claimed(path):
        erasure = erase(model, recipe, progress, looks=True)
        evaluation = save_measured(model, erasure, path, 12, attack, progress)
    write_report(evaluation, folder)
    say(
        args,
        f"\n{table(evaluation.report)}\n\nLoRA     {path}\npicture  {folder / 'before_after.png'}\nreport  "
        f" {folder / 'report.html'}",
    )
    return evaluation.report


def run_erase(args) -> dict:
    """Erase from any model; the LoRA appears whole at the end, a killed run resumes with --resume."""
    from ..files import check_room, slug
    from ..jobs.make import Maker, with_preview
    from ..lora.file import read_lora
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
    progress, device = Progress(quiet=args.json is True), device_of(args.device)
    model = load(args, device, "cpu")
    recipe = spec.recipe_for(model)
    preview = with_preview(model, device, progress, args.preview)
    maker = Maker(model, device, progress, args.save_every, preview)
    plan = maker.plan(recipe)
    if args.plan:
        return _planned(args, model, spec, recipe, plan)
    say_kind(progress, model, spec)
    progress(
        f"erasing {spec.concept!r} from {args.model} ({model.family.title}) with {spec.method}, surface"
        f" {recipe.surface}"
    )
    made = maker.make(recipe, path, args.resume)
    size = path.stat().st_size / 1e6
    say(args, f"saved {path} ({size:.1f} MB); {made.cost.passes} UNet passes, {made.seconds:.0f} s")
    return made.to_json()


def run_batch(args) -> dict:
    """Every erasure of a job file; one that fails, or for which a claim does not hold, does not stop the
    others.
    """
    from ..evaluate.file import Measuring
    from ..evaluate.require import parse_requirements
    from ..files import check_room
    from ..jobs.batch import as_markdown, read_jobs, run_jobs, share_rows, write_summary
    from ..progress import Progress

    check_images(args.images)
    gate = None
    if args.require:
        gate = Measuring(args.images, requirements=tuple(parse_requirements(args.require)))
        gate.check()
    specs = read_jobs(args.jobs, given(args))
    folder = output_folder(args.out)
    check_room(folder / "summary.json")
    progress, device = Progress(quiet=args.json is True), device_of(args.device)
    model = load(args, device, "cpu")
    rows = share_rows(run_jobs(model, specs, folder, device, progress, args.preview, gate))
    if rows is None:
        return {}
    write_summary(rows, folder)
    say(args, f"\n{as_markdown(rows)}\nLoRAs and summary in {folder}")
    for row in rows:
        say_claims(args, row.get("requirements", []), row["concept"])
    failed = [row for row in rows if "error" in row]
    if failed:
        raise SageError(
            f"{len(failed)} of {len(rows)} erasures failed (first {failed[0]['concept']!r}:"
            f" {failed[0]['error']}); the others are in {folder}."
        )
    held = all(row.get("holds", True) for row in rows)
    return {"erasures": rows} | ({"holds": held} if gate else {})


def _planned(args, model, spec, recipe, plan) -> dict:
    """What --plan prints, and its JSON form; memory is null for the bundled model, which fits anywhere."""
    from ..cycle import watch
    from ..memory.plan import seconds_a_pass

    say_kind(lambda text: say(args, text), model, spec)
    each = seconds_a_pass(model, recipe)
    looks = watch.passes(0 if recipe.method.closed else recipe.steps)
    seconds = (recipe.passes + looks) * each
    say(
        args,
        f"{spec.concept!r} with {spec.method}: at most {recipe.passes:,} UNet passes of {each:.2g} s, and"
        f" {looks} to see how much is left: about {seconds / 60:.1f} minutes",
    )
    memory = None
    if plan is not None:
        memory = {name: getattr(plan, name) for name in ("peak", "weights", "step", "free", "checkpointing")}
        memory["samples_at_once"] = plan.at_once
    return {
        "spec": recipe.to_json(),
        "unet_passes": recipe.passes,
        "look_passes": looks,
        "seconds": round(seconds, 1),
        "memory": memory,
    }
