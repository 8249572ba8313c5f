"""The command line: sage-erase demo | erase | evaluate | bench | generate | merge | inspect | methods."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import __version__
from .errors import Cancelled, SageError
from .spec import SURFACES

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="sage-erase", description="Erase a concept from a Stable Diffusion model and save the change as a LoRA.")
    main.add_argument("--version", action="version", version=__version__)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("--json", nargs="?", const=True, metavar="FILE", help="print the machine-readable result, or write it to FILE")
        sub.set_defaults(run=globals()[f"run_{name}"])
        return sub

    demo = command("demo", "erase a concept from the bundled model and show what became of it (no GPU, no download)")
    demo.add_argument("--concept", default="dog")
    demo.add_argument("--method", default="sage")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--surface", choices=SURFACES, help="what is trained (default: the method's)")
    demo.add_argument("--out", default="sage-demo", metavar="DIR", help="folder for the LoRA, the picture and the report")

    erase = command("erase", "erase a concept from a model and save a LoRA")
    _model(erase)
    erase.add_argument("--concept", help='what to erase, as in a prompt: "dog", "in the style of ..."')
    erase.add_argument("--synonym", action="append", default=[], metavar="TEXT", help="another word for it (repeatable)")
    erase.add_argument("--retain", action="append", default=[], metavar="TEXT", help="a word that must stay (repeatable)")
    erase.add_argument("--from", dest="source", metavar="FILE", help="repeat the erasure recorded in this LoRA file")
    erase.add_argument("--method", default="sage")
    erase.add_argument("--surface", choices=SURFACES)
    erase.add_argument("--faithful", action="store_true", help="train as the method's own code does, at its own cost (for comparisons)")
    for name, kind in (("steps", int), ("rank", int), ("alpha", float), ("learning-rate", float), ("eta", float)):
        erase.add_argument(f"--{name}", type=kind)
    erase.add_argument("--resolution", type=int, metavar="PIXELS", help="side of what is trained on (default: what the model was made for)")
    erase.add_argument("--seed", type=int, default=0)
    erase.add_argument("--plan", action="store_true", help="say how it would fit into memory and how long it would take, and stop")
    erase.add_argument("--out", metavar="FILE", help="the LoRA file (default: erased-CONCEPT.safetensors here)")
    erase.add_argument("--save-every", type=float, default=10.0, metavar="SECONDS", help="how often the run's state is saved (default 10)")
    erase.add_argument("--preview", action=argparse.BooleanOptionalAction, help="draw before and after beside the LoRA (default: yes, where it is quick)")
    erase.add_argument("--resume", action="store_true", help="go on from the last saved state of a run that was stopped")

    evaluate = command("evaluate", "measure what a LoRA erased and what it kept")
    _model(evaluate)
    evaluate.add_argument("--lora", required=True, metavar="FILE")
    evaluate.add_argument("--attack", action="append", choices=("inversion", "none"), help="attack to run (default: inversion)")
    evaluate.add_argument("--images", type=int, default=16, help="pictures a cell (default 16)")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--html", metavar="FILE", help="write the report with its pictures here")

    bench = command("bench", "run every method on the same work on the bundled model and compare them; goes on where it stopped")
    bench.add_argument("--methods", metavar="A,B", help="methods to compare (default: all)")
    bench.add_argument("--concepts", metavar="X,Y", help="concepts to erase (default: six things and a style)")
    bench.add_argument("--seeds", type=int, default=2, help="seeds for sage and the methods in --twice (default 2); the others get one")
    bench.add_argument("--twice", metavar="A,B", default="sage", help="methods that get all seeds (default sage)")
    bench.add_argument("--images", type=int, default=8, help="pictures a cell (default 8)")
    bench.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share the work and the processor's cores (default 1)")
    bench.add_argument("--out", default="sage-bench", metavar="DIR", help="folder for rows, table, CSV and plots")

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
    merge.add_argument("--strength", type=float, action="append", metavar="S", help="of each file in turn (default 1.0 for all)")
    merge.add_argument("--out", default="erased.safetensors", metavar="FILE", help="the joined LoRA (default: erased.safetensors here)")

    inspect = command("inspect", "show what a LoRA file is and how it was made")
    inspect.add_argument("file", type=Path)
    command("methods", "list the methods and their sources")
    return main


def _model(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="a .safetensors checkpoint, a diffusers folder, or the word demo")
    sub.add_argument("--device", default="auto", help="cpu, cuda, mps, or auto (default)")
    sub.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the frozen weights (default: bf16 on a GPU that computes in it, else fp32)")
    sub.add_argument("--prediction", choices=("auto", "epsilon", "v"), default="auto", help="what the UNet predicts (default: told from the model)")


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed with one sentence on standard error, 2 usage, 130 interrupted."""
    args = parser().parse_args(argv)
    _quiet_libraries()
    try:
        result = args.run(args)
        if args.json is True:
            print(json.dumps(result, indent=1, ensure_ascii=False))
        elif args.json:
            from .files import write_text

            write_text(_out(args.json, ".json"), json.dumps(result, indent=1, ensure_ascii=False))
        return 0
    except SageError as error:
        print(f"sage-erase: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Cancelled):
        print("sage-erase: interrupted; nothing was left half-written (erase --resume goes on from the last saved state).", file=sys.stderr)
        return 130


def _quiet_libraries() -> None:
    import logging
    import os

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _say(args, text: str) -> None:
    if args.json is not True:
        print(text)


def _device(name: str) -> str:
    import torch

    if name != "auto":
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError) as error:
            raise SageError(f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}); use cpu or auto.") from error
        return name
    mps = getattr(torch.backends, "mps", None)
    return "cuda" if torch.cuda.is_available() else "mps" if mps is not None and mps.is_available() else "cpu"


