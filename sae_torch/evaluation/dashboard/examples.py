"""Of everything a feature fires on, what is shown: a histogram, quantiles, and examples from each quarter."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 40
# Shares of a feature's activations that lie below the quantiles which are shown.
QUANTILES = (0.25, 0.5, 0.75, 0.99)
LARGEST = 8
QUARTERS = 4
EACH = 3


def histogram(values: Any) -> list[int]:
    """Activations in equal bins from 0 to the largest.

    Parameters
    ----------
    values : (firings,) float array
        Positive.

    Returns
    -------
    list of int
        `BINS` counts, whose sum is the number of values; each bin holds its upper end.
    """
    if not len(values):
        return []
    place = np.ceil(values.astype(np.float64) / float(values.max()) * BINS).astype(np.int64) - 1
    return [int(n) for n in np.bincount(place.clip(0, BINS - 1), minlength=BINS)]


def quantiles(values: Any) -> list[float]:
    """Activations below which the shares of `QUANTILES` lie; each is one of the values."""
    ordered = np.sort(values)
    return [float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) for share in QUANTILES if len(ordered)]


def picked(values: Any, windows: Any) -> list[tuple[int, int]]:
    """Examples: the largest activations, then some from each quarter of all, at even distances of rank.

    Every window of text is taken once, so that examples differ; the largest of a window stands for it in its group.

    Parameters
    ----------
    values : (firings,) float array
        Activations of one feature; ties go to the earlier entry.
    windows : (firings,) int array
        The window of each.

    Returns
    -------
    list of (int, int)
        Group and entry: group 0 are the largest, 1 to 4 the quarters from the strongest to the weakest. A quarter has
        the ranks from ``(q - 1) n / 4`` to ``q n / 4``, rounded down.
    """
    order = np.argsort(-values, kind="stable")
    seen: set[int] = set()
    chosen: list[tuple[int, int]] = []

    def take(group: int, entries: Any, wanted: int) -> None:
        for entry in entries:
            window = int(windows[entry])
            if window not in seen:
                seen.add(window)
                chosen.append((group, int(entry)))
                wanted -= 1
            if not wanted:
                return

    take(0, order, LARGEST)
    ends = [quarter * len(order) // QUARTERS for quarter in range(QUARTERS + 1)]
    for quarter in range(QUARTERS):
        part = order[ends[quarter] : ends[quarter + 1]]
        cuts = [third * len(part) // EACH for third in range(EACH + 1)]
        for third in range(EACH):
            stretch = part[cuts[third] : cuts[third + 1]]
            # from the middle on, then what is before it
            middle = len(stretch) // 2
            take(quarter + 1, np.concatenate([stretch[middle:], stretch[:middle]]), 1)
    return chosen
