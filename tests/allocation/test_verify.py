"""The certificate must refuse wrong answers: a check that accepts everything proves nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import allocation as al
from tests.allocation.strategies import one_sided

RNG = np.random.default_rng(0)
SCORES = RNG.permutation(np.arange(1.0, 49.0)).reshape(6, 8)


def claim(problem: al.Problem, mask: np.ndarray[Any, Any], budget: float = 0.0, **prices: Any) -> SimpleNamespace:
    """A made-up answer: any matches with any prices."""
    tokens, features = np.nonzero(mask)
    zeros = {"tokens": problem.shape[0], "features": problem.shape[1]}
    zeros |= {"token_groups": len(problem.token_groups), "feature_groups": len(problem.feature_groups)}
    made = {name: SimpleNamespace(value=np.asarray(prices.get(name, np.zeros(n)), float)) for name, n in zeros.items()}
    return SimpleNamespace(
        tokens=tokens,
        features=features,
        values=problem.scores[tokens, features],
        prices=SimpleNamespace(budget=SimpleNamespace(value=budget), **made),
    )


def refused(problem: al.Problem, answer: Any, because: str) -> None:
    certificate = al.verify(problem, answer)
    assert not certificate.optimal
    assert any(because in violation for violation in certificate.violations), certificate


def test_the_empty_answer_with_a_price_above_every_score_is_refused() -> None:
    problem = al.mutual_choice(SCORES, 5)
    refused(problem, claim(problem, SCORES < 0, budget=100.0), "its cap is not reached")


def test_one_match_too_few_is_refused() -> None:
    problem = al.mutual_choice(SCORES, 5)
    refused(problem, claim(problem, SCORES > 44, budget=44.0), "its cap is not reached")
    refused(problem, claim(problem, SCORES > 44, budget=0.0), "score above their prices")


def test_a_better_looking_infeasible_answer_is_refused() -> None:
    problem = al.mutual_choice(SCORES, 5)
    answer = claim(problem, SCORES > 42, budget=42.0)
    refused(problem, answer, "above its cap 5")
    assert al.verify(problem, answer).gap == np.inf


def test_a_match_swapped_for_a_worse_one_is_refused() -> None:
    problem = al.mutual_choice(SCORES, 5)
    mask = (SCORES > 44) | (SCORES == 43)
    for price in (42.0, 43.0, 43.5, 44.0):
        refused(problem, claim(problem, mask, budget=price), "better than")


@given(one_sided(), st.integers(0, 5), st.floats(0.25, 8), st.booleans())
def test_prices_outside_their_interval_are_refused(
    case: tuple[Any, dict[str, Any]], index: int, by: float, down: bool
) -> None:
    scores, limits = case
    problem = al.Problem(scores, **limits)
    solution = al.solve(problem)
    prices = {name: np.array(getattr(solution.prices, name).value) for name in ("budget", "tokens", "features")}
    name = next(iter(limits)).replace("_caps", "s")
    assume(prices[name].size > index or name == "budget")
    interval = getattr(solution.prices, name)
    at = () if name == "budget" else index
    lower, upper = np.asarray(interval.lower)[at], np.asarray(interval.upper)[at]
    assume(down or np.isfinite(upper))
    prices[name][at] = lower - by if down else upper + by
    budget = float(prices.pop("budget"))
    assert not al.verify(problem, claim(problem, solution.mask(), budget, **prices)).optimal


def test_a_binding_group_without_its_price_is_refused() -> None:
    problem = al.Problem(SCORES, token_groups=[al.Group([0, 1, 2], cap=2)], token_caps=3)
    solution = al.solve(problem)
    assert al.verify(problem, solution).optimal
    assert solution.prices.token_groups.value[0] > 0
    answer = claim(problem, solution.mask(), tokens=solution.prices.tokens.value)
    refused(problem, answer, "score above their prices")


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"tokens": np.array([0, 9])}, "a match names token 9, outside 0..5"),
        ({"features": np.array([-1, 1])}, "a match names feature -1"),
        ({"tokens": np.array([1, 0])}, "out of (token, feature) order"),
        ({"tokens": np.array([0, 0]), "features": np.array([1, 1])}, "repeats an earlier one"),
        ({"tokens": np.array([0])}, "have shapes"),
        ({"values": np.array([0.5, 0.5])}, "but the score there is"),
        ({"tokens": np.array([0, 5]), "features": np.array([0, 7])}, "is forbidden"),
    ],
)
def test_malformed_answers_are_named(change: dict[str, Any], because: str) -> None:
    scores = SCORES.copy()
    scores[5, 7] = -np.inf
    problem = al.mutual_choice(scores, 2)
    answer = claim(problem, scores > 46)
    refused(problem, SimpleNamespace(**{**vars(answer), **change}), because)


def test_unreached_floors_and_their_prices_are_named() -> None:
    problem = al.Problem(SCORES, token_floors=2, feature_caps=3)
    empty = claim(problem, SCORES < 0)
    refused(problem, empty, "tokens[0] holds 0 matches, below its floor 2, and 5 more")
    full = claim(problem, SCORES > 0, tokens=np.full(6, -1.0))
    refused(problem, full, "has price -1 but its floor is not reached (8)")
    for senseless in (np.nan, np.inf, -np.inf, 1e308, -1e308):
        refused(problem, claim(problem, SCORES < 0, tokens=np.full(6, senseless)), f"has the price {senseless}")
        refused(problem, claim(problem, SCORES < 0, budget=senseless), f"has the price {senseless}")
    wide = al.Problem(SCORES, token_caps=2**63 - 1)
    refused(wide, claim(wide, SCORES < 0, tokens=np.full(6, 1e290)), "has the price 1e+290")


@pytest.mark.parametrize("far", [1e18, 1e100, 1e280])
def test_prices_whose_rounding_hides_a_lost_optimum_are_refused(far: float) -> None:
    """Where all caps equal floors the sides may trade any price, and the sums come out even but for rounding."""
    problem = al.Problem(SCORES[:, :6] + 0.5, token_caps=1, token_floors=1, feature_caps=1, feature_floors=1)
    poor = claim(problem, np.eye(6, dtype=bool), tokens=np.full(6, far), features=np.full(6, -far))
    assert poor.values.sum() < al.solve(problem).objective
    refused(problem, poor, "rounding in them hides a gap")


@pytest.mark.parametrize("scale", [0.0, 1e-20, -1e-20, 1e20])
def test_equal_scores_have_prices_of_their_own_size(scale: float) -> None:
    """Or the certificate's rounding bound would exceed the objective."""
    counts = np.random.default_rng(0).random((40, 20)) < 0.03
    totals = {n: int(counts[:, :n].sum()) for n in (20, 10, 5)}
    groups = [al.Group(range(n), cap=total, floor=total) for n, total in totals.items()]
    limits = {"token_caps": counts.sum(1), "feature_caps": counts.sum(0), "feature_groups": groups}
    problem = al.Problem(np.full((40, 20), scale), **limits)
    certificate = al.verify(problem, al.solve(problem))
    assert certificate.optimal
    assert certificate.tolerance <= 1e-11 * abs(scale) + 1e-280


