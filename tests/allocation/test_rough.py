"""Rough scores with a bound: the answer for the exact ones, from few of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import allocation as al
from allocation.solvers import guess
from tests.allocation.strategies import Limits, Matrix, any_case, nested, one_sided

SIZES = st.sampled_from([0.0, 0.0, 1 / 64, 0.5, 2.0, 64.0])


class Oracle:
    """Exact scores of pairs from a matrix; remembers what it was asked for."""

    def __init__(self, scores: Matrix) -> None:
        self.scores, self.calls = scores, 0
        self.asked: list[tuple[int, int]] = []

    def __call__(self, tokens: Any, features: Any) -> Matrix:
        self.calls += 1
        self.asked += zip(tokens.tolist(), features.tolist(), strict=True)
        return self.scores[tokens, features]


@st.composite
def rough_cases(
    draw: st.DrawFn, cases: st.SearchStrategy[tuple[Matrix, Limits]]
) -> tuple[Matrix, al.Rough, Oracle, Limits]:
    """Exact scores, and rough ones whose errors use a part of the bound or all of it."""
    scores, limits = draw(cases)
    scores = np.ascontiguousarray(scores).astype(np.float32)
    rows, columns = scores.shape
    per_token = np.array(draw(st.lists(SIZES, min_size=rows, max_size=rows)), np.float64)
    per_feature = np.array(draw(st.lists(SIZES, min_size=columns, max_size=columns)), np.float64)
    share = draw(st.sampled_from([-1.0, 1.0, 0.5, None]))
    seed = draw(st.integers(0, 2**16))
    shares = np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], scores.shape) if share is None else share
    approximate = scores + shares * np.multiply.outer(per_token, per_feature)
    oracle = Oracle(scores)
    relative = draw(st.sampled_from([0.0, 0.25]))
    rough = al.Rough(
        approximate.astype(draw(st.sampled_from([np.float32, np.float64]))), (per_token, per_feature, relative), oracle
    )
    return scores, rough, oracle, limits


def both(case: tuple[Matrix, al.Rough, Oracle, Limits], **options: Any) -> tuple[al.Solution, al.Solution]:
    """The answers for the exact scores, given and asked for; the same error is as good."""
    scores, rough, oracle, limits = case
    whole = al.solve(al.Problem(scores, **limits), throw=False, **options)
    oracle.asked.clear()
    found = al.solve(al.Problem(rough, **limits), throw=False, **options)
    assert found.status is whole.status
    assert str(found.error) == str(whole.error)
    if found.error is None:
        assert len(oracle.asked) == len(set(oracle.asked))
    return whole, found


def assert_same_matches(whole: al.Solution, found: al.Solution) -> None:
    for name in ("tokens", "features", "values"):
        one, other = getattr(whole, name), getattr(found, name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other), name


def assert_same_intervals(whole: al.Solution, found: al.Solution) -> None:
    for name, price in vars(whole.prices).items():
        for end in ("lower", "upper"):
            one, other = getattr(price, end), getattr(getattr(found.prices, name), end)
            assert np.array_equal(one, other), (name, end)


@given(rough_cases(one_sided(max_side=8)))
def test_top_selection_is_that_of_the_exact_scores(case: tuple[Matrix, al.Rough, Oracle, Limits]) -> None:
    scores, rough, _, limits = case
    whole, found = both(case)
    assert_same_matches(whole, found)
    assert_same_intervals(whole, found)
    for name, price in vars(whole.prices).items():
        assert np.array_equal(price.value, getattr(found.prices, name).value)
    assert al.verify(al.Problem(rough, **limits), found).optimal
    assert al.verify(al.Problem(scores, **limits), found).optimal


@given(rough_cases(nested(max_side=6)))
def test_nested_limits_are_met_for_the_exact_scores(case: tuple[Matrix, al.Rough, Oracle, Limits]) -> None:
    scores, rough, _, limits = case
    whole, found = both(case)
    if whole.error is None:
        assert_same_matches(whole, found)
        assert_same_intervals(whole, found)
        assert al.verify(al.Problem(rough, **limits), found).optimal
        assert al.verify(al.Problem(scores, **limits), found).optimal


def test_a_large_score_that_no_price_reaches_does_not_spoil_the_proof() -> None:
    """A floor takes the budget at score 0: prices as large as the score that is left out prove it."""
    scores = np.zeros((3, 5), np.float32)
    scores[2, 4] = 1.0
    limits: Limits = {"token_caps": 1, "token_floors": [0, 1, 0], "feature_caps": 1, "budget": 1}
    problem = al.Problem(al.Rough(scores, (0.0, 0.0), Oracle(scores)), **limits)
    assert al.verify(problem, al.solve(problem)).optimal


def test_two_rounds_of_prices_do_not_vouch_for_the_lowest_of_both() -> None:
    """With limits on both sides the edges above the prices of two rounds are not those above the lower of each."""
    scores = np.array([[0, 0, 0, 0, 0], [0, 2, 3, 0, 5], [0, 0, 0, 2, 4]], np.float32)
    near = scores.copy()
    near[0, 0] = -32.0
    limits: Limits = {"token_caps": [1, 3, 2], "feature_caps": [2, 1, 2, 1, 1], "feature_floors": [2, 1, 1, 1, 1]}
    problem = al.Problem(al.Rough(near, ([0.5, 0, 0], [64.0, 0, 0, 0, 0]), Oracle(scores)), budget=6, **limits)
    solution = al.solve(problem)
    assert solution.stats["rounds"] > 1
    assert al.verify(problem, solution).optimal


@given(rough_cases(one_sided(max_side=8) | nested(max_side=8)), st.integers(0, 2**16), st.booleans())
def test_a_guess_however_wrong_changes_no_answer(
    case: tuple[Matrix, al.Rough, Oracle, Limits], seed: int, warm: bool
) -> None:
    """The shortcuts of large matrices, on small ones: samples, maxima of blocks, and expected prices of any size."""
    scores, _, _, limits = case
    draw, (rows, columns) = np.random.default_rng(seed), scores.shape
    none = al.Price(np.zeros(0))
    sizes = draw.choice([0.0, 0.5, 3.0, 100.0]) * draw.normal(size=columns)
    expected = al.Prices(al.Price(float(sizes.sum())), al.Price(np.zeros(rows)), al.Price(sizes), none, none)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guess, "SAMPLE", 0)
        patch.setattr(guess, "BLOCKS", 2)
        patch.setattr(guess, "MOST", 2)
        whole, found = both(case, warm_start=expected if warm else None)
    if whole.error is None:
        assert_same_matches(whole, found)
        assert al.verify(al.Problem(scores, **limits), found).optimal


@given(rough_cases(one_sided(max_side=8)), st.integers(0, 2**16))
def test_what_exceeds_thresholds_exceeds_them_exactly(case: tuple[Matrix, al.Rough, Oracle, Limits], seed: int) -> None:
    scores, rough, oracle, limits = case
    draw = np.random.default_rng(seed)
    theta = draw.choice([-8.0, 0.0, 0.5, 2.0], scores.shape[1])
    if scores.size:  # some at a score
        at_score = scores[draw.integers(scores.shape[0], size=theta.size), np.arange(theta.size)]
        theta = np.where(draw.random(theta.size) < 0.5, at_score, theta)
        theta[0] = draw.choice([-np.inf, np.inf, 1.0])
    if draw.random() < 0.5:
        al.solve(al.Problem(rough, **limits), throw=False)  # what it found out may be used
    tokens, features, values = al.exceeding(rough, theta)
    above = (scores > theta) & (scores > -np.inf)
    assert np.array_equal(np.stack([tokens, features]), np.stack(above.nonzero()))
    assert np.array_equal(values, scores[above])
    oracle.asked.clear()
    assert np.array_equal(al.count_exceeding(rough, theta), above.sum(axis=0))
    for token, feature in oracle.asked:  # only in doubt
        bound = rough.errors_at(*(np.array([end]) for end in (token, feature)), np.abs(scores[token, [feature]]) * 4)
        assert abs(scores[token, feature] - theta[feature]) <= 2 * bound[0] + 1e-6


def test_half_precision_next_to_nothing() -> None:
    """A threshold between 0 and the smallest number of a type has no bit pattern of its own."""
    unit = 2.0**-24
    scores = np.full((4, 3), -1.0)
    scores[:, 0] = [1 * unit, 2 * unit, 3 * unit, 4 * unit]
    for share in (0.2, 0.9, 1.01, 1.4, 2.5):
        rough = al.Rough(scores.astype(np.float16), (0.0, 0.0), Oracle(scores))
        assert np.array_equal(al.exceeding(rough, share * unit)[0], np.flatnonzero(scores[:, 0] > share * unit))


@pytest.mark.parametrize("limits", [{"budget": 10}, {"token_caps": 2}, {"feature_caps": 2}], ids=str)
@pytest.mark.parametrize("relative", [1.0, 1.5])
def test_a_relative_error_may_turn_the_sign(limits: Limits, relative: float) -> None:
    scores = np.random.default_rng(0).normal(size=(40, 12))
    scores[7, 3] = 4.9 if relative > 1 else -0.1
    near = scores.copy()
    near[7, 3] = -10.0
    near[8, 2] = scores[8, 2] = -np.inf
    whole = al.solve(al.Problem(scores, **limits))
    found = al.solve(al.Problem(al.Rough(near, (0.0, 0.0, relative), Oracle(scores)), **limits))
    assert_same_matches(whole, found)


def test_thresholds_are_numbers() -> None:
    rough = al.Rough(np.ones((2, 3)), (0.0, 0.0), lambda i, j: np.ones(len(i)))
    for wrong in (np.nan, [1.0, 2.0], "x"):
        with pytest.raises(al.InvalidProblemError, match="theta: expected a number or 3 numbers"):
            al.exceeding(rough, wrong)


@given(rough_cases(any_case(max_side=5)))
def test_limits_on_both_sides_are_met_for_the_exact_scores(case: tuple[Matrix, al.Rough, Oracle, Limits]) -> None:
    scores, rough, _, limits = case
    whole, found = both(case)
    if whole.error is None:
        assert found.objective == whole.objective
        assert_same_intervals(whole, found)
        assert al.verify(al.Problem(rough, **limits), found).optimal
        assert al.verify(al.Problem(scores, **limits), found).optimal


@given(rough_cases(one_sided(max_side=8, sides=("none", "feature_caps"))), st.integers(1, 4))
def test_a_stream_of_rough_blocks_is_that_of_the_exact_ones(
    case: tuple[Matrix, al.Rough, Oracle, Limits], parts: int
) -> None:
    scores, rough, oracle, limits = case
    blocks = []
    for rows in np.array_split(np.arange(len(scores)), parts):
        start = int(rows[0]) if rows.size else 0

        def exact(tokens: Any, features: Any, start: int = start) -> Matrix:
            return oracle(tokens + start, features)

        errors = (rough.per_token[rows], rough.per_feature, rough.relative)
        blocks.append(al.Rough(rough.approximate.array[rows], errors, exact))
    whole = al.select_stream(np.array_split(scores, parts), limits.get("budget"), limits.get("feature_caps"))
    found = al.select_stream(blocks, limits.get("budget"), limits.get("feature_caps"))
    assert_same_matches(whole, found)
    assert_same_intervals(whole, found)


@given(rough_cases(nested(max_side=6, agreed=True)), st.randoms())
def test_an_altered_answer_is_refused(case: tuple[Matrix, al.Rough, Oracle, Limits], draw: Any) -> None:
    """As `verify` refuses it of the exact scores."""
    scores, rough, _, limits = case
    problem = al.Problem(rough, **limits)
    solution = al.solve(problem, throw=False)
    if solution.error is not None or not len(solution.tokens):
        return
    keep = np.ones(len(solution.tokens), bool)
    keep[draw.randrange(keep.size)] = False
    altered = al.Solution.optimal(
        problem, (solution.tokens[keep], solution.features[keep], solution.values[keep]), solution.prices
    )
    expected = al.verify(al.Problem(scores, **limits), altered)
    assert al.verify(problem, altered).optimal == expected.optimal


def products(seed: int = 0, tokens: int = 200, features: int = 700, width: int = 48) -> tuple[al.Rough, Oracle]:
    """A product in bfloat16 with the error that rounding its factors leaves, and the one that stands for the truth."""
    draw = torch.Generator().manual_seed(seed)
    x, w = torch.randn(tokens, width, generator=draw), torch.randn(features, width, generator=draw)
    near = x.bfloat16().double() @ w.bfloat16().double().T
    exact = (x.double() @ w.double().T).float().numpy()
    dx, dw = (x - x.bfloat16()).double().norm(dim=1), (w - w.bfloat16()).double().norm(dim=1)
    # two products of norms in one: with s = 2^-9, |dx| |w| + |x^| |dw| <= (|dx| / s + |x^|) max(s |w|, |dw|)
    s = 2.0**-9
    per_token = dx / s + x.bfloat16().double().norm(dim=1)
    per_feature = torch.maximum(s * w.double().norm(dim=1), dw)
    oracle = Oracle(exact)
    return al.Rough(near.bfloat16(), (per_token.numpy(), per_feature.numpy(), 2.0**-7), oracle), oracle


LIMITS: list[Limits] = [
    {"budget": 1600},
    {"token_caps": 8},
    {"feature_caps": 3},
    {"feature_floors": 1, "budget": 1600},
    {"token_caps": 12, "token_floors": 2, "budget": 1600},
    {"token_caps": 12, "feature_caps": 9, "feature_floors": 1, "budget": 1600},
]


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: "+".join(limits))
def test_a_cheap_product_needs_few_exact_scores(limits: Limits) -> None:
    rough, oracle = products()
    problem, whole = al.Problem(rough, **limits), al.solve(al.Problem(oracle.scores, **limits))
    oracle.asked.clear()
    oracle.calls = 0
    found = al.solve(problem)
    assert np.array_equal(found.mask(), whole.mask())
    assert found.stats["evaluated"] == len(set(oracle.asked)) == len(oracle.asked)
    assert found.stats["evaluated"] < 2.5 * len(found.tokens) < 0.1 * oracle.scores.size
    assert oracle.calls <= 4
    assert al.verify(problem, found).optimal


def test_start_threads_and_order_of_work_change_nothing() -> None:
    rough, _ = products()
    problem = al.Problem(rough, budget=1600)
    first = al.solve(problem)
    for options in ({"warm_start": first.prices}, {"workers": 1}, {"workers": 3}, {"max_seconds": 60.0}):
        assert_same_matches(first, al.solve(problem, **options))  # type: ignore[arg-type]
    assert_same_matches(first, al.solve(problem, al.TopSelection()))


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: "+".join(limits))
def test_a_bound_that_says_nothing_is_exact_too(limits: Limits) -> None:
    _, oracle = products(tokens=40, features=60)
    limits = limits | {name: 90 for name in limits if name == "budget"}
    whole = al.solve(al.Problem(oracle.scores, **limits))
    for bound, kind in ((1e3, np.float64), (1e3, np.float32), (1e200, np.float32), (1e200, np.float64)):
        found = al.solve(al.Problem(al.Rough(np.zeros((40, 60), kind), (bound, 1.0), oracle), **limits))
        assert found.objective == whole.objective
        assert found.stats["evaluated"] == 40 * 60


def test_a_broken_bound_names_the_pair() -> None:
    exact = np.array([[1.0, 2.0], [3.0, 0.5]])
    rough = al.Rough(np.array([[1.0, 2.0], [3.25, 0.5]]), (0.125, 1.0), Oracle(exact))
    with pytest.raises(al.InvalidProblemError, match=r"error: expected a bound .* token 1, feature 0: exact 3, approx"):
        al.solve(al.Problem(rough, budget=1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda near, exact: al.Rough(near, 0.1, exact), "error: expected .per_token, per_feature"),
        (lambda near, exact: al.Rough(near, (0.1, [1.0]), exact), r"error\[1\]: expected a number or 2 numbers"),
        (lambda near, exact: al.Rough(near, (-1, 1), exact), r"error\[0\]: expected finite numbers of 0 or more"),
        (lambda near, exact: al.Rough(near, (1, np.nan), exact), r"error\[1\]: expected finite numbers of 0 or more"),
        (lambda near, exact: al.Rough(near, (1, 1, -0.5), exact), r"error\[2\]: expected 0 or more"),
        (lambda near, exact: al.Rough(near.astype(int), (1, 1), exact), "approximate: expected floats, found int64"),
        (lambda near, exact: al.Rough(near * np.nan, (1, 1), exact), "approximate: expected finite scores"),
        (lambda near, exact: al.Rough(near, (1, 1), "exact"), "exact: expected a function"),
        (
            lambda near, exact: al.Rough(near, (1, 1), lambda i, j: exact(i, j)[:-1]),
            "exact.tokens, features.: exp.* in a",
        ),
        (lambda near, exact: al.Rough(near, (1, 1), lambda i, j: exact(i, j).astype(int)), "exp.* floats, found int64"),
        (lambda near, exact: al.Rough(near, (1, 1), lambda i, j: exact(i, j) * np.nan), "error: expected a bound on"),
    ],
)
def test_bad_input_gets_one_sentence(make: Callable[..., al.Rough], message: str) -> None:
    scores = np.array([[1.0, 2.0], [3.0, 0.5]])
    with pytest.raises(al.InvalidProblemError, match=message):
        al.solve(al.Problem(make(scores, Oracle(scores)), budget=2))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_exact_scores_keep_their_type(kind: torch.dtype) -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, 0.5]], dtype=kind)
    rough = al.Rough(scores.double() + 0.25, (0.25, 1.0), lambda i, j: scores[i, j])
    found, whole = (al.solve(al.Problem(one, budget=3)) for one in (rough, scores))
    assert_same_matches(whole, found)


def test_what_reads_every_score_gets_every_score() -> None:
    _, oracle = products(tokens=6, features=9)
    rough = al.Rough(oracle.scores + np.float32(0.5), (0.5, 1.001), oracle)
    problem = al.Problem(rough, budget=7)
    assert repr(problem.matrix) == "Rough(6 tokens x 9 features, rough float32)"
    assert not oracle.asked
    assert np.array_equal(problem.scores, oracle.scores)
    assert "6 tokens x 9 features, rough float32, float32, budget=7" in repr(problem)
    assert al.soft_solve(problem, 0.5).value == al.soft_solve(al.Problem(oracle.scores, budget=7), 0.5).value
    assert al.solve(problem, al.LinearProgram()).objective == al.solve(problem).objective


def test_a_stream_holds_rough_blocks_or_others() -> None:
    rough, oracle = products(tokens=6, features=9)
    with pytest.raises(
        al.InvalidProblemError, match=r"chunks\[1\]: expected rough ones, as in the first, found scores"
    ):
        al.select_stream([rough, oracle.scores], budget=3)


def test_intervals_of_prices_have_the_seconds_of_the_solve() -> None:
    class Remembering(al.TwoSided):
        def solve(self, problem: al.Problem, options: al.Options) -> al.Solution:
            seen.append(options)
            return super().solve(problem, options)

    seen: list[al.Options] = []
    rough, _ = products(tokens=12, features=20)
    problem = al.Problem(rough, token_caps=2, feature_caps=1, feature_floors=1)
    prices = al.solve(problem, Remembering(), max_seconds=60.0, workers=1).prices
    solves = len(seen)
    assert bool(np.all(prices.features.lower <= prices.features.upper))
    assert [(options.max_seconds, options.workers) for options in seen[solves:]] == [(60.0, 1)]
