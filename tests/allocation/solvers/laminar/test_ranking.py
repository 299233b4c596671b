"""Few of the offers are ranked: the answer is that of ranking them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import allocation as al
from allocation.solvers.laminar import ranking
from tests.allocation.cuda.matrices import assert_same
from tests.allocation.strategies import nested

Matrix = NDArray[Any]


@st.composite
def floors_of_lines(draw: st.DrawFn) -> tuple[Matrix, dict[str, Any]]:
    """A budget and floors of the lines of one side, some too large; many ties, or few."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.int8]))
    kinds = draw(st.sampled_from([1, 3, 100]))
    scores = np.random.default_rng(seed).integers(-kinds, 2 * kinds + 1, shape).astype(dtype)
    side = draw(st.sampled_from(["token", "feature"]))
    lines = shape[side == "feature"]
    floors = draw(st.lists(st.integers(0, 4), min_size=lines, max_size=lines))
    return scores, {"budget": draw(st.integers(0, scores.size)), f"{side}_floors": floors}


def solved(scores: Matrix, limits: dict[str, Any], few: float) -> al.Solution:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FEW", few)
        return al.solve(al.Problem(scores, **limits), al.Laminar(), throw=False)


@given(floors_of_lines() | nested())
@settings(max_examples=400)
def test_what_is_decided_without_ranking_is_right(case: tuple[Matrix, dict[str, Any]]) -> None:
    scores, limits = case
    ours, expected = solved(scores, limits, 0), solved(scores, limits, np.inf)
    assert ours.status is expected.status
    if expected.status is al.Status.INFEASIBLE:
        assert str(ours.error) == str(expected.error)
        return
    assert_same(ours, expected)
    certificate = al.verify(al.Problem(scores, **limits), ours)
    assert certificate.optimal, certificate


@pytest.mark.parametrize("side", ["token", "feature"])
@pytest.mark.parametrize("floor", [0, 2, 6])
def test_hardly_anything_is_ranked(side: str, floor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that differ in how often they score: some lack matches at the price of the budget."""
    ranked: list[int] = []
    sorts = ranking.descending

    def counted(scores: Matrix) -> Matrix:
        ranked.append(scores.size)
        return sorts(scores)

    monkeypatch.setattr(ranking, "descending", counted)
    draw = np.random.default_rng(0)
    scores = draw.standard_normal((500, 400)) + draw.uniform(-1, 1, 400)
    scores = (scores if side == "feature" else scores.T).astype(np.float32)
    problem = al.Problem(scores, budget=8000, **{f"{side}_floors": floor})
    solution = al.solve(problem, al.Laminar())
    assert al.verify(problem, solution).optimal
    assert (np.asarray(getattr(solution.prices, f"{side}s").value) < 0).any() == (floor > 0)
    assert len(ranked) == 1
    assert ranked[0] < 8000 / 2


def test_a_guess_that_leaves_no_room_ranks_all() -> None:
    """Floors hold lines whose matches were to make room for those that others lack."""
    ranked_all: list[bool] = []
    original = ranking._beside

    def spy(sure: Matrix, others: Any, *rest: Any) -> Any:
        ranked_all.append(others is None)
        return original(sure, others, *rest)

    # the best of each of 10 lines lies above all else; 40 lines of 1 to 2 that floors force lie below the price
    scores = np.full((50, 200), -1.0)
    scores[:10, :100] = 100 + np.arange(1000).reshape(10, 100)
    scores[10:30, :100] = 50 + np.arange(2000).reshape(20, 100) / 100
    scores[30:] = np.arange(4000).reshape(20, 200) / 4000
    problem = al.Problem(scores, budget=3000, token_floors=[0] * 10 + [100] * 20 + [30] * 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FEW", 0)
        patch.setattr(ranking, "_beside", spy)
        solution = al.solve(problem, al.Laminar())
    assert al.verify(problem, solution).optimal
    assert ranked_all == [False, True]