def _load(args, device: str | None = None):
    """The model, on the device that was asked for unless another is given."""
    import torch

    from .diffusion.load import load_model

    wanted = _device(args.device)
    auto = "bf16" if wanted.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[auto if args.precision == "auto" else args.precision]
    return load_model(args.model, device or wanted, dtype, args.prediction)


def _out(name: str, suffix: str) -> Path:
    """A file the user names: an absolute path as it is, a relative one inside the current folder."""
    from .files import output_path

    path = Path(name)
    if path.is_absolute():
        return output_path(path.parent, path.name, suffix)
    return output_path(Path.cwd(), name, suffix)


def run_demo(args) -> dict:
    """The whole way on the bundled model: erase, save, measure, report."""
    from .cycle import ErasureSpec, erase
    from .diffusion.load import load_model
    from .evaluate.attack import ConceptInversion
    from .evaluate.report import table, write_report
    from .files import output_path, slug
    from .progress import Progress

    spec = ErasureSpec(args.concept, method=args.method, seed=args.seed, surface=args.surface)
    folder = Path(args.out) if Path(args.out).is_absolute() else output_path(Path.cwd(), args.out, "")
    progress = Progress(quiet=args.json is True)
    model = load_model("demo")
    progress(f"erasing {spec.concept!r} from the bundled model with {spec.method}, surface {spec.resolved().surface}")
    erasure = erase(model, spec, progress)
    path = folder / f"erased-{slug(spec.concept)}.safetensors"
    evaluation = _save_measured(model, erasure, path, 12, ConceptInversion(steps=100), progress)  # enough to see, in a minute
    write_report(evaluation, folder)
    _say(args, f"\n{table(evaluation.report)}\n\nLoRA     {path}\npicture  {folder / 'before_after.png'}\nreport   {folder / 'report.html'}")
    return evaluation.report


def _save_measured(model, erasure, path: Path, images: int, attack, progress):
    """Save the LoRA, then measure it, put the result into its metadata and a preview picture beside it."""
    from .evaluate.measure import evaluate, measure_original
    from .evaluate.report import picture, write_picture
    from .lora import RESULT_KEY, rewrite_metadata

    erasure.save(path, model)
    spec, lora = erasure.spec, {"path": str(path), "bytes": path.stat().st_size, "rank": erasure.spec.rank}
    with erasure.adapter.off():
        base = measure_original(model, spec, images, spec.seed % 1000, attack, progress)
    evaluation = evaluate(model, base, spec, erasure.cost, erasure.seconds, lora, images, spec.seed % 1000, attack, progress)
    rewrite_metadata(path, {RESULT_KEY: json.dumps({k: evaluation.report[k] for k in ("before", "after", "drift")})})
    write_picture(picture(evaluation, columns=4), path.with_suffix(".png"))
    return evaluation


