"""The commands that train and draw nothing: merge, inspect, methods."""

from __future__ import annotations

from .common import device_of, load, output_file, say


def run_merge(args) -> dict:
    """Join LoRA files without training: summed, or, with the model, fitted to each other."""
    from ..jobs.make import about_file
    from ..lora.merge import merge_loras

    path = output_file(args.out, ".safetensors")
    if args.model is None:
        merged = merge_loras(args.files, path, args.strength)
    else:
        from ..jobs.join import join_for
        from ..progress import Progress

        model = load(args, device_of(args.device))
        merged = join_for(model, args.files, path, args.strength, Progress(quiet=args.json is True))
    concepts = [spec["concept"] for spec in merged.specs()]
    say(
        args,
        f"saved {path} ({path.stat().st_size / 1e6:.1f} MB, rank {merged.rank}): erases"
        f" {', '.join(concepts)}",
    )
    return about_file(path, merged.rank) | {"concepts": concepts}


def run_inspect(args) -> dict:
    """What the file is; a LoRA of another maker is shown as far as it goes."""
    from ..jobs.make import earlier_check
    from ..lora.file import read_lora
    from ..lora.metadata import CHECK_KEY, LEFT_KEY, LOSSES_KEY, RESULT_KEY, SPEC_KEY, SPECS_KEY

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
        if k not in (SPEC_KEY, SPECS_KEY, RESULT_KEY, LOSSES_KEY, LEFT_KEY, CHECK_KEY, "format")
    }
    lines = [
        f"{args.file}: {result['layers']} layers, rank {lora.rank}, {result['bytes'] / 1e6:.2f} MB, on"
        f" {', '.join(result['surfaces'])}"
    ]
    for spec in (
        [result["spec"]]
        if result["spec"]
        else result.get("specs", [{"spec": "not recorded: made by another tool"}])
    ):
        lines += [f"  {k}: {v}" for k, v in spec.items()]
    if curve := lora.left():
        looks = ", ".join(f"{share:.0%} after step {step}" for step, share in curve[1:])
        lines.append(f"  left of the concept: {curve[0][1]:.0%} before, {looks}")
    if (checked := earlier_check(lora)) is not None:
        lines.append(f"  {checked.sentence((result['spec'] or {}).get('concept', 'the concept'))}")
    if result["result"]:
        lines += _measured_lines(result["result"])
    lines += [f"  {k} = {v}" for k, v in sorted(shown.items())]
    say(
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
        say(
            args,
            f"{name:14} {m['summary']}\n{'':14} trains {m['surface'].replace('_', '-')}, {cost};"
            f" {m['citation']}",
        )
    return table
