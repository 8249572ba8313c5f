"""Intervals of means by the bootstrap (Efron 1979)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

DRAWS = 2000
SEED = 0  # the same measurement gives the same interval


def interval(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
) -> tuple[float, float] | None:
    """The percentile interval of the mean of `values`; None where there are not two groups.

    groups: of each value, what it was drawn for, such as its prompt. Whole groups are drawn with replacement:
    pictures of one prompt are alike, and as independent values they would make the interval too narrow. None:
    every value is a group of its own.
    """
    if len(values) < 2:
        return None
    names = list(range(len(values))) if groups is None else list(groups)
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    if len(places) < 2:
        return None
    sums, counts = np.zeros(len(places)), np.zeros(len(places))
    for value, name in zip(values, names):
        sums[places[name]] += value
        counts[places[name]] += 1
    random = np.random.default_rng(SEED)
    means = np.empty(draws)
    for draw in range(draws):  # one at a time: thousands of groups would not fit into memory together
        chosen = random.integers(0, len(places), len(places))
        means[draw] = sums[chosen].sum() / counts[chosen].sum()
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def mean_of(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> dict | None:
    """{"mean", "interval", "pictures"} for the report; None without values."""
    if not values:
        return None
    ends = interval(values, groups)
    return {
        "mean": round(sum(values) / len(values), 4),
        "interval": None if ends is None else [round(end, 4) for end in ends],
        "pictures": len(values),
    }
