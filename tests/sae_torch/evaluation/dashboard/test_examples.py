"""What is shown of a feature's activations: histogram, quantiles, examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sae_torch.evaluation.dashboard.examples import (
    BINS,
    EACH,
    LARGEST,
    QUANTILES,
    QUARTERS,
    histogram,
    picked,
    quantiles,
)

activations = some.lists(some.floats(2.0**-20, 2.0**20, width=32), min_size=1, max_size=200).map(
    lambda found: np.array(found, np.float32)
)


@given(activations)
def test_every_activation_is_in_the_bin_of_its_share_of_the_largest(values: Any) -> None:
    counts = histogram(values)
    expected = [0] * BINS
    for value in values.tolist():
        expected[min(i for i in range(BINS) if value <= float(values.max()) * (i + 1) / BINS)] += 1
    assert len(counts) == BINS
    assert sum(counts) == len(values)
    # only rounding at the very edge of a bin may differ
    assert (
        sum(abs(a - b) for a, b in zip(np.cumsum(counts), np.cumsum(expected), strict=True)) <= len(values) * 0.02 + 1
    )
    assert histogram(values[:0]) == []


@given(activations)
def test_quantiles_are_activations_with_their_share_below(values: Any) -> None:
    found = quantiles(values)
    assert found == sorted(found)
    for share, quantile in zip(QUANTILES, found, strict=True):
        assert quantile in values.tolist()
        assert (values < quantile).sum() <= share * len(values)
        assert (values <= quantile).sum() > share * len(values) - 1
    assert quantiles(values[:0]) == []


@given(activations, some.integers(1, 60), some.integers(0, 99))
def test_examples_are_the_largest_and_some_of_every_quarter_in_text_that_differs(
    values: Any, windows_there: int, seed: int
) -> None:
    windows = np.sort(np.random.default_rng(seed).integers(0, windows_there, len(values)))
    chosen = picked(values, windows)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    rank = {entry: place for place, entry in enumerate(order)}
    shown = [int(windows[entry]) for _, entry in chosen]
    assert len(set(shown)) == len(shown)
    # the first group: the strongest activation of each window, strongest windows first
    best = list(dict.fromkeys(int(windows[entry]) for entry in order))
    assert shown[: min(LARGEST, len(best))] == best[:LARGEST]
    assert [entry for group, entry in chosen if group == 0] == [
        next(entry for entry in order if windows[entry] == window) for window in best[:LARGEST]
    ]
    for quarter in range(1, QUARTERS + 1):
        low, high = ((quarter + end) * len(order) // QUARTERS for end in (-1, 0))
        own = [rank[entry] for group, entry in chosen if group == quarter]
        assert all(low <= place < high for place in own)
        assert own == sorted(own)
        assert len(own) <= EACH
    if len({*windows.tolist()}) == len(values) >= 4 * (LARGEST + EACH):
        assert [sum(group == one for group, _ in chosen) for one in range(1, QUARTERS + 1)] == [EACH] * QUARTERS


def test_a_feature_that_fires_once_has_one_example() -> None:
    assert picked(np.array([2.0]), np.array([7])) == [(0, 0)]
    assert picked(np.array([]), np.array([])) == []
    assert quantiles(np.array([2.0])) == [pytest.approx(2.0)] * len(QUANTILES)