IDLE: dict[str, dict[str, Any]] = {
    "one side": {"token_caps": 3},
    "one side, a floor met elsewhere": {"token_floors": 1},
    "both sides": {"token_caps": 3, "feature_caps": 2},
    "both sides, floors met elsewhere": {"token_floors": 1, "feature_caps": 2, "feature_floors": [1, 0, 0]},
    "groups": {"token_groups": [al.Group([0, 1], floor=1), al.Group([], floor=0)], "feature_caps": 2},
}


@pytest.mark.parametrize("limits", IDLE.values(), ids=IDLE)
def test_a_match_of_score_0_that_no_floor_needs_is_refused_on_one_side_and_on_both(limits: dict[str, Any]) -> None:
    problem = al.Problem([[2.0, 0.0, -1.0], [1.0, -0.0, -np.inf]], **limits)
    best = np.array([[True, False, False], [True, False, False]])
    assert al.verify(problem, claim(problem, best)).optimal
    for at in ((0, 1), (1, 1)):
        more = best.copy()
        more[at] = True
        refused(
            problem, claim(problem, more), f"0 or less though no floor needs them, such as token {at[0]}, feature 1"
        )
    needed = al.Problem([[2.0, 0.0, -1.0], [1.0, -0.0, -np.inf]], **{**limits, "feature_floors": [0, 1, 0]})
    forced = best.copy()
    forced[0, 1] = True
    assert al.verify(needed, claim(needed, forced)).optimal
    forced[1, 1] = True
    refused(needed, claim(needed, forced), "no floor needs them")


