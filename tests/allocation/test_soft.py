"""The soft twin: optimality conditions, the derivative, and the way to the exact answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import minimize

import allocation as al
from allocation.soft import descent, dual, line_moves, normal_equations
from allocation.soft import solve as solving

from .strategies import any_case, limits, score_matrices

FORMS = ("entropy", "clipped")
SCORES = np.array([[2.0, 1.0, -0.5], [0.0, 1.5, 0.7]])


def shares_at(scores: np.ndarray[Any, Any], form: str, prices: al.Prices, temperature: float) -> np.ndarray[Any, Any]:
    """The shares that prices demand, written from the definition."""
    x = scores.astype(np.float64) - prices.budget.value - np.asarray(prices.tokens.value)[:, None]
    x = (x - prices.features.value) / temperature
    if form == "clipped":
        return np.clip(x + 0.5, 0, 1)
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


def assert_optimal(problem: al.Problem, soft: al.SoftSolution, precision: float = 1e-9) -> None:
    """Shares within all caps that follow from prices, a price only where its cap is met: optimal, as R is concave."""
    assert soft.status is al.Status.OPTIMAL
    expected = shares_at(problem.scores, soft.form, soft.prices, soft.temperature)
    np.testing.assert_allclose(soft.allocation, expected, rtol=0, atol=precision)
    for counts, caps, price in (
        (soft.allocation.sum(1), problem.token_caps, soft.prices.tokens.value),
        (soft.allocation.sum(0), problem.feature_caps, soft.prices.features.value),
        (soft.allocation.sum(), problem.budget, soft.prices.budget.value),
    ):
        if caps is None:
            assert not np.any(price)
            continue
        assert np.all(np.asarray(price) >= 0)
        room = np.minimum(np.asarray(caps, np.float64), problem.shape[0] * problem.shape[1]) - counts
        assert np.all(room >= -precision * (1 + counts))
        assert np.all(np.where(np.asarray(price) > 0, np.abs(room), 0.0) <= precision * (1 + counts))


@st.composite
def capped_problems(draw: st.DrawFn, max_side: int = 6, generic: bool = False, most: int = 7) -> al.Problem:
    """Scores with any mix of budget, token caps and feature caps."""
    if generic:
        shape = draw(st.tuples(st.integers(1, max_side), st.integers(1, max_side)))
        rng = np.random.default_rng(draw(st.integers(0, 10**6)))
        scores = rng.normal(size=shape)
        scores[rng.random(shape) < draw(st.sampled_from([0.0, 0.2]))] = -np.inf
    else:
        scores = draw(score_matrices(max_side))
    given: dict[str, Any] = {}
    chosen = draw(st.sets(st.sampled_from(["budget", "token_caps", "feature_caps"]), min_size=1))
    if "budget" in chosen:
        given["budget"] = draw(st.integers(0, scores.size + 2))
    for side, name in enumerate(("token_caps", "feature_caps")):
        if name in chosen:
            given[name] = draw(limits(scores.shape[side], most))
    return al.Problem(scores, **given)


@given(capped_problems(), st.sampled_from(FORMS), st.sampled_from([1e-3, 0.05, 0.3, 1.0, 7.0, 1e3]))
def test_every_mix_of_caps_meets_the_optimality_conditions(problem: al.Problem, form: str, temperature: float) -> None:
    assert_optimal(problem, al.soft_solve(problem, temperature, form))


@given(
    capped_problems(max_side=12), st.sampled_from(FORMS), st.sampled_from([1e-2, 0.3, 7.0]), st.sampled_from([1, 64])
)
def test_points_in_float32_are_only_on_the_way(
    problem: al.Problem, form: str, temperature: float, entries: int
) -> None:
    """Large problems are computed roughly first; the answer is as precise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual, "LARGE", 0)
        patch.setattr(dual, "LINE_ENTRIES", entries)
        patch.setattr(line_moves, "ENTRIES", entries)
        patch.setattr(normal_equations, "DIRECT", entries)
        assert_optimal(problem, al.soft_solve(problem, temperature, form))


