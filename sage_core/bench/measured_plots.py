"""Plots of what was measured here: what an erasure costs, and what many cost."""

from __future__ import annotations

from .plots import ACCENT, GREY, INK, new_axes

MEGABYTE = 2**20


def cost(result: dict):
    """Seconds of a whole training on a log axis, in units of ours; and the peak of memory, predicted and
    measured.
    """
    figure, (time, memory) = new_axes(11, 3.2, 2)
    seconds = {m: row["expected_seconds"] for m, row in result.items() if isinstance(row, dict)}
    own = seconds["sage"]
    for y, (method, value) in enumerate(seconds.items()):
        time.barh(y, value / own, height=0.5, color=ACCENT if method == "sage" else GREY)
        times = "" if method == "sage" else f" ({value / own:,.0f} times ours)"
        time.text(value / own * 1.15, y, f"{value:,.0f} s{times}", va="center", fontsize=8, color=INK)
    time.set_yticks(range(len(seconds)), [m if m == "sage" else f"{m} as published" for m in seconds])
    time.set_xscale("log")
    time.set_xlim(0.5, time.get_xlim()[1] * 100)
    where = (
        f"{result['device']}, {result['dtype']}, {result['size']} {result['family']} at {result['pixels']}"
        " pixels"
    )
    time.set_xlabel(f"time of a whole training, in units of ours\n{where}")
    weights = result["weights_bytes"] / MEGABYTE
    for y, step in enumerate((result["predicted_step_bytes"], result["sage"]["step_bytes"])):
        memory.barh(y, weights, height=0.5, color=GREY)
        memory.barh(y, step / MEGABYTE, left=weights, height=0.5, color=ACCENT)
        memory.text(
            weights + step / MEGABYTE,
            y,
            f" {weights + step / MEGABYTE:,.0f} MB",
            va="center",
            fontsize=8,
            color=INK,
        )
    memory.set_yticks(range(2), ["predicted", "measured"])
    memory.set_xlim(right=memory.get_xlim()[1] * 1.2)
    memory.set_xlabel("highest memory: weights (grey) and a step, MB")
    for ax in (time, memory):
        ax.invert_yaxis()
    figure.subplots_adjust(wspace=0.35)
    return figure


def many(result: dict):
    """Seconds a concept over the number of concepts in one batch, and of a run of its own."""
    figure, (ax,) = new_axes(6, 3.6)
    own = result["one run of its own"]
    counts = [int(c) for c in result["batch"]]
    seconds = [row["a concept"] for row in result["batch"].values()]
    ax.plot(counts, seconds, marker="o", color=ACCENT)
    for count, value in zip(counts, seconds):
        ax.annotate(
            f"{value:.1f} s", (count, value), xytext=(4, 6), textcoords="offset points", fontsize=8, color=INK
        )
    ax.axhline(own, color=GREY, linestyle="--", linewidth=1)
    ax.text(
        counts[-1], own, f"a run of its own, {own:.1f} s", va="bottom", ha="right", fontsize=8, color=GREY
    )
    ax.set_xscale("log")
    ax.set_ylim(0, 1.25 * max(own, *seconds))
    ax.set_xlabel(f"concepts in one batch ({result['method']}, bundled model)")
    ax.set_ylabel("seconds a concept")
    return figure