@pytest.mark.parametrize("side", ["token", "feature"])
def test_a_negative_price_needs_a_floor_on_lines_and_groups_alike(side: str) -> None:
    """Where nothing is matched a floor of 0 is reached, and one that is not given is not."""
    scores = np.array([[1.0, 1.0], [-np.inf, -np.inf]])
    scores = scores if side == "token" else scores.T.copy()
    best, negative = scores > 0, np.array([0.0, -1.0])
    for cap in (None, 3):
        for floor in (None, 0):
            group = {f"{side}_groups": [al.Group([0, 1]), al.Group([1], cap=cap, floor=floor)]}
            line = {f"{side}_{kind}s": limit for kind, limit in (("cap", cap), ("floor", floor)) if limit is not None}
            for limits, name in ((group, f"{side}_groups"), (line, f"{side}s")):
                problem = al.Problem(scores, **limits)
                answer = claim(problem, best, **{name: negative})
                if floor is None:
                    refused(problem, answer, f"{name}[1] has price -1 but its floor is not reached (0)")
                else:
                    assert al.verify(problem, answer).optimal


def test_the_gap_is_the_distance_to_the_optimum() -> None:
    """With dual prices of the optimum and a suboptimal feasible answer, the gap is what the answer lacks."""
    problem = al.mutual_choice(SCORES, 3)
    best = al.solve(problem)
    worse = claim(problem, (SCORES > 46) | (SCORES == 40), budget=float(best.prices.budget.value))
    certificate = al.verify(problem, worse)
    assert certificate.gap == best.objective - worse.values.sum() == 6.0


def test_products_of_limits_and_prices_beyond_53_bits_are_summed_exactly() -> None:
    scores = 2**49 - np.random.default_rng(0).integers(0, 2**30, (48, 64))
    problem = al.Problem(scores, token_groups=[al.Group(range(48), cap=1023)])
    certificate = al.verify(problem, al.solve(problem))
    assert certificate == al.Certificate(True, 0.0, 0.0, ())
    best = al.solve(problem)
    mask = best.mask()
    taken, left = tuple(np.argwhere(mask)[0]), tuple(np.argwhere(~mask)[0])
    mask[taken], mask[left] = False, True
    worse = claim(problem, mask, token_groups=best.prices.token_groups.value)
    assert al.verify(problem, worse).gap == scores[taken] - scores[left]


@pytest.mark.parametrize(
    ("prices", "held"), [([2.0**50 - 1, 1 - 2.0**50], True), ([2.0**53, 1.0, -(2.0**53), -1.0], False)]
)
def test_deep_nesting_is_exact_only_where_the_sums_of_prices_are(prices: list[float], held: bool) -> None:
    problem = al.Problem([[2**49]], token_groups=[al.Group([0], cap=1, floor=1)] * 20)
    nested = np.tile(prices, 20 // len(prices))
    nested[-1] += 2**49 - nested.sum()  # the price of the match is its score
    certificate = al.verify(problem, claim(problem, np.ones((1, 1), bool), token_groups=nested))
    assert certificate.optimal
    assert (certificate.tolerance == 0) == held


@pytest.mark.parametrize("limits", [{"budget": 1}, {"token_caps": 1}, {"feature_caps": [1, 0]}])
@pytest.mark.parametrize("kind", [np.int64, np.uint64])
@pytest.mark.parametrize("sparse", [False, True])
def test_integers_that_float64_cannot_tell_apart_are_compared_as_they_are(
    limits: dict[str, Any], kind: type, sparse: bool
) -> None:
    by_feature = "feature_caps" in limits
    scores = np.array([[2**60 + 1, 0], [2**60, 5]] if by_feature else [[2**60, 2**60 + 1]], kind)
    problem = al.Problem(scores, **limits)
    if sparse:
        tokens, features = np.indices(scores.shape).reshape(2, -1)
        problem = al.Problem.from_edges(tokens, features, scores.reshape(-1), scores.shape, **limits)
    solution = al.solve(problem)
    assert solution.values.tolist() == [2**60 + 1]
    assert al.verify(problem, solution) == al.Certificate(True, 0.0, 0.0, ())
    at = np.array([int(by_feature)]), np.array([0])
    worse = {"tokens": at[0], "features": at[1], "values": scores[at], "prices": solution.prices}
    refused(problem, SimpleNamespace(**worse), "better than" if "budget" in limits else "worse than")
    false = {**worse, "tokens": solution.tokens, "features": solution.features}
    refused(problem, SimpleNamespace(**false), "values[0] is 1152921504606846976, but the score there is")