@given(capped_problems(generic=True, most=3), st.sampled_from(FORMS), st.sampled_from([0.1, 0.5, 2.0]), st.data())
def test_vjp_agrees_with_finite_differences(problem: al.Problem, form: str, temperature: float, data: Any) -> None:
    soft = al.soft_solve(problem, temperature, form)
    step = 1e-5 * temperature
    # the derivative is one-sided where a limit is just tight and where a clipped share is at its end
    for counts, caps, price in (
        (soft.token_counts, problem.token_caps, soft.prices.tokens.value),
        (soft.feature_counts, problem.feature_caps, soft.prices.features.value),
        (soft.allocation.sum(), problem.budget, soft.prices.budget.value),
    ):
        if caps is not None:
            assume(np.all((np.asarray(price) > 1e-3 * temperature) | (counts < np.asarray(caps) - 1e-3)))
    if form == "clipped":
        with np.errstate(invalid="ignore"):
            x = (problem.scores - soft.prices.budget.value - soft.prices.tokens.value[:, None]) / temperature
            x -= soft.prices.features.value / temperature
        assume(not np.any(np.abs(np.abs(x) - 0.5) < 1e-3))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    upstream, directions = rng.normal(size=problem.shape), rng.normal(size=(3, *problem.shape))
    gradient = soft.vjp(upstream)
    assert np.all(gradient[problem.scores == -np.inf] == 0)

    def total(scores: np.ndarray[Any, Any]) -> float:
        moved = al.Problem(scores, problem.budget, problem.token_caps, None, problem.feature_caps)
        return float((upstream * al.soft_solve(moved, temperature, form).allocation).sum())

    for direction in directions:
        ahead, behind = total(problem.scores + step * direction), total(problem.scores - step * direction)
        expected = (ahead - behind) / (2 * step)
        scale = np.abs(gradient * direction).sum()
        assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale + 1e-9 / temperature)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 3)])
