"""Nested limits on the device: the same answer as in main memory, from candidate edges alone."""

from __future__ import annotations

import warnings
from typing import Any
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.cuda.scores import DeviceScores
from allocation.solvers.laminar import device_candidates
from tests.allocation.cuda.host_device import HostDevice
from tests.allocation.cuda.matrices import assert_same, drawn
from tests.allocation.strategies import limits_around, names_of_limits, planned


@st.composite
def nested(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """Limits of one side of every mix, on scores with ties, negative ones and forbidden pairs."""
    shape = draw(st.sampled_from([(5, 9), (9, 5), (8, 30)]))
    scores = drawn(shape, draw(st.sampled_from(["generic", "tied"])), draw(st.integers(0, 99))).astype(np.float32)
    scores[scores < -1] = -np.inf
    scores[:, ::2][scores[:, ::2] == 0] = -0.0  # which ties with 0.0
    names = draw(names_of_limits(2, draw(st.sampled_from(["token", "feature"]))))
    return scores, draw(limits_around(draw(planned(scores)), names))


@settings(max_examples=120)
@given(nested())
def test_every_mix_of_nested_limits(problem: tuple[np.ndarray, dict[str, Any]]) -> None:
    """Matches, prices and intervals, or that there is no answer."""
    scores, given_limits = problem
    device = HostDevice()
    matrix = DeviceScores(device.put(scores), "float32", device)
    # so small a matrix would rather be copied
    with warnings.catch_warnings(), patch.object(device_candidates, "MOST", 1.0):
        warnings.filterwarnings("ignore", ".* works in main memory", RuntimeWarning)
        found = al.solve(al.Problem(matrix, **given_limits), al.Laminar(), throw=False)
    expected = al.solve(al.Problem(scores, **given_limits), al.Laminar(), throw=False)
    assert found.status == expected.status
    if expected.error is None:
        assert_same(found, expected)


def test_only_candidates_cross_over() -> None:
    """Capped groups, and floors under a budget: a few edges a line, no copy of the matrix, no warning."""
    scores = drawn((40, 200), "generic", 4).astype(np.float32)
    groups = [al.Group(range(start, start + 10), cap=12, floor=3) for start in range(0, 40, 10)]
    cases: list[dict[str, Any]] = [
        {"token_groups": groups, "token_floors": 1},
        {"token_floors": 2, "budget": 100},
        {"feature_caps": 3, "feature_floors": 1},
    ]
    for given_limits in cases:
        device = HostDevice()
        problem = al.Problem(DeviceScores(device.put(scores), "float32", device), **given_limits)
        reduced = device_candidates.candidates(problem)
        assert reduced is not None
        assert reduced.matrix.n_edges < scores.size / 4
        assert_same(al.solve(problem), al.solve(al.Problem(scores, **given_limits)))


def test_minus_zero_ties_with_zero() -> None:
    """A floor takes the first of equal zeros, whatever their sign."""
    scores = np.full((2, 20), -1.0, np.float32)
    scores[:, 3:9] = 0.0
    scores[:, 3] = -0.0
    device = HostDevice()
    problem = al.Problem(DeviceScores(device.put(scores), "float32", device), token_floors=1, budget=2)
    assert al.solve(problem).features.tolist() == [3, 3]
