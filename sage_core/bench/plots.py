"""The bench's plots: erasing against keeping, ripple over distance, cost on a log axis, attack.

Needs matplotlib (extra `bench`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SageError
from ..files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, GREY, ACCENT = "#1b1b1f", "#8a8a94", "#b3261e"
COLOURS = (
    "#3b6fb6",
    "#e08a1e",
    "#3f9a5a",
    "#8e5bb5",
    "#7a5c48",
    "#d66ba0",
    "#5f6a72",
    "#a3a31f",
    "#2aa5b5",
    "#c7a17a",
    "#4b4b9a",
    "#6fae2f",
)


def draw_all(result: dict, folder: Path) -> list[Path]:
    """Write every plot of a bench's summary; their paths. Raises SageError without matplotlib."""
    plots = {"pareto.png": pareto, "ripple.png": ripple, "cost.png": cost, "attack.png": attack}
    return [draw(plot, result, folder / name) for name, plot in plots.items()]


def draw(plot: Callable[[dict], Figure], result: dict, path: Path) -> Path:
    """Write one plot. Raises SageError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise SageError(
            "The plots need matplotlib; install it with: pip install matplotlib (the figures themselves are"
            " there)."
        ) from error
    matplotlib.use("Agg")
    figure = plot(result)
    write_atomically(path, lambda p: figure.savefig(p, format="png", dpi=140, bbox_inches="tight"))
    return path


def colour(result: dict, method: str) -> str:
    """Ours is the accent; the others keep one colour over all plots."""
    if method == "sage":
        return ACCENT
    return dict(zip(result["methods"], itertools.cycle(COLOURS)))[method]


def new_axes(width: float, height: float, count: int = 1) -> tuple[Figure, list]:
    """A figure of that size in inches, with `count` panels beside each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=INK, labelsize=9)
        ax.grid(alpha=0.2)
    return figure, axes


def erased(row: dict) -> float:
    return 1 - (row["concept"] + row["synonyms"]) / 2


def kept(row: dict) -> float:
    return (row["near"] + row["far"]) / 2


def pareto(result: dict):
    """Two panels, erasing against keeping: by words, and under attack. Up and to the right is better."""
    figure, axes = new_axes(11, 4.8, 2)
    for ax, title, value in zip(
        axes,
        ("by words: concept and synonyms", "under white-box attack"),
        (erased, lambda r: 1 - r["attacked"]),
    ):
        for m, row in result["methods"].items():
            if value is not erased and row["attacked"] is None:
                continue
            ax.scatter(kept(row), value(row), s=90 if m == "sage" else 50, color=colour(result, m), zorder=3)
            ax.annotate(
                m,
                (kept(row), value(row)),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=9,
                color=colour(result, m),
            )
        ax.set_xlabel("kept: neighbours and other things, of before")
        ax.set_ylabel("erased: share of pictures without the concept")
        ax.set_title(title, fontsize=10, color=INK)
    return figure


def ripple(result: dict):
    """How much is kept, over the distance of a word from the concept (1 - cosine of the frozen encoder's
    states).
    """
    figure, (ax,) = new_axes(7.5, 4.4)
    for m, row in result["methods"].items():
        shares = row.get("ripple", [])
        if shares:
            ax.plot(
                [share["distance"] for share in shares],
                [share["kept"] for share in shares],
                marker="o",
                markersize=4,
                linewidth=2.2 if m == "sage" else 1.2,
                color=colour(result, m),
                label=m,
            )
    ax.set_xlabel("distance from the erased concept")
    ax.set_ylabel("still recognised, of before")
    ax.legend(fontsize=8, ncol=2, frameon=False)
    return figure


def cost(result: dict):
    """UNet passes an erasure, measured here and as published, on a log axis."""
    figure, (ax,) = new_axes(7.5, 4.4)
    names = list(result["methods"])
    for y, m in enumerate(names):
        row = result["methods"][m]
        ax.barh(y, max(1.0, row["passes"]), height=0.38, color=colour(result, m))
        ax.text(
            max(1.0, row["passes"]) * 1.1,
            y,
            f"{row['passes']:,.0f}, {row['seconds']:.0f} s",
            va="center",
            fontsize=8,
            color=INK,
        )
        if row["published"]:
            ax.barh(y + 0.4, row["published"]["passes"], height=0.3, color="none", edgecolor=GREY)
            ax.text(
                row["published"]["passes"] * 1.1,
                y + 0.4,
                f"{row['published']['passes']:,.0f} as published",
                va="center",
                fontsize=7,
                color=GREY,
            )
    ax.set_xscale("log")
    ax.set_xlim(right=ax.get_xlim()[1] * 8)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("UNet passes an erasure (a backward counts two)")
    return figure


def attack(result: dict):
    """Share of pictures in which the attack brings the concept back, over its steps; beside it the control on
    the untouched model.
    """
    figure, (ax,) = new_axes(7.5, 4.4)
    rows = {m: r for m, r in result["methods"].items() if r["attacked"] is not None}
    for m, row in rows.items():
        steps, rates = zip(
            *(row.get("attack_curve") or {result["plan"]["attack"]["steps"]: row["attacked"]}).items()
        )
        ax.plot(
            steps,
            rates,
            marker="o",
            markersize=4,
            linewidth=2.2 if m == "sage" else 1.2,
            color=colour(result, m),
            label=m,
        )
    control = next(iter(rows.values()))["control"] if rows else None
    if control is not None:
        ax.axhline(control, color=GREY, linestyle="--", linewidth=1)
        ax.text(ax.get_xlim()[0], control, " untouched model", va="bottom", fontsize=8, color=GREY)
    ax.set_xlabel("steps of the attack")
    ax.set_ylabel("concept seen under attack")
    ax.set_ylim(-0.03, 1.05)
    ax.legend(fontsize=8, ncol=2, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
