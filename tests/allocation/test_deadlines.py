"""Seconds given are an end wherever time is spent: told by a clock that the tests move, not by one that they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import allocation as al
from allocation.solvers import linear_program, work_limit
from allocation.solvers.laminar import candidates
from allocation.solvers.two_sided import first_candidates, pricing, sensitivity, starting_point

SCORES = np.random.default_rng(0).standard_normal((60, 50)).astype(np.float32)
TWO_SIDED = {"budget": 200, "token_caps": 6, "token_floors": 1, "feature_caps": 7}
GROUPS = [al.Group(range(start, 60, 3), cap=90, floor=70) for start in range(3)]
LAMINAR: dict[str, Any] = {"budget": 230, "token_caps": 6, "token_floors": 1, "token_groups": GROUPS}
# nearly every feature lacks matches above the budget's price
SHORT = {"budget": 460, "feature_floors": 9}


class Clock:
    """Stands still until it was read so often, and is then past every deadline; counts how often it is read there."""

    def __init__(self) -> None:
        self.left, self.late = 10**9, 0

    def perf_counter(self) -> float:
        self.left -= 1
        self.late += self.left < 0
        return 0.0 if self.left >= 0 else 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of all solvers; problems of the tests count as large, their passes have many blocks."""
    clock = Clock()
    for module in (work_limit, linear_program):
        monkeypatch.setattr(module, "time", clock)
    for module, value in ((starting_point, 0), (first_candidates, 0)):
        monkeypatch.setattr(module, "SMALL", value)
    monkeypatch.setattr(first_candidates, "SAMPLE", 1000)
    monkeypatch.setattr(pricing, "BLOCK_BYTES", 1000)
    return clock


@pytest.mark.parametrize(
    ("solver", "limits"),
    [(al.TwoSided(), TWO_SIDED), (al.Laminar(), LAMINAR), (al.Laminar(), SHORT)],
    ids=["TwoSided", "Laminar", "Laminar, floors"],
)
def test_a_search_ends_wherever_its_seconds_do(
    solver: Any, limits: dict[str, Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No block is read and no path sought once the clock has run out, but for the bound that the error tells."""
    problem = al.Problem(SCORES, **limits)
    before = clock.left
    expected = al.solve(problem, solver, max_seconds=5)
    reads = before - clock.left
    assert reads > 5
    passes = ((pricing, "beating"), *((candidates, name) for name in ("row_bracket", "column_bracket", "columns_of")))

    def watched(work: Any) -> Any:
        def call(*arguments: Any) -> Any:
            assert clock.left >= 0, "work after the end"
            return work(*arguments)

        return call

    for module, name in passes:
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    for left in range(1, reads):
        clock.left, clock.late = left, 0
        with pytest.raises(al.NotCertifiedError, match=r"stopped after 5.0 seconds .*max_seconds="):
            al.solve(problem, solver, max_seconds=5)
        assert clock.late <= 4
    clock.left = reads + 1
    assert al.solve(problem, solver, max_seconds=5).objective == expected.objective


@pytest.mark.parametrize(
    ("solver", "limits"),
    [(al.TwoSided(), TWO_SIDED), (al.Laminar(), LAMINAR), (al.LinearProgram(), TWO_SIDED)],
    ids=["TwoSided", "Laminar", "LinearProgram"],
)
def test_intervals_have_the_seconds_of_the_solve_each_time_they_are_asked_for(
    solver: Any, limits: dict[str, Any], clock: Clock
) -> None:
    problem = al.Problem(SCORES[:30, :20], **{**limits, "budget": 100, "token_groups": ()})
    prices = al.solve(problem, solver, max_seconds=5).prices
    clock.left = 1
    with pytest.raises(
        al.NotCertifiedError, match=r"intervals of prices took longer than 5.0 seconds: allow more with"
    ):
        _ = prices.budget.lower
    clock.left = 10**9
    assert prices.budget.lower <= prices.budget.value <= prices.budget.upper


def test_what_is_shown_starts_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any) -> None:
        raise AssertionError("a search")

    monkeypatch.setattr(sensitivity, "_bounds", search)
    for limits, solver in ((TWO_SIDED, al.TwoSided()), (LAMINAR, al.Laminar()), (TWO_SIDED, al.LinearProgram())):
        solution = al.solve(al.Problem(SCORES[:30, :20], **{**limits, "budget": 100, "token_groups": ()}), solver)
        for shown in (repr(solution), solution._repr_html_(), repr(solution.prices)):
            assert f"{solution.prices.budget.value:.6g}"[:5] in shown
        assert " in [" not in repr(solution.prices.budget)
    with pytest.raises(AssertionError, match="a search"):
        _ = al.solve(al.Problem(SCORES, **TWO_SIDED)).prices.budget.lower
    assert " in [" in repr(al.solve(al.mutual_choice(SCORES, 5)).prices.budget)
