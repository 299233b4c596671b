"""Nested limits with floors on one side: against an integer programme, and large ones by their certificate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.solvers.laminar import candidates
from allocation.solvers.top_selection.lines import column_bracket, columns_of
from tests.allocation.cuda.matrices import assert_same
from tests.allocation.integer_program import best_value
from tests.allocation.strategies import nested


@given(nested())
@settings(max_examples=150)
def test_agrees_with_the_integer_programme(case: tuple[Any, dict[str, Any]]) -> None:
    scores, limits = case
    problem = al.Problem(scores, **limits)
    ours = al.solve(problem, al.Laminar(), throw=False)
    best = best_value(scores, limits)
    assert (ours.status is al.Status.INFEASIBLE) == (best is None)
    if ours.status is al.Status.INFEASIBLE:
        assert "floor" in str(ours.error)
        return
    certificate = al.verify(problem, ours)
    assert certificate.optimal, certificate
    assert ours.objective == pytest.approx(best, rel=1e-12, abs=1e-12)
    np.testing.assert_array_equal(ours.values, scores[ours.tokens, ours.features])


@given(nested(max_side=4))
@settings(max_examples=120)
def test_price_intervals_are_what_solving_again_gives(case: tuple[Any, dict[str, Any]]) -> None:
    """Against the reference, which solves each of them again with one more and one less."""
    scores, limits = case
    problem = al.Problem(scores, **limits)
    ours = al.solve(problem, al.Laminar(), throw=False)
    if ours.status is not al.Status.OPTIMAL:
        return
    reference = al.solve(problem, al.LinearProgram())
    for name in ("budget", "tokens", "features", "token_groups", "feature_groups"):
        price, expected = getattr(ours.prices, name), getattr(reference.prices, name)
        for end in ("lower", "upper"):
            np.testing.assert_allclose(
                np.asarray(getattr(price, end)), np.asarray(getattr(expected, end)), atol=1e-9, err_msg=f"{name} {end}"
            )
        assert np.all(np.asarray(price.lower) <= np.asarray(price.value))
        assert np.all(np.asarray(price.value) <= np.asarray(price.upper))


def warm_starts(shape: tuple[int, int]) -> st.SearchStrategy[al.Prices]:
    """Prices of any kind: too low, too high, and no numbers."""
    number = st.sampled_from([0.0, 0.5, 1.0, 2.5, -1.0, 1e30, np.inf, -np.inf, np.nan]) | st.floats(-3, 6)
    sides = [st.lists(number, min_size=size, max_size=size).map(np.array) for size in shape]
    return st.builds(
        lambda budget, *of_lines: al.Prices(al.Price(budget), *map(al.Price, (*of_lines, np.empty(0), np.empty(0)))),
        number,
        *sides,
    )


@given(st.data(), nested())
@settings(max_examples=200)
def test_where_the_search_starts_changes_nothing(data: st.DataObject, case: tuple[Any, dict[str, Any]]) -> None:
    scores, limits = case
    problem = al.Problem(scores, **limits)
    cold = al.solve(problem, al.Laminar(), throw=False)
    warm = al.solve(problem, al.Laminar(), throw=False, warm_start=data.draw(warm_starts(scores.shape)))
    assert warm.status is cold.status
    if cold.status is al.Status.INFEASIBLE:
        assert str(warm.error) == str(cold.error)
        return
    assert_same(warm, cold)


@given(st.integers(0, 2**31 - 1), st.sampled_from([np.float32, np.float64, np.int32]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_prices_of_a_similar_problem_start_a_search_for_floors(seed: int, kind: type, of_features: bool) -> None:
    """Large enough that lines offer a part: many with too few above the price, some with hardly a positive score."""
    rng = np.random.default_rng(seed)
    side = rng.gamma(1.0, size=90) - 0.2  # lines of very different sizes
    scores = (40 * (rng.normal(size=(400, 90)) + side)).astype(kind)
    near = (scores + rng.normal(size=scores.shape)).astype(kind)
    if not of_features:
        scores, near = scores.T, near.T
    name = "feature" if of_features else "token"
    limits = {"budget": 2500, f"{name}_floors": rng.integers(0, 30, 90)}
    if rng.random() < 0.3:
        limits[f"{name}_caps"] = limits[f"{name}_floors"] + rng.integers(0, 60, 90)
    problem = al.Problem(scores, **limits)
    cold = al.solve(problem, al.Laminar())
    start = al.solve(al.Problem(near, **limits), al.Laminar()).prices
    for factor in (1.0, 0.2, 3.0):
        scaled = al.Prices(**{part: al.Price(factor * np.asarray(price.value)) for part, price in vars(start).items()})
        warm = al.solve(problem, al.Laminar(), warm_start=scaled)
        assert_same(warm, cold)
    assert al.verify(problem, cold).optimal


def test_lines_that_lack_matches_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered once, row by row as they lie in memory, and by no second ranking."""
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=(400, 300)) + rng.gamma(1.0, size=300)).astype(np.float32)
    problem = al.Problem(scores, budget=4000, feature_floors=8)
    gathered, bracketed = [], []

    def columns(matrix: Any, chosen: Any, workers: int | None) -> Any:
        gathered.append(chosen.size)
        return columns_of(matrix, chosen, workers)

    def bracket(entries: Any, wanted: Any, workers: int | None) -> Any:
        bracketed.append(entries.flags.c_contiguous)
        return column_bracket(entries, wanted, workers)

    monkeypatch.setattr(candidates, "columns_of", columns)
    monkeypatch.setattr(candidates, "column_bracket", bracket)
    solution = al.solve(problem, al.Laminar())
    assert len(gathered) == 1
    assert gathered[0] > 100
    assert bracketed == [True]
    assert al.verify(problem, solution).optimal


