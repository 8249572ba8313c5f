"""The command that searches a concept's domain and trains nothing."""

from __future__ import annotations

from .common import device_of, load, say, say_kind


def run_domain(args) -> dict:
    """Which words mean the concept in this model, and which are close to it and stay."""
    from ..domain.search import search
    from ..spec import ErasureSpec

    spec = ErasureSpec(
        args.concept,
        tuple(args.synonym),
        tuple(args.retain),
        exclude=tuple(args.exclude),
        kind=args.kind,
    )
    device = device_of(args.device)
    model = load(args, device)
    recipe = spec.recipe(model.knowledge.styles)
    model.knowledge.check(recipe.given)
    say_kind(lambda text: say(args, text), model, spec)
    domain = search(model, recipe.given, recipe.kind, recipe.exclude, recipe.retain)
    say(args, "\n".join(domain.lines(spec.concept)))
    return {"concept": spec.concept} | domain.to_json() | {"clear": domain.clear}