def run_erase(args) -> dict:
    """Erase from any model; the LoRA appears whole at the end, a killed run goes on with --resume."""
    import torch

    from .cycle import ErasureSpec, erase
    from .files import slug
    from .lora import read_lora
    from .plan import fit
    from .progress import Progress

    if args.source:
        spec = ErasureSpec.from_json(read_lora(Path(args.source)).spec())
    elif args.concept is None:
        raise SageError("Say what to erase: --concept TEXT, or --from FILE to repeat a recorded erasure.")
    else:
        spec = ErasureSpec(args.concept, tuple(args.synonym), tuple(args.retain), args.method, args.seed, args.surface, args.steps, args.rank,
                           args.alpha, args.learning_rate, args.eta, args.resolution, args.faithful)
    path = _out(args.out or f"erased-{slug(spec.concept)}.safetensors", ".safetensors")
    progress = Progress(quiet=args.json is True)
    model = _load(args, "cpu")
    plan = fit(model, spec, torch.device(_device(args.device)))
    if plan is not None:
        progress(str(plan))
    if args.plan:
        return _planned(args, model, spec, plan)
    progress(f"erasing {spec.concept!r} from {args.model} ({model.family.title}) with {spec.method}, surface {spec.resolved().surface}")
    erasure = erase(model, spec, progress, state=path.with_suffix(".resume"), resume=args.resume, save_every=args.save_every)
    if args.preview is False or model.vae is None or (args.preview is None and not model.is_demo and model.device.type == "cpu"):
        erasure.save(path, model)
    else:
        _save_measured(model, erasure, path, 4, None, progress)
    _say(args, f"saved {path} ({path.stat().st_size / 1e6:.1f} MB); {erasure.cost.passes} UNet passes, {erasure.seconds:.0f} s")
    return {"spec": erasure.spec.to_json(), "lora": {"path": str(path), "bytes": path.stat().st_size, "rank": erasure.spec.rank},
            "cost": {"unet_forwards": erasure.cost.forwards, "unet_backwards": erasure.cost.backwards, "seconds": round(erasure.seconds, 2)}}


def _planned(args, model, spec, plan) -> dict:
    """What --plan prints, and its JSON form; memory is null for the bundled model, which fits anywhere."""
    from .methods import METHODS
    from .plan import seconds_a_pass

    passes, each = METHODS[spec.method].passes(spec.faithful), seconds_a_pass(model, spec)
    _say(args, f"{spec.concept!r} with {spec.method}: at most {passes:,} UNet passes of {each:.2g} s, about {passes * each / 60:.1f} minutes")
    memory = None if plan is None else {"peak": plan.peak, "weights": plan.weights, "step": plan.step, "free": plan.free, "checkpointing": plan.checkpointing,
                                        "samples_at_once": plan.at_once}
    return {"spec": spec.resolved().to_json(), "unet_passes": passes, "seconds": round(passes * each, 1), "memory": memory}


def run_evaluate(args) -> dict:
    """Measure a LoRA file; the probe's numbers exist for the bundled model only."""
    from .cycle import ErasureSpec
    from .diffusion.model import Cost
    from .evaluate.attack import ConceptInversion
    from .evaluate.measure import evaluate, measure_original
    from .evaluate.report import page, table
    from .files import write_text
    from .lora import load_lora, read_lora
    from .progress import Progress

    if not 1 <= args.images <= 10_000:
        raise SageError(f"--images is from 1 to 10000, not {args.images}.")
    path = Path(args.lora)
    file = read_lora(path)
    spec = ErasureSpec.from_json(file.spec())
    target = _out(args.html, ".html") if args.html else None
    model = _load(args)
    if model.vae is None:
        raise SageError("The checkpoint has no autoencoder, so no picture can be drawn; evaluate with a checkpoint that has one.")
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
    from .diffusion.load import load_model
    from .evaluate.bench import CONCEPTS, Plan, as_markdown, run
    from .files import output_path
    from .methods import METHODS
    from .progress import Progress

    def listed(text: str | None, known, default) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip())) if text else tuple(default)
        if bad := [n for n in names if n not in known]:
            raise SageError(f"There is no {bad[0]!r} to bench; choose from {', '.join(list(known)[:20])}.")
        return names

    if not (1 <= args.images <= 1000 and 1 <= args.seeds <= 100 and 1 <= args.jobs <= 64):
        raise SageError(f"--images is from 1 to 1000, --seeds from 1 to 100 and --jobs from 1 to 64, not {args.images}, {args.seeds} and {args.jobs}.")
    from .demo import vocabulary

    plan = Plan(listed(args.methods, METHODS, METHODS), listed(args.concepts, [*vocabulary.names(), *vocabulary.STYLES], CONCEPTS),
                tuple(range(args.seeds)), listed(args.twice, METHODS, ()), args.images)
    folder = Path(args.out) if Path(args.out).is_absolute() else output_path(Path.cwd(), args.out, "")
    result = run(load_model("demo"), plan, folder, Progress(quiet=args.json is True), args.jobs)
    _say(args, f"\n{as_markdown(result)}\ntable, CSV and plots in {folder}")
    return result