@given(nested(), st.booleans())
def test_candidate_edges_give_the_dense_answer(case: tuple[Any, dict[str, Any]], warm: bool) -> None:
    scores, limits = case
    tokens, features = np.nonzero(scores != -np.inf)
    edges = al.Problem.from_edges(tokens, features, scores[tokens, features], shape=scores.shape, **limits)
    dense = al.solve(al.Problem(scores, **limits), al.Laminar(), throw=False)
    sparse = al.solve(edges, al.Laminar(), throw=False)
    assert dense.status == sparse.status
    if dense.status is al.Status.OPTIMAL:
        np.testing.assert_array_equal(dense.tokens, sparse.tokens)
        np.testing.assert_array_equal(dense.features, sparse.features)
        assert al.verify(edges, sparse).optimal


def test_zeros_that_a_floor_forces_go_to_the_smaller_token() -> None:
    """Token 1 offers its zeros for its own floor; the group's takes that of token 0, which comes first."""
    group = al.Group([0, 1], floor=3)
    problem = al.Problem([[0.0, 1.0], [0.0, 0.0]], token_floors=[0, 1], token_groups=[group])
    np.testing.assert_array_equal(al.solve(problem, al.Laminar()).mask(), [[True, True], [True, False]])


@given(nested())
def test_caps_alone_agree_with_top_selection(case: tuple[Any, dict[str, Any]]) -> None:
    scores, limits = case
    problem = al.Problem(scores, **{name: limit for name, limit in limits.items() if name.endswith(("budget", "caps"))})
    one, two = al.solve(problem, al.TopSelection()), al.solve(problem, al.Laminar())
    np.testing.assert_array_equal(one.tokens, two.tokens)
    np.testing.assert_array_equal(one.features, two.features)


