"""report["keeping"] for people: lines for a terminal, a part of the page with the curve (SVG)."""

from __future__ import annotations

import html

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 200, 44, 40, 12, 14  # of the curve's drawing, in pixels
KEPT = "#3b6fb6"
WORDS_SHOWN = 8  # of a bin

NAMES = {
    "ripple": "near and far",
    "content": "style against content",
    "clip": "CLIP score",
    "lpips": "LPIPS",
    "features": "FID and KID",
    "natural": "naturalness",
}


def lines(keeping: dict) -> list[str]:
    """For a terminal; empty without any."""
    if not keeping:
        return []
    out = ["kept:"]
    for part in keeping.get("ripple", {}).get("bins", ()):
        low, high = part["interval"]
        out.append(
            f"  at distance {part['from']:.2f} to {part['to']:.2f}: {part['kept']:.2f} of"
            f" {part['prompts']} pictures ({low:.2f} to {high:.2f}), {_some(part['words'], 4)}"
        )
    return out + [f"  {name}: {value}" for name, value in facts(keeping)]


def facts(keeping: dict) -> list[tuple[str, str]]:
    """What is not the curve: (name, sentence); what is absent comes last, with its reason."""
    out = []
    if own := keeping.get("content"):
        out.append((f"{own['stays']} of the concept's pictures", _content(own)))
    for cell, value in keeping.get("drift", {}).items():
        out.append((f"drift, {cell}", _mean(value)))
    for cell, own in keeping.get("clip", {}).items():
        out.append((f"CLIP score, {cell}", f"{_mean(own['after'])}; before {_mean(own['before'])}"))
    lpips = keeping.get("lpips", {})
    for cell, value in lpips.get("cells", {}).items():
        out.append((f"LPIPS over {lpips['backbone']}, {cell}", _mean(value)))
    for own in keeping.get("features", ()):
        chance = own["other_seeds"]
        text = (
            f"FID {own['fid']:.3g}, KID {own['kid']:.3g} from before, {own['pictures']} pictures; the"
            f" untouched model from other seeds: FID {chance['fid']:.3g}, KID {chance['kid']:.3g}"
        )
        out.append((f"{own['over']}", text))
    if own := keeping.get("natural"):
        out.append(("in the concept's place", _natural(own)))
    for name, reason in keeping.get("absent", {}).items():
        out.append((NAMES.get(name, name), f"not measured: {reason}"))
    return out


def _content(own: dict) -> str:
    if own["kept"] is None:
        return f"none were seen before, in {own['pictures']} pictures"
    low, high = own["interval"]
    concept = own["concept"]
    gone = ""
    if concept["before"] is not None and concept["after"] is not None:
        gone = (
            f"; the concept itself is seen in {concept['after']:.0%} of them, before {concept['before']:.0%}"
        )
    return (
        f"{own['kept']:.0%} stay ({low:.0%} to {high:.0%}): seen in {own['after']:.0%}, before"
        f" {own['before']:.0%} of {own['pictures']}{gone}"
    )


def _natural(own: dict) -> str:
    after, before = own["after"], own["before"]
    low, high = after["interval"]
    place, usual_place = (when["percentile"]["mean"] for when in (after, before))
    return (
        f"{after['usual']:.0%} of {after['pictures']} pictures look usual to the untouched model"
        f" ({low:.0%} to {high:.0%}), {after['noisy']:.0%} noisier, {after['empty']:.0%} emptier; mean"
        f" percentile {place:.0f} of {own['reference']} ordinary pictures. The concept's before:"
        f" {before['usual']:.0%} usual, percentile {usual_place:.0f}"
    )


def _mean(value: dict) -> str:
    ends = value["interval"]
    return f"{value['mean']:.4g}" + ("" if ends is None else f" ({ends[0]:.4g} to {ends[1]:.4g})")


def _some(words: list[str], most: int = WORDS_SHOWN) -> str:
    more = f", and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def section(keeping: dict) -> str:
    """A part of the page; empty without any."""
    if not keeping:
        return ""
    curve, table = "", ""
    bins = keeping.get("ripple", {}).get("bins", [])
    if bins:
        rows = "".join(_row(part) for part in bins)
        table = (
            "<table><tr><th scope=col>distance</th><th scope=col>kept</th><th scope=col>95 % interval</th>"
            "<th scope=col>pictures</th><th scope=col>words</th></tr>"
            f"{rows}</table>"
        )
        curve = (
            "<p>How much is kept of other words, of the pictures in which the judge saw them before, over"
            " their distance from the concept (1 – cosine in what the UNet reads). Bars: 95 % intervals.</p>"
            f"{drawing(bins)}"
        )
    others = "".join(
        f"<tr><th scope=row>{html.escape(name)}</th><td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in facts(keeping)
    )
    return f"{curve}{table}<table>{others}</table>"


def _row(part: dict) -> str:
    low, high = part["interval"]
    return (
        f"<tr><td>{part['from']:.2f} to {part['to']:.2f}</td><td>{part['kept']:.0%}</td>"
        f"<td>{low:.0%} to {high:.0%}</td><td>{part['prompts']}</td>"
        f"<td style='text-align:left'>{html.escape(_some(part['words']))}</td></tr>"
    )


def drawing(bins: list[dict]) -> str:
    """The share kept over the distance, with its intervals."""
    base, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    low, high = bins[0]["distance"], bins[-1]["distance"]
    span = high - low or 1.0

    def x(distance: float) -> float:
        return round(LEFT + 16 + (right - LEFT - 32) * (distance - low) / span, 1)

    def y(share: float) -> float:
        return round(TOP + (base - TOP) * (1 - share), 1)

    marks = []
    for part in bins:
        at, (under, over) = x(part["distance"]), part["interval"]
        marks.append(
            f"<path d='M{at} {y(under)}V{y(over)}' stroke='{KEPT}' stroke-opacity=.4 stroke-width=5 />"
        )
        marks.append(f"<circle cx={at} cy={y(part['kept'])} r=4 fill='{KEPT}' />")
    ticks = [_text(x(d), base + 16, "middle", f"{d:.2f}") for d in dict.fromkeys((low, high))]
    points = " ".join(f"{x(part['distance'])},{y(part['kept'])}" for part in bins)
    return (
        f"<svg width={WIDTH} height={HEIGHT} role=img aria-label='share kept over distance' font-size=11"
        f" fill='currentColor'><path d='M{LEFT} {TOP}V{base}H{right}' fill=none stroke=#999 />"
        f"<path d='M{LEFT} {y(0.5)}H{right}' stroke=#ddd /><path d='M{LEFT} {y(1)}H{right}' stroke=#ddd />"
        f"{_text(LEFT - 6, y(1) + 4, 'end', '100%')}{_text(LEFT - 6, y(0.5) + 4, 'end', '50%')}"
        f"{_text(LEFT - 6, base + 4, 'end', '0%')}{''.join(ticks)}"
        f"{_text((LEFT + right) / 2, HEIGHT - 6, 'middle', 'distance from the concept')}"
        f"<polyline points='{points}' fill=none stroke='{KEPT}' stroke-width=2 />{''.join(marks)}</svg>"
    )


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f"<text x={x} y={y} text-anchor={anchor} fill='currentColor'>{text}</text>"
