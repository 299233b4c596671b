"""The one-sided solver against an integer programme, against sorting, and on inputs made to mislead its brackets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.solvers.top_selection import whole
from tests.allocation.integer_program import best_value
from tests.allocation.strategies import one_sided, score_matrices


def by_sorting(scores: np.ndarray[Any, Any], limits: dict[str, Any]) -> list[tuple[int, int]]:
    """The greedy answer written as a loop: the definition of what the solver must return, ties included."""
    edges = sorted(((-float(s), i, j) for (i, j), s in np.ndenumerate(scores) if s > 0))
    left = {"budget": limits.get("budget", len(edges)), "tokens": {}, "features": {}}
    for side, key, axis in (("tokens", "token_caps", 0), ("features", "feature_caps", 1)):
        caps = np.broadcast_to(limits.get(key, len(edges)), scores.shape[axis])
        left[side] = dict(enumerate(caps.tolist()))
    taken = []
    for _, i, j in edges:
        if left["budget"] > 0 and left["tokens"][i] > 0 and left["features"][j] > 0:
            left["budget"] -= 1
            left["tokens"][i] -= 1
            left["features"][j] -= 1
            taken.append((i, j))
    return sorted(taken)


def assert_certified(problem: al.Problem, solution: al.Solution) -> None:
    certificate = al.verify(problem, solution)
    assert certificate.optimal, certificate
    assert certificate.gap == 0.0


@given(one_sided())
@example((np.zeros((3, 0)), {"token_caps": 1}))
@example((np.ones((1, 5)), {"feature_caps": 0, "budget": 2}))
def test_matches_the_greedy_definition_and_the_integer_programme(case: tuple[Any, dict[str, Any]]) -> None:
    scores, limits = case
    problem = al.Problem(scores, **limits)
    solution = al.solve(problem)
    assert solution.stats["solver"] == "TopSelection"
    assert list(zip(solution.tokens.tolist(), solution.features.tolist(), strict=True)) == by_sorting(scores, limits)
    assert_certified(problem, solution)
    assert solution.objective == pytest.approx(best_value(scores, limits), rel=1e-12, abs=1e-12)
    assert solution.values.dtype == scores.dtype
    np.testing.assert_array_equal(solution.values, scores[solution.tokens, solution.features])


@given(one_sided(max_side=4))
@settings(max_examples=60, deadline=None)
def test_price_intervals_are_what_solving_again_gives(case: tuple[Any, dict[str, Any]]) -> None:
    """`lower` and `upper` are the worth of one more and one less unit of every limit."""
    scores, limits = case
    solution = al.solve(al.Problem(scores, **limits))

    def value(changed: dict[str, Any]) -> float:
        if any(np.any(np.asarray(limit) < 0) for limit in changed.values()):
            return -np.inf
        return al.solve(al.Problem(scores, **changed)).objective

    for name, limit in limits.items():
        price = getattr(solution.prices, {"budget": "budget"}.get(name, name.replace("_caps", "s")))
        sizes = {"token_caps": scores.shape[0], "feature_caps": scores.shape[1]}
        for index in range(sizes.get(name, 1)):
            worth = []
            for change in (1, 0, -1):
                moved = np.array(np.broadcast_to(limit, sizes.get(name, 1)), np.int64)
                moved[index] += change
                worth.append(value({**limits, name: int(moved[0]) if name == "budget" else moved}))
            lower, upper = np.atleast_1d(price.lower)[index], np.atleast_1d(price.upper)[index]
            assert lower == pytest.approx(worth[0] - worth[1], rel=1e-12, abs=1e-12), (name, index)
            assert upper == pytest.approx(worth[1] - worth[2], rel=1e-12, abs=1e-12), (name, index)
            assert lower <= np.atleast_1d(price.value)[index] <= upper


@given(one_sided(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_renaming_tokens_and_features_renames_the_answer(case: tuple[Any, dict[str, Any]], random: Any) -> None:
    """Without ties the answer follows a permutation of rows and columns."""
    scores, limits = case
    scores = np.arange(scores.size, dtype=np.float64).reshape(scores.shape) - 3
    order = list(range(scores.size))
    random.shuffle(order)
    scores = scores.reshape(-1)[order].reshape(scores.shape)
    rows, columns = (np.array(random.sample(range(n), n), np.int64) for n in scores.shape)
    moved = dict(limits)
    for name, index in (("token_caps", rows), ("feature_caps", columns)):
        if np.ndim(limits.get(name, 0)) == 1:
            moved[name] = limits[name][index]
    plain = al.solve(al.Problem(scores, **limits)).mask()
    permuted = al.solve(al.Problem(scores[rows][:, columns], **moved)).mask()
    np.testing.assert_array_equal(permuted, plain[rows][:, columns])


@given(one_sided(), st.booleans())
@settings(deadline=None)
def test_candidate_edges_give_the_dense_answer(case: tuple[Any, dict[str, Any]], backwards: bool) -> None:
    scores, limits = case
    tokens, features = np.nonzero(scores != -np.inf)
    order = slice(None, None, -1 if backwards else 1)
    edges = al.Problem.from_edges(
        tokens[order], features[order], scores[tokens, features][order], shape=scores.shape, **limits
    )
    dense, sparse = al.solve(al.Problem(scores, **limits)), al.solve(edges)
    np.testing.assert_array_equal(dense.tokens, sparse.tokens)
    np.testing.assert_array_equal(dense.features, sparse.features)
    assert dense.values.dtype == sparse.values.dtype
    assert_certified(edges, sparse)
    for name in ("budget", "tokens", "features"):
        for part in ("value", "lower", "upper"):
            np.testing.assert_array_equal(
                getattr(getattr(dense.prices, name), part), getattr(getattr(sparse.prices, name), part)
            )


def misleading(name: str, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Matrices on which a sampled or grouped bracket goes wrong."""
    rng = np.random.default_rng(7)
    rows, columns = shape
    generic = rng.standard_normal(shape).astype(np.float32)
    if name == "relu":
        return np.maximum(generic - 0.25, 0.0)
    if name == "integers":
        return rng.integers(0, 4, shape)
    if name == "equal":
        return np.full(shape, 2.5, np.float32)
    if name == "descending":
        return np.sort(generic.reshape(-1))[::-1].reshape(shape).copy()
    if name == "ascending":
        return np.sort(generic.reshape(-1)).reshape(shape)
    if name == "outlier row":
        generic[rows // 2] += 1e6
        return generic
    if name == "constant columns":
        return np.broadcast_to(rng.integers(0, 5, columns).astype(np.float32), shape)
    if name == "heavy-tailed columns":
        return (generic * np.exp(4.0 * rng.standard_normal(columns))).astype(np.float32)
    if name == "periodic":
        return (np.arange(rows * columns) % 97 == 0).astype(np.float32).reshape(shape) + generic * 1e-3
    if name == "two values around the price":
        return np.where(rng.random(shape) < 0.01, np.float32(1), np.nextafter(np.float32(1), np.float32(0)))
    if name == "negative":
        return -np.abs(generic)
    return generic.astype({"half": np.float16, "double": np.float64, "generic": np.float32}[name])


MISLEADING = (
    *("generic", "half", "double", "relu", "integers", "equal", "descending", "ascending", "outlier row"),
    *("constant columns", "heavy-tailed columns", "periodic", "two values around the price", "negative"),
)


@pytest.mark.parametrize("name", MISLEADING)
@pytest.mark.parametrize("kind", ["whole", "most of it", "rows", "columns", "mixed columns", "rows within budget"])
def test_exact_on_inputs_that_mislead_the_bracket(name: str, kind: str) -> None:
    shape = (384, 512)
    scores = misleading(name, shape)
    assert scores.size > whole.SAMPLE, "the sampled path must run"
    limits: dict[str, Any] = {
        "whole": {"budget": 3000},
        "most of it": {"budget": scores.size // 2},
        "rows": {"token_caps": 9},
        "columns": {"feature_caps": 7},
        "mixed columns": {"feature_caps": np.random.default_rng(3).integers(0, 300, shape[1])},
        "rows within budget": {"token_caps": 12, "budget": 2000},
    }[kind]
    problem = al.Problem(scores, **limits)
    solution = al.solve(problem)
    flat = solution.tokens * shape[1] + solution.features
    np.testing.assert_array_equal(flat, by_stable_sort(scores, limits))
    assert_certified(problem, solution)
    alone = al.solve(problem, workers=1)
    np.testing.assert_array_equal(alone.features, solution.features)


@pytest.mark.parametrize("name", ["generic", "half", "relu", "periodic"])
def test_what_is_certain_to_be_taken_is_set_aside(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only entries near the price are ranked, once many lie above it."""
    ranked: list[int] = []

    def ranking(values: np.ndarray[Any, Any], *rest: Any) -> Any:
        ranked.append(values.size)
        return finish(values, *rest)

    finish = whole.finish
    monkeypatch.setattr(whole, "finish", ranking)
    monkeypatch.setattr(whole, "LARGE", 1000)
    scores = misleading(name, (384, 512))
    problem = al.Problem(scores, budget=20_000)
    solution = al.solve(problem)
    flat = solution.tokens * 512 + solution.features
    np.testing.assert_array_equal(flat, by_stable_sort(scores, {"budget": 20_000}))
    assert ranked
    assert max(ranked) < 10_000, "the path must run"


def by_stable_sort(scores: np.ndarray[Any, Any], limits: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Flat positions of the answer by full sorts of every group, equal scores by position."""
    rows, columns = scores.shape
    descending = -scores.astype(np.float64)
    keep = scores > 0
    if "token_caps" in limits:
        rank = np.argsort(np.argsort(descending, axis=1, kind="stable"), axis=1, kind="stable")
        keep = keep & (rank < np.broadcast_to(limits["token_caps"], rows)[:, None])
    if "feature_caps" in limits:
        rank = np.argsort(np.argsort(descending, axis=0, kind="stable"), axis=0, kind="stable")
        keep = keep & (rank < np.broadcast_to(limits["feature_caps"], columns)[None, :])
    flat = np.flatnonzero(keep)
    best = np.argsort(descending.reshape(-1)[flat], kind="stable")[: limits.get("budget", flat.size)]
    return np.sort(flat[best])


def test_large_64_bit_integers_are_not_rounded() -> None:
    base = 2**62
    scores = np.array([[base + 1, base + 3, base + 2]])
    assert al.solve(al.mutual_choice(scores, budget=1)).features.tolist() == [1]


def test_bfloat16_tensors_are_selected_like_their_values() -> None:
    scores = torch.randn(300, 500, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for limits in ({"budget": 700}, {"token_caps": 5}, {"feature_caps": 3}):
        narrow, wide = (al.Problem(s, **limits) for s in (scores, scores.float().numpy()))
        a, b = al.solve(narrow), al.solve(wide)
        np.testing.assert_array_equal(a.features, b.features)
        np.testing.assert_array_equal(a.values, b.values)
        assert a.prices.budget.value == b.prices.budget.value
        assert_certified(narrow, a)


@given(score_matrices(), st.integers(0, 8))
def test_nothing_is_mutated_and_answers_repeat(scores: np.ndarray[Any, Any], k: int) -> None:
    before = scores.copy()
    problem = al.token_choice(scores, k)
    first, second = al.solve(problem), al.solve(problem)
    np.testing.assert_array_equal(scores, before)
    np.testing.assert_array_equal(first.features, second.features)


def test_a_refused_problem_names_the_reason() -> None:
    problem = al.balanced_choice(np.eye(3), token_caps=1, feature_caps=1)
    with pytest.raises(al.UnsupportedProblemError, match="on tokens or on features, not on both; use solver"):
        al.solve(problem, al.TopSelection())
    failed = al.solve(problem, al.TopSelection(), throw=False)
    assert failed.status is al.Status.UNSUPPORTED
    assert "TopSelection" in repr(failed)
    for name in ("tokens", "values", "prices", "objective"):
        with pytest.raises(al.UnsupportedProblemError, match="not on both"):
            getattr(failed, name)
    with pytest.raises(al.UnsupportedProblemError, match="not on both"):
        failed.mask()


def test_solutions_are_frozen() -> None:
    solution = al.solve(al.token_choice(np.eye(2), 1))
    with pytest.raises(dataclasses.FrozenInstanceError, match="status"):
        solution.status = al.Status.INFEASIBLE  # type: ignore[misc]