@pytest.mark.parametrize("side", ["token", "feature"])
@pytest.mark.parametrize("kind", ["generic", "negative", "ties", "skewed", "half"])
@pytest.mark.parametrize("limited", ["rows and groups", "groups only", "exact total", "deep floors"])
def test_large_problems_are_certified(side: str, kind: str, limited: str) -> None:
    """Brackets, sampled prices and widening at work: the certificate looks at every entry."""
    rng = np.random.default_rng(5)
    shape = (256, 384)
    scores = rng.standard_normal(shape).astype(np.float32)
    if kind == "negative":
        scores = -np.abs(scores)
    elif kind == "ties":
        scores = rng.integers(-2, 3, shape).astype(np.float32)
    elif kind == "skewed":
        scores *= np.exp(3 * rng.standard_normal((shape[0], 1))).astype(np.float32)
    elif kind == "half":
        scores = scores.astype(np.float16)
    size = shape[side == "feature"]
    thirds = [al.Group(range(start, size, 3), cap=300, floor=250) for start in range(3)]
    cases: dict[str, dict[str, Any]] = {
        "rows and groups": {"caps": 6, "floors": 1, "groups": thirds, "budget": 800},
        "groups only": {"groups": [*thirds, al.Group(range(size), floor=800)], "budget": 850},
        "exact total": {"groups": [al.Group(range(size), floor=4000)], "budget": 4000},
        "deep floors": {"caps": 40, "groups": [al.Group(range(5), floor=190), al.Group(range(20), cap=400, floor=300)]},
    }
    given = {name if name == "budget" else f"{side}_{name}": limit for name, limit in cases[limited].items()}
    problem = al.Problem(scores, **given)
    solution = al.solve(problem)
    assert solution.stats["solver"] == "Laminar"
    certificate = al.verify(problem, solution)
    assert certificate.optimal, certificate


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"token_floors": 4}, r"tokens\[0\] has floor 4, but only 3 allowed matches"),
        ({"token_floors": [0, 2], "token_caps": [3, 1]}, r"tokens\[1\] has floor 2 above its cap 1"),
        ({"token_floors": 2, "budget": 3}, "budget has cap 3, but the floors inside it demand 4 matches"),
        (
            {"token_floors": 2, "token_groups": [al.Group([0, 1], cap=3)]},
            r"token_groups\[0\] has cap 3, but the floors inside it demand 4 matches",
        ),
        (
            {"feature_caps": 1, "feature_groups": [al.Group([0, 2], floor=3)]},
            r"feature_groups\[0\] has floor 3, but only 2 allowed matches fit inside it",
        ),
        # a cap further out is what does not fit, though no line may take so many
        ({"token_floors": 1, "budget": 0}, "budget has cap 0, but the floors inside it demand 2 matches"),
        (
            {"token_groups": [al.Group([0, 1], cap=2), al.Group([0], floor=3)]},
            r"token_groups\[0\] has cap 2, but the floors inside it demand 3 matches",
        ),
    ],
)
def test_contradictions_are_named_with_numbers(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(al.InfeasibleError, match=message):
        al.solve(al.Problem(np.ones((2, 3)), **limits))


def test_the_capped_simplex_is_one_line() -> None:
    """An exact total is a budget plus a group of all tokens with a floor; a known failure of conic solvers on GPUs."""
    weights = np.random.default_rng(0).standard_normal((1000, 1))
    problem = al.Problem(weights, budget=500, token_caps=1, token_groups=[al.Group(range(1000), floor=500)])
    solution = al.solve(problem)
    assert solution.tokens.size == 500
    assert al.verify(problem, solution).optimal
    assert solution.objective == pytest.approx(np.sort(weights[:, 0])[-500:].sum())
    # x <= 0.002 with sum x = 1 is the same problem in units of 0.002
    fractions = np.zeros(1000)
    fractions[solution.tokens] = 0.002
    assert fractions.sum() == pytest.approx(1.0)


def test_auto_says_why() -> None:
    problem = al.Problem(np.eye(3), token_floors=1)
    assert al.Auto().explain(problem).startswith("Laminar: TopSelection knows no floors; nested limits on one side")
    with pytest.raises(al.UnsupportedProblemError, match="on tokens or on features, not on both"):
        al.solve(al.Problem(np.eye(3), token_floors=1, feature_caps=1), al.Laminar())
