"""Answers held as one bit a pair: the matches, counts and prices that positions give, in a fraction of the memory."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import allocation as al
from allocation import masked
from allocation.masked import MaskedMatches
from allocation.solvers.top_selection import solver, thresholds, whole


@st.composite
def much_taken(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Scores with few or many ties and one limit that takes a large share of them."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    kind = draw(st.sampled_from([np.float16, np.float32, np.float64, np.int16, np.int64]))
    scores = (rng.standard_normal(shape) * draw(st.sampled_from([1, 3, 50]))).round().astype(kind)
    if draw(st.booleans()) and kind == np.float64:
        scores = rng.standard_normal(shape)
    name = draw(st.sampled_from(["budget", "token_caps", "feature_caps"]))
    if name == "budget":
        return scores, {name: int(rng.integers(scores.size // 4, scores.size + 2))}
    size, length = shape if name == "token_caps" else shape[::-1]
    caps = rng.integers(0, length + 2, size)
    caps[0] = length  # so that a large share is wanted of few lines too
    return scores, {name: np.maximum(caps, length // 4)}


@given(much_taken(), st.sampled_from([1, 2, 2048]))
@settings(deadline=None)
def test_bits_and_positions_are_one_answer(case: tuple[Any, dict[str, Any]], small: int) -> None:
    scores, limits = case
    problem = al.Problem(scores, **limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "LARGE_SHARE", 2.0)
        expected = al.solve(problem)
        patch.setattr(solver, "LARGE_SHARE", 0.0)
        # small bounds make long lines, samples and several blocks of small matrices
        patch.setattr(thresholds, "SORTED", small)
        patch.setattr(thresholds, "BLOCK_BYTES", 16 * small)
        patch.setattr(masked, "BLOCK", 8 * small)
        for module in (whole, thresholds):
            patch.setattr(module, "SAMPLE", 8 * small)
        found = al.solve(problem)
        assert isinstance(found._matches, MaskedMatches)
        np.testing.assert_array_equal(found.mask(), expected.mask())
        for side in ("token_counts", "feature_counts", "tokens", "features", "values"):
            one, other = getattr(found, side), getattr(expected, side)
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    for name in ("budget", "tokens", "features"):
        for end in ("value", "lower", "upper"):
            one, other = (getattr(getattr(solution.prices, name), end) for solution in (found, expected))
            np.testing.assert_array_equal(one, other)
    assert found.objective == expected.objective
    assert al.verify(problem, found).optimal


@pytest.mark.parametrize("limits", [{"token_caps": 32}, {"feature_caps": 20_000}, {"budget": 1_280_000}])
def test_half_of_all_takes_less_memory_than_its_positions(limits: dict[str, Any]) -> None:
    problem = al.Problem(np.random.default_rng(0).standard_normal((40_000, 64), np.float32), **limits)
    tracemalloc.start()
    try:
        solution = al.solve(problem, workers=1)
        assert solution.objective > 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * problem.scores.nbytes  # blocks of a few MB beside half the scores
    assert len(pickle.dumps(solution)) < problem.scores.nbytes