def run_generate(args) -> dict:
    """Draw one picture."""
    from .evaluate.report import to_pil, write_picture
    from .lora import load_lora

    path = _out(args.out, ".png")
    if not 1 <= args.steps <= 1000:
        raise SageError(f"--steps is from 1 to 1000, not {args.steps}.")
    model = _load(args)
    if model.vae is None:
        raise SageError("The checkpoint has no autoencoder, so no picture can be drawn; use a checkpoint that has one.")
    if args.lora:
        load_lora(model, args.lora, args.strength)
    image = model.generate([args.prompt], [args.seed], args.steps, args.guidance)[0]
    write_picture(to_pil(image), path)
    _say(args, f"saved {path}")
    return {"path": str(path), "prompt": args.prompt, "seed": args.seed}


def run_merge(args) -> dict:
    """Join LoRA files without training."""
    from .merge import merge_loras

    path = _out(args.out, ".safetensors")
    merged = merge_loras(args.files, path, args.strength)
    concepts = [spec["concept"] for spec in merged.specs()]
    _say(args, f"saved {path} ({path.stat().st_size / 1e6:.1f} MB, rank {merged.rank}): erases {', '.join(concepts)}")
    return {"path": str(path), "bytes": path.stat().st_size, "rank": merged.rank, "concepts": concepts}


def run_inspect(args) -> dict:
    """What the file is; a LoRA of another maker is shown as far as it goes."""
    from .lora import LOSSES_KEY, RESULT_KEY, SPEC_KEY, SPECS_KEY, read_lora

    lora = read_lora(args.file)
    result = {
        "path": str(args.file), "bytes": args.file.stat().st_size, "layers": len(lora.layers), "rank": lora.rank,
        "surfaces": sorted({name.split("_")[1] for name in lora.layers}),
        "spec": lora.spec() if SPEC_KEY in lora.metadata else None, "result": lora.result(), "metadata": lora.metadata,
    }
    if SPECS_KEY in lora.metadata:
        result["specs"] = lora.specs()
    shown = {k: v for k, v in lora.metadata.items() if k not in (SPEC_KEY, SPECS_KEY, RESULT_KEY, LOSSES_KEY, "format")}
    lines = [f"{args.file}: {result['layers']} layers, rank {lora.rank}, {result['bytes'] / 1e6:.2f} MB, on {', '.join(result['surfaces'])}"]
    for spec in [result["spec"]] if result["spec"] else result.get("specs", [{"spec": "none: made by another tool"}]):
        lines += [f"  {k}: {v}" for k, v in spec.items()]
    if result["result"]:
        lines += [f"  measured {when}: " + ", ".join(f"{k} {v}" for k, v in result["result"][when].items()) for when in ("before", "after")]
    lines += [f"  {k} = {v}" for k, v in sorted(shown.items())]
    _say(args, "\n".join(lines))
    return result


def run_methods(args) -> dict:
    """A method in a few lines: what it does, what it trains, what it costs, where it comes from."""
    from .methods import METHODS

    table = {m.name: {"title": m.title, "summary": m.summary, "surface": m.surface, "steps": m.training.steps, "citation": m.citation,
                      "unet_passes": m.passes(), "unet_passes_as_published": m.passes(faithful=True)} for m in METHODS.values()}
    for name, m in table.items():
        published = f" ({m['unet_passes_as_published']:,} as published)" if m["unet_passes_as_published"] else ""
        cost = f"about {m['unet_passes']:,} UNet passes{published}" if m["unet_passes"] else "no UNet pass, seconds"
        _say(args, f"{name:12} {m['summary']}\n{'':12} trains {m['surface'].replace('_', '-')}, {cost}; {m['citation']}")
    return table
