"""Few of the offers are ranked: the answer is that of ranking them all."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import allocation as al
from allocation.solvers.laminar import ranking
from allocation.solvers.laminar.tree import Margins, ShortageError, laminar_tree
from allocation.solvers.top_selection.whole import smallest_positive
from allocation.solvers.work_limit import WorkLimit
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


def solved(scores: Matrix, limits: dict[str, Any], few: float, guesses: tuple[int, int] = (0, 0)) -> al.Solution:
    """With positive scores so many ranks too low in place of what a sample says."""
    misses = itertools.cycle(guesses)

    def guessed(sample: Matrix, cap: int, n_entries: int) -> tuple[Any, Any, bool]:
        rank = min(max(cap + next(misses), 0), sample.size - 1)
        value = max(np.sort(sample)[::-1][rank], smallest_positive(sample.dtype))
        return value, value, False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FEW", few)
        patch.setattr(ranking, "bracket_of_sample", guessed)
        return al.solve(al.Problem(scores, **limits), al.Laminar(), throw=False)


@given(floors_of_lines() | nested(), st.tuples(st.integers(-4, 4), st.integers(-4, 4)))
@settings(max_examples=600)
def test_what_is_decided_without_ranking_is_right(
    case: tuple[Matrix, dict[str, Any]], guesses: tuple[int, int]
) -> None:
    """Whatever is guessed: only the time may depend on a sample."""
    scores, limits = case
    ours, expected = solved(scores, limits, 0, guesses), solved(scores, limits, np.inf)
    assert ours.status is expected.status
    if expected.status is al.Status.INFEASIBLE:
        assert str(ours.error) == str(expected.error)
        return
    assert_same(ours, expected)
    certificate = al.verify(al.Problem(scores, **limits), ours)
    assert certificate.optimal, certificate


def best_of(scores: list[list[float]], bracket: tuple[float, float], **limits: Any) -> tuple[list[float], Margins]:
    """Scores that are taken of the positive ones, and margins, with such a bracket."""
    problem = al.Problem(scores, **limits)
    positive = np.array(scores) > 0
    values = np.array(scores)[positive]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FEW", 0)
        patch.setattr(ranking, "bracket_of_sample", lambda *_: (*bracket, False))
        taken, margins = ranking.best(laminar_tree(problem, 0), np.nonzero(positive)[0], values, WorkLimit(None))
    return values[taken].tolist(), margins


def test_a_floor_of_a_group_is_met_by_its_best_lines() -> None:
    """Of the first two tokens, the first lacks a match and would offer all it has; the second has better ones."""
    scores = [[0.3, 0.1, -1, -1, -1], [0.5, 0.4, -1, -1, -1], [10, 11, 12, 13, 14]]
    limits = {"budget": 4, "token_floors": [1, 0, 0], "token_groups": [al.Group([0, 1], floor=2)]}
    assert best_of(scores, (10, 12), **limits)[0] == [0.3, 0.5, 13, 14]


def test_the_best_that_is_refused_sets_the_price() -> None:
    """Also where what is near is just what the budget holds."""
    taken, margins = best_of([[5.0], [4.0], [3.0], [2.0], [1.0]], (4, 4), budget=2)
    assert taken == [5, 4]
    assert margins.prices[-1] == 3


def test_a_shortage_is_told_in_numbers_of_the_whole() -> None:
    with pytest.raises(ShortageError, match="has floor 3, but only 2 allowed matches fit inside it"):
        best_of([[10, 9, -1], [1, 2, 3]], (1, 8), budget=4, token_floors=[3, 0])


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