@pytest.mark.parametrize(
    "given_limits",
    [{"budget": 2}, {"token_caps": 1}, {"feature_caps": 1}, {"token_caps": 1, "feature_caps": 2, "budget": 3}],
)
def test_every_entry_of_the_jacobian(form: str, shape: tuple[int, int], given_limits: dict[str, int]) -> None:
    """Column by column against central differences; it is symmetric, as a Hessian is."""
    scores = np.random.default_rng(3).normal(size=shape) + 1.0
    temperature, step = 0.7, 1e-5

    def shares(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return al.soft_solve(al.Problem(scores, **given_limits), temperature, form).allocation

    soft = al.soft_solve(al.Problem(scores, **given_limits), temperature, form)
    jacobian = np.array([soft.vjp(unit.reshape(shape)).ravel() for unit in np.eye(scores.size)])
    differences = [
        (shares(scores + step * unit.reshape(shape)) - shares(scores - step * unit.reshape(shape))).ravel() / (2 * step)
        for unit in np.eye(scores.size)
    ]
    np.testing.assert_allclose(jacobian, np.array(differences).T, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jacobian, jacobian.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_an_independent_minimiser_of_the_dual_finds_the_same_value(form: str) -> None:
    scores = np.random.default_rng(5).normal(size=(7, 9))
    problem = al.Problem(scores, budget=12, token_caps=2, feature_caps=[1, 2, 1, 3, 1, 1, 2, 1, 1])
    temperature = 0.4
    caps = np.concatenate([problem.token_caps, problem.feature_caps, [12]]).astype(float)

    def objective(prices: np.ndarray[Any, Any]) -> float:
        x = (scores - prices[:7, None] - prices[7:16] - prices[16]) / temperature
        clipped = np.where(x > 0.5, x, np.maximum(x + 0.5, 0) ** 2 / 2)
        conjugate = np.logaddexp(0, x) if form == "entropy" else clipped
        return float(caps @ prices + temperature * conjugate.sum())

    found = minimize(objective, np.full(17, 0.5), bounds=[(0, None)] * 17, options={"maxfun": 10**6, "ftol": 1e-15})
    soft = al.soft_solve(problem, temperature, form)
    assert soft.value == pytest.approx(found.fun, rel=1e-6)
    assert soft.value <= found.fun + 1e-12


@given(capped_problems(), st.sampled_from(FORMS))
def test_objective_and_value_enclose_the_exact_optimum(problem: al.Problem, form: str) -> None:
    """From below and from above, ever closer; the gap is the temperature times the concave term."""
    solution = al.solve(problem)
    assert al.verify(problem, solution).optimal
    edges = problem.shape[0] * problem.shape[1]
    for temperature in (1.0, 1e-2, 1e-5):
        soft = al.soft_solve(problem, temperature, form)
        slack = 1e-7 * (1 + abs(solution.objective))
        assert soft.objective <= solution.objective + slack
        assert soft.value >= solution.objective - slack
        assert soft.value - soft.objective <= temperature * edges * np.log(2) + slack


@given(capped_problems(generic=True, max_side=8), st.sampled_from(FORMS))
def test_shares_go_to_the_exact_matches(problem: al.Problem, form: str) -> None:
    solution = al.solve(problem)
    assert al.verify(problem, solution).optimal
    soft = al.soft_solve(problem, 1e-7, form)
    np.testing.assert_allclose(soft.allocation, solution.mask(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1e-13, 1e-9, 1e-4, 1.0, 1e5])
def test_ties_share_alike_at_any_temperature(form: str, temperature: float) -> None:
    """Equal scores have equal shares; with both sides limited the rows and columns are still met."""
    one = al.soft_solve(al.mutual_choice(np.full((3, 4), 3.0), budget=5), temperature, form)
    np.testing.assert_allclose(one.allocation, 5 / 12, rtol=1e-9)
    both = al.soft_solve(al.balanced_choice(np.full((3, 6), 7.0), 5, token_caps=2, feature_caps=1), temperature, form)
    np.testing.assert_allclose(both.allocation, 5 / 18, rtol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_slack_limits_cost_nothing(form: str) -> None:
    roomy = al.soft_solve(al.Problem(SCORES, budget=6, token_caps=3, feature_caps=2**62), 0.5, form)
    free = al.soft_solve(al.Problem(SCORES), 0.5, form)
    np.testing.assert_array_equal(roomy.allocation, free.allocation)
    assert (roomy.prices.budget.value, *roomy.prices.tokens.value, *roomy.prices.features.value) == (0.0,) * 6
    assert np.all(free.allocation[SCORES > 0] > 0.5)
    np.testing.assert_allclose(free.allocation, shares_at(SCORES, form, free.prices, 0.5), rtol=1e-15)


@pytest.mark.parametrize("form", FORMS)
def test_a_cap_of_zero_closes_its_line_and_prices_it(form: str) -> None:
    problem = al.Problem(SCORES, token_caps=[0, 2], feature_caps=[1, 0, 1])
    soft = al.soft_solve(problem, 0.3, form)
    assert_optimal(problem, soft)
    assert soft.prices.tokens.value[0] > 0
    assert np.isinf(soft.prices.tokens.value[0]) == (form == "entropy")
    np.testing.assert_array_equal(soft.vjp(np.ones_like(SCORES))[0], 0)
    nothing = al.soft_solve(al.mutual_choice(SCORES, 0), 0.3, form)
    np.testing.assert_array_equal(nothing.allocation, 0)
    assert_optimal(al.mutual_choice(SCORES, 0), nothing)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_empty_sides(form: str, shape: tuple[int, int]) -> None:
    soft = al.soft_solve(al.balanced_choice(np.zeros(shape), 2, token_caps=1, feature_caps=1), 0.1, form)
    assert soft.allocation.shape == soft.vjp(np.zeros(shape)).shape == shape
    assert (soft.objective, soft.value) == (0.0, 0.0)


@pytest.mark.parametrize("form", FORMS)
def test_lines_without_an_edge_stay_empty(form: str) -> None:
    scores = np.where(np.eye(3, 4, dtype=bool), 1.0, -np.inf)
    scores[1] = -np.inf
    problem = al.balanced_choice(scores, 2, token_caps=1, feature_caps=1)
    soft = al.soft_solve(problem, 0.25, form)
    assert_optimal(problem, soft)
    assert soft.token_counts[1] == soft.prices.tokens.value[1] == 0
    assert np.all(np.isfinite(soft.vjp(np.ones((3, 4)))))
    assert np.isfinite([soft.objective, soft.value]).all()


@pytest.mark.parametrize("form", FORMS)
def test_candidate_edges_give_one_share_each(form: str) -> None:
    rng = np.random.default_rng(8)
    tokens, features = np.nonzero(rng.random((20, 30)) < 0.3)
    order = rng.permutation(tokens.size)
    values = rng.normal(size=tokens.size)
    limits = {"budget": 40, "token_caps": 3, "feature_caps": 2}
    edges = al.Problem.from_edges(tokens[order], features[order], values[order], (20, 30), **limits)
    dense = np.full((20, 30), -np.inf)
    dense[tokens, features] = values
    sparse, full = (al.soft_solve(p, 0.2, form) for p in (edges, al.Problem(dense, **limits)))
    np.testing.assert_array_equal(sparse.allocation, full.allocation[tokens, features])
    upstream = rng.normal(size=(20, 30))
    np.testing.assert_array_equal(sparse.vjp(upstream[tokens, features]), full.vjp(upstream)[tokens, features])
    assert sparse.objective == pytest.approx(full.objective, rel=1e-14)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int8, torch.bfloat16, torch.float32])
def test_any_number_type_is_computed_in_float64(kind: Any) -> None:
    wide = np.random.default_rng(1).integers(-8, 9, size=(6, 7)) / (1 if kind is np.int8 else 4)
    scores = torch.from_numpy(wide).to(kind) if isinstance(kind, torch.dtype) else wide.astype(kind)
    soft, expected = (al.soft_solve(al.balanced_choice(s, 9, 2, feature_caps=2), 0.3) for s in (scores, wide))
    assert soft.allocation.dtype == np.float64
    np.testing.assert_array_equal(soft.allocation, expected.allocation)
    assert soft.objective == pytest.approx(expected.objective, rel=1e-14)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.5, 0.02])
