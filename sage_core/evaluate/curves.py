"""The attacks in a report: lines for a terminal, a table and curves (SVG) for the page."""

from __future__ import annotations

import html

WIDTH, HEIGHT, LEFT, BOTTOM = 240, 130, 34, 24  # of a curve's drawing, in pixels
ERASED, UNTOUCHED = "erased", "untouched"  # classes, coloured by the page's style sheet


def lines(attacks: dict[str, dict]) -> list[str]:
    """One line an attack: success before and after at the full budget, its interval, and the budget."""
    out = []
    for name, attack in attacks.items():
        control, (low, high) = attack["untouched"][-1], attack["interval"]
        before = "     -" if control is None else f"{control:6.2f}"
        budget = f"{attack['budget'][-1]} {attack['unit']}"
        out.append(f"  {name:22}  {before}  {attack['success'][-1]:6.2f}   {low:.2f} to {high:.2f}, {budget}")
    return out


def rows(attacks: dict[str, dict]) -> str:
    """A table's rows, one an attack."""
    out = []
    for name, attack in attacks.items():
        control, (low, high) = attack["untouched"][-1], attack["interval"]
        out.append(
            f"<tr><th scope=row>{html.escape(name)}: {html.escape(attack['title'])}</th>"
            f"<td>{'–' if control is None else f'{control:.0%}'}</td><td>{attack['success'][-1]:.0%}</td>"
            f"<td>{low:.0%} to {high:.0%}</td>"
            f"<td>{attack['budget'][-1]} {html.escape(attack['unit'])}</td></tr>"
        )
    return "".join(out)


def section(attacks: dict[str, dict], strongest: str) -> str:
    """The attacks of a report as a part of the page; empty without any."""
    if not attacks:
        return ""
    curves = "".join(
        f"<div><b>{html.escape(name)}</b><br>{curve(attack)}</div>"
        for name, attack in attacks.items()
        if len(attack["budget"]) > 1
    )
    sources = "; ".join(f"{name}: {attack['paper']}" for name, attack in attacks.items())
    return (
        f"<p>Share of pictures in which the concept is back; the best of each attack's starts"
        f" counts. A latent can be inverted by a model that never knew the concept: it is not counted as the"
        f" strongest. The strongest here: {html.escape(strongest)}. Red: the erased model; grey and"
        f" dashed: the untouched one, the most that an attack can show.</p>"
        f"<div class=scroll tabindex=0 role=region aria-label=attacks><table class=numbers>"
        f"<caption>Attacks at their full budget</caption><thead><tr><th scope=col>attack</th>"
        f"<th scope=col>before</th>"
        f"<th scope=col>after</th><th scope=col>95 % interval</th><th scope=col>budget</th></tr></thead>"
        f"<tbody>{rows(attacks)}</tbody></table></div><div class=tiles>{curves}</div>"
        f"<p>{html.escape(sources)}</p>"
    )


def curve(attack: dict) -> str:
    """Success over the budget as a drawing: the erased model's line and the untouched one's."""
    budget, unit = attack["budget"], html.escape(attack["unit"])
    untouched = [] if None in attack["untouched"] else attack["untouched"]
    right, base = WIDTH - 10, HEIGHT - BOTTOM
    return (
        f"<svg width={WIDTH} height={HEIGHT} viewBox='0 0 {WIDTH} {HEIGHT}' role=img font-size=10"
        f" aria-label='{_words(attack)}'><path d='M{LEFT} 8V{base}H{right}' fill=none class=axis />"
        f"<text x={LEFT - 4} y=12 text-anchor=end>100%</text>"
        f"<text x={LEFT - 4} y={base} text-anchor=end>0%</text>"
        f"<text x={right} y={HEIGHT - 6} text-anchor=end>{budget[-1]} {unit}</text>"
        f"{_line(budget, untouched, UNTOUCHED)}{_line(budget, attack['success'], ERASED)}</svg>"
    )


def _words(attack: dict) -> str:
    """The curve, for those who do not see it."""
    points = [f"{share:.0%} at {spent}" for spent, share in zip(attack["budget"], attack["success"])]
    return html.escape(f"success by {attack['unit']}, erased model: {', '.join(points)}")


def _line(budget: list[int], shares: list[float], kind: str) -> str:
    """Shares over their budgets, with a dot at each."""
    points = []
    for spent, share in zip(budget, shares):
        x = LEFT + (WIDTH - 10 - LEFT) * spent / budget[-1]
        points.append((round(x, 1), round(8 + (HEIGHT - BOTTOM - 8) * (1 - share), 1)))
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = "".join(f"<circle cx={x} cy={y} r=2.5 class={kind} />" for x, y in points)
    return f"<polyline points='{path}' fill=none class={kind} stroke-width=2 />{dots}"
