"""Assignments by SciPy, proved by prices: against the two-sided search, and what is left to it."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import allocation as al
from allocation.solvers.assignment import candidates, duals, lines, matching, solver
from benchmarks import rivals_families as families
from tests.allocation.strategies import Limits, Matrix, score_matrices

ONE = {"token_caps": 1, "feature_caps": 1}
COMPLETE = {**ONE, "token_floors": 1, "feature_floors": 1}


@st.composite
def floors(draw: st.DrawFn, size: int) -> Any:
    """None, all, or some lines."""
    return draw(st.none() | st.sampled_from([0, 1]) | hnp.arrays(np.int64, size, elements=st.integers(0, 1)))


@st.composite
def assignments(draw: st.DrawFn) -> tuple[Matrix, Limits]:
    """Scores, and floors of either side; half of them of a side that can meet them."""
    scores = draw(score_matrices(max_side=6, min_side=1))
    given_floors = {
        name: draw(floors(size)) for name, size in zip(("token_floors", "feature_floors"), scores.shape, strict=True)
    }
    if draw(st.booleans()):
        given_floors["feature_floors" if scores.shape[0] < scores.shape[1] else "token_floors"] = None
    budget = draw(st.none() | st.just(min(scores.shape)))
    return scores, {**ONE, **given_floors, "budget": budget}


def agrees_with_the_search(problem: al.Problem) -> al.Solution | None:
    ours = al.solve(problem, al.Assignment(), throw=False)
    search = al.solve(problem, al.TwoSided(), throw=False)
    assert ours.status is search.status
    if ours.status is not al.Status.OPTIMAL:
        return None
    certificate = al.verify(problem, ours)
    assert certificate.optimal, certificate
    assert ours.objective == pytest.approx(search.objective, rel=1e-12, abs=1e-12)
    for one, two in zip(vars(ours.prices).values(), vars(search.prices).values(), strict=True):
        np.testing.assert_allclose(one.lower, two.lower, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(one.upper, two.upper, rtol=1e-9, atol=1e-9)
    return ours


@given(assignments())
def test_matrices(case: tuple[Matrix, Limits]) -> None:
    scores, limits = case
    problem = al.Problem(scores, **limits)
    assert al.Assignment().refusal(problem) is None
    agrees_with_the_search(problem)


@given(assignments())
def test_candidate_edges(case: tuple[Matrix, Limits]) -> None:
    scores, limits = case
    ends = np.nonzero(scores > -np.inf)
    problem = al.Problem.from_edges(*ends, scores[ends], scores.shape, **limits)
    if al.Assignment().refusal(problem) is None:
        agrees_with_the_search(problem)


@pytest.mark.parametrize("family", [*families.ASSIGNMENT, *families.STRUCTURED, "twelve orders"])
@pytest.mark.parametrize("shape", [(40, 40), (30, 50), (50, 30)])
@pytest.mark.parametrize("complete", [True, False])
def test_families(family: str, shape: tuple[int, int], complete: bool) -> None:
    known = {**families.ASSIGNMENT, **families.STRUCTURED, "twelve orders": families.twelve_orders}
    scores = known[family](np.random.default_rng(1), shape)
    least = {"token_floors" if shape[0] <= shape[1] else "feature_floors": 1} if complete else {}
    problem = al.Problem(scores - (0 if complete else np.median(scores).astype(scores.dtype)), **ONE, **least)
    solution = agrees_with_the_search(problem)
    assert solution is not None
    assert family == "twelve orders" or solution.stats["solver"] == "Assignment"


def test_auto_chooses_it_and_says_so() -> None:
    problem = al.Problem([[1.0, 2.0], [3.0, 5.0]], **ONE)
    plain = "Assignment: one match a token and a feature is an assignment problem"
    assert al.Auto(compiled=False).explain(problem) == plain
    assert al.Auto().explain(problem) == f"{plain}, by OR-tools where it is hard"
    solution = al.solve(problem)
    assert solution.stats["solver"] == "Assignment"
    assert solution.objective == 6.0


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"budget": 1}, "budget"),
        ({"token_caps": [1, 2]}, "token_caps of 1"),
        ({"feature_caps": None}, "feature_caps of 1"),
        ({"token_floors": 2}, "token_floors of 0 and 1"),
        ({"token_groups": [al.Group([0], cap=1)]}, "groups"),
    ],
)
def test_other_limits_are_refused(limits: Limits, reason: str) -> None:
    problem = al.Problem(np.eye(2), **{**ONE, **limits})
    assert reason in (al.Assignment().refusal(problem) or "")
    with pytest.raises(al.UnsupportedProblemError, match=reason):
        al.solve(problem, al.Assignment())


def test_infeasible_floors_are_named_by_the_search() -> None:
    problem = al.Problem([[1.0, -np.inf], [2.0, -np.inf]], **COMPLETE)
    with pytest.raises(al.InfeasibleError, match="floors of"):
        al.solve(problem)


def test_prices_that_rounding_hides_are_left_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).standard_normal((12, 12))
    monkeypatch.setattr(duals, "MOST_SWEEPS", 0)
    solution = al.solve(al.Problem(scores, **COMPLETE))
    assert solution.stats["solver"] == "TwoSided"
    assert "rounding" in solution.stats["reason"]
    assert al.verify(al.Problem(scores, **COMPLETE), solution).optimal


def test_a_matching_that_is_not_the_best_has_no_prices() -> None:
    scores = np.array([[3.0, 1.0], [1.0, 3.0]])
    problem = al.Problem(scores, **COMPLETE)
    worse = duals.matched_of((2, 2), np.array([0, 1]), np.array([1, 0]), np.array([1.0, 1.0]))
    search = duals.Search(worse, matching.floors_of(problem), exact=False, start=np.zeros(2))
    assert search.run(lines.lines_of(problem.matrix, problem.matrix.allowed())) is None


def test_large_integers_and_limits_of_time_are_left_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.arange(9).reshape(3, 3)
    with monkeypatch.context() as patched:
        patched.setattr(solver, "LARGEST_SUM", 10.0)
        assert "integers" in al.solve(al.Problem(scores, **ONE)).stats["reason"]
    monkeypatch.setattr(solver, "AT_ONCE", 10)
    assert al.solve(al.Problem(scores, **ONE), max_seconds=60).stats["solver"] == "TwoSided"
    assert al.solve(al.Problem(scores, **ONE)).stats["solver"] == "Assignment"


def test_long_paths_take_few_sweeps() -> None:
    scores = families.ranks(np.random.default_rng(0), (200, 200))
    problem = al.Problem(scores, **COMPLETE)
    pairs = np.arange(200), np.arange(200)
    matched = duals.matched_of((200, 200), *pairs, scores[pairs])
    search = duals.Search(matched, matching.floors_of(problem), exact=True, start=np.zeros(200))
    assert search.run(lines.lines_of(problem.matrix, problem.matrix.allowed())) is not None
    assert search.sweeps <= 30  # the longest path has 199 steps


@given(assignments())
def test_few_edges_of_small_matrices(case: tuple[Matrix, Limits]) -> None:
    scores, limits = case
    problem = al.Problem(scores, **limits)
    with pytest.MonkeyPatch.context() as patched:
        for name, size in (("SMALL", 0), ("PER_LINE", 1), ("LEAST", 1), ("TIES", 2)):
            patched.setattr(candidates, name, size)
        agrees_with_the_search(problem)


@pytest.mark.parametrize("shape", [(600, 600), (520, 600), (600, 520)])
@pytest.mark.parametrize(
    "family", ["uniform", "two-cost", "positive normal", "geometric", "a_i b_j", "a_i + b_j, floats"]
)
def test_large_matrices_by_few_edges_in_order_or_whole(family: str, shape: tuple[int, int]) -> None:
    known = {**families.ASSIGNMENT, **families.STRUCTURED}
    problem = al.Problem(known[family](np.random.default_rng(0), shape).astype(np.float32), **ONE)
    if shape[0] == shape[1]:
        problem = al.Problem(problem.matrix, **COMPLETE)
    for solver_object in (al.Assignment(), al.Assignment(compiled=True)):
        solution = al.solve(problem, solver_object)
        assert solution.stats["solver"] == "Assignment"
        assert al.verify(problem, solution).optimal


@pytest.mark.parametrize("integer", [True, False])
def test_ortools_matches_candidate_edges(integer: bool) -> None:
    rng = np.random.default_rng(0)
    tokens = np.tile(np.arange(300), 6)
    drawn, diagonal = np.stack([tokens, rng.integers(0, 300, tokens.size)]), np.tile(np.arange(300), (2, 1))
    ends = np.unique(np.concatenate([drawn, diagonal], axis=1), axis=1)
    scores = rng.integers(-5, 5, ends.shape[1]) if integer else rng.standard_normal(ends.shape[1])
    problem = al.Problem.from_edges(*ends, scores, (300, 300), **COMPLETE)
    solution = al.solve(problem)
    assert solution.stats["compiled"] == "OR-tools"
    assert al.verify(problem, solution).optimal
    assert solution.objective == pytest.approx(al.solve(problem, al.Auto(compiled=False)).objective, rel=1e-14)


def test_ortools_that_has_no_answer_is_not_asked_again() -> None:
    ends = np.repeat(np.arange(300), 8), np.tile(np.arange(8), 300)  # nothing reaches the other features
    problem = al.Problem.from_edges(*ends, np.zeros(2400), (300, 300), **COMPLETE)
    with pytest.raises(al.InfeasibleError, match="floors of"):
        al.solve(problem)


def test_products_are_matched_in_the_order_of_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "on_matrix", None)  # SciPy is not asked
    rng = np.random.default_rng(0)
    for scores in (
        families.products(rng, (200, 200)),
        families.rank_one(rng, (200, 200)),
        -families.ranks(rng, (200, 200)),
    ):
        problem = al.Problem(scores, **COMPLETE)
        assert al.verify(problem, al.solve(problem)).optimal