def test_large_problems_iterate_and_agree_with_factorisation(
    form: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More lines than are factorised at once, dense and sparse slopes; answers do not depend on the way."""
    rng = np.random.default_rng(2)
    problem = al.balanced_choice(rng.normal(size=(320, 400)), 1500, token_caps=6, feature_caps=5)
    upstream = rng.normal(size=problem.shape)
    soft = al.soft_solve(problem, temperature, form)
    assert_optimal(problem, soft)
    again = al.soft_solve(problem, temperature, form)
    np.testing.assert_array_equal(soft.allocation, again.allocation)
    monkeypatch.setattr(normal_equations, "DIRECT", 10**6)
    monkeypatch.setattr(normal_equations, "SPARSE", 0.0)
    direct = al.soft_solve(problem, temperature, form)
    np.testing.assert_allclose(direct.allocation, soft.allocation, rtol=0, atol=1e-10)
    gradient = direct.vjp(upstream)
    np.testing.assert_allclose(soft.vjp(upstream), gradient, rtol=0, atol=1e-8 * np.abs(gradient).max())


def test_scores_over_twelve_orders_of_magnitude() -> None:
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(12, 15)) * 10.0 ** rng.integers(-6, 7, size=(12, 15))
    problem = al.balanced_choice(scores, 20, token_caps=3, feature_caps=2)
    for form in FORMS:
        assert_optimal(problem, al.soft_solve(problem, 1e-3, form), precision=1e-6)


def test_soft_prices_are_a_warm_start() -> None:
    problem = al.balanced_choice(np.random.default_rng(6).normal(size=(40, 50)), 90, token_caps=3, feature_caps=2)
    soft = al.soft_solve(problem, 0.01)
    warm = al.solve(problem, warm_start=soft.prices)
    assert al.verify(problem, warm).optimal
    assert warm.objective == al.solve(problem).objective


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problem": SCORES}, "problem: expected an allocation.Problem, found ndarray"),
        ({"temperature": 0}, "temperature: expected a positive finite number, found 0.0"),
        ({"temperature": -1.0}, "temperature: expected a positive finite number, found -1.0"),
        ({"temperature": np.nan}, "temperature: expected a positive finite number, found nan"),
        ({"temperature": np.inf}, "temperature: expected a positive finite number, found inf"),
        ({"temperature": "warm"}, "temperature: expected a positive finite number, found 'warm'"),
        ({"temperature": True}, "temperature: expected a positive finite number, found True"),
        ({"temperature": None}, "temperature: expected a positive finite number, found None"),
        (
            {"temperature": 1e-20},
            "temperature: expected at least 2e-14 beside scores up to 2, found 1e-20; .* al.solve",
        ),
        ({"form": "soft"}, "form: expected 'entropy' or 'clipped', found 'soft'"),
        ({"form": None}, "form: expected 'entropy' or 'clipped', found None"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(al.InvalidProblemError, match=message):
        al.soft_solve(**{"problem": al.token_choice(SCORES, 1), "temperature": 0.5, **arguments})


@pytest.mark.parametrize(
    ("cotangent", "message"),
    [
        (np.ones((3, 2)), r"cotangent: expected the allocation's shape \(2, 3\), found \(3, 2\)"),
        (None, r"cotangent: expected an array of shape \(2, 3\), found None"),
        ("up", "cotangent: expected real numbers, found dtype <U2"),
        (
            [[0, 0, 0], [0, np.nan, np.inf]],
            r"cotangent: expected finite entries, found that 2 entries are not finite, the first at \(1, 1\) \(nan\)",
        ),
    ],
)
def test_bad_cotangents_are_named(cotangent: Any, message: str) -> None:
    with pytest.raises(al.InvalidProblemError, match=message):
        al.soft_solve(al.token_choice(SCORES, 1), 0.5).vjp(cotangent)


def test_floors_and_groups_are_refused() -> None:
    problem = al.Problem(SCORES, token_floors=1, feature_groups=[al.Group([0, 1], cap=1)])
    with pytest.raises(
        al.UnsupportedProblemError, match=r"budget and caps only, found token_floors and feature_groups"
    ):
        al.soft_solve(problem, 0.5)
    harmless = al.soft_solve(al.Problem(SCORES, token_caps=1, token_floors=0), 0.5)
    np.testing.assert_array_equal(harmless.allocation, al.soft_solve(al.token_choice(SCORES, 1), 0.5).allocation)


def test_an_unfinished_solve_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "MOST_STEPS", 1)
    with pytest.raises(al.NotCertifiedError, match=r"still off by .* of its cap; raise the temperature 0\.01"):
        al.soft_solve(al.token_choice(SCORES, 1), 0.01)


def test_soft_solutions_read_well_at_a_prompt() -> None:
    text = repr(al.soft_solve(al.token_choice(SCORES, 1), 0.5))
    assert text.startswith("SoftSolution(2 tokens x 3 features, entropy, temperature 0.5, 2 matches, objective ")
    assert text.endswith("2 tight limits, OPTIMAL)")


@given(any_case(max_side=5, min_side=1), st.sampled_from(["entropy", "clipped"]))
def test_lines_without_an_edge_cost_no_memory(case: Any, form: str) -> None:
    """The shares, prices and derivative of the whole matrix, from the lines that have an edge."""
    scores, limits = case
    limits = {name: limit for name, limit in limits.items() if name in ("budget", "token_caps", "feature_caps")}
    tokens, features = np.nonzero(np.asarray(scores, np.float64) > -np.inf)
    edges = al.Problem.from_edges(tokens, features, scores[tokens, features], scores.shape, **limits)
    whole = al.soft_solve(edges, 0.5, form)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solving, "MANY_PAIRS", 0)
        part = al.soft_solve(edges, 0.5, form)
    assert part._shares.shape == tuple(np.unique(ends).size for ends in (tokens, features))
    upstream = np.arange(tokens.size) % 3 - 1.0
    for one, two in (
        (part.allocation, whole.allocation),
        (part.token_counts, whole.token_counts),
        (part.feature_counts, whole.feature_counts),
        (part.vjp(upstream), whole.vjp(upstream)),
        *(
            (np.asarray(getattr(part.prices, name).value), np.asarray(price.value))
            for name, price in vars(whole.prices).items()
        ),
    ):
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


def test_few_edges_among_millions_of_lines_are_solved_and_too_many_pairs_refused() -> None:
    lines = 10**6
    soft = al.soft_solve(al.Problem.from_edges([3], [7], [1.0], (lines, lines), budget=1, token_caps=1), 0.5)
    assert soft.allocation.shape == (1,)
    assert soft.token_counts[3] == soft.feature_counts[7] == soft.allocation[0]
    diagonal = al.Problem.from_edges(np.arange(lines), np.arange(lines), np.ones(lines), (lines, lines), budget=3)
    with pytest.raises(
        al.UnsupportedProblemError, match=r"1000000 x 1000000 with an edge, which take 2\.98e\+04 GiB; use al"
    ):
        al.soft_solve(diagonal, 0.5)
