"""The search of `TwoSided` on problems that are too large for HiGHS: samples, bands, warm starts, deadlines."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import allocation as al
from allocation.solvers import work_limit
from allocation.solvers.two_sided import first_candidates, starting_point
from allocation.solvers.two_sided.dual_ascent import _extrapolated
from allocation.solvers.two_sided.pricing import AllEdges
from tests.allocation.min_cost_flow import best_value

SHAPE = (250, 400)
RNG = np.random.default_rng(7)
GENERIC = RNG.standard_normal(SHAPE)
SCORES: dict[str, np.ndarray[Any, Any]] = {
    "large integers": np.rint(GENERIC * 2**20).astype(np.int64),
    "0..3": RNG.integers(0, 4, SHAPE),
    "all equal": np.ones(SHAPE, np.int32),
    "all equal and negative": np.full(SHAPE, -2, np.int32),
    "skewed features": np.rint(GENERIC * 2**20 / np.arange(1, SHAPE[1] + 1)).astype(np.int64),
    "skewed tokens": np.rint(GENERIC * 2**20 / np.arange(1, SHAPE[0] + 1)[:, None]).astype(np.int64),
    "one feature wanted by all": np.rint(GENERIC * 2**10).astype(np.int64) + (np.arange(SHAPE[1]) == 5) * 2**16,
    "rank 3": np.rint(RNG.standard_normal((SHAPE[0], 3)) @ RNG.standard_normal((3, SHAPE[1])) * 2**16).astype(np.int64),
}
LIMITS: dict[str, dict[str, Any]] = {
    "budget, caps, floors": {"budget": 2000, "token_caps": 12, "token_floors": 3, "feature_caps": 9,
                             "feature_floors": 1},
    "caps of equal sum": {"token_caps": 8, "feature_caps": 5},
    "caps": {"token_caps": 8, "feature_caps": 6},
    "floors equal to caps": {"token_caps": 8, "token_floors": 8, "feature_caps": 5, "feature_floors": 5},
    "quotas": {"token_caps": 20, "feature_caps": al.zipf_quotas(2000, SHAPE[1], alpha=1.0, beta=5.0, tokens=SHAPE[0])},
}  # fmt: skip


@pytest.fixture(params=["sample of the tokens", "all tokens"])
def sampled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems of this size are searched like large ones."""
    if request.param == "sample of the tokens":
        monkeypatch.setattr(first_candidates, "SAMPLE", 1 << 10)


def certified(problem: al.Problem, **options: Any) -> al.Solution:
    solution = al.solve(problem, al.TwoSided(), **options)
    certificate = al.verify(problem, solution)
    assert certificate.optimal, certificate
    return solution


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("scores", SCORES)
def test_minimum_cost_flow_finds_no_better_value(scores: str, limits: str) -> None:
    problem = al.Problem(SCORES[scores], **LIMITS[limits])
    assert problem.scores.size > starting_point.SMALL
    assert certified(problem).objective == best_value(problem)


def drifting(step: int, limits: str = "budget, caps, floors") -> al.Problem:
    """The scores of a training run: each step changes them a little."""
    changes = np.random.default_rng(step).standard_normal(SHAPE) * 0.02
    return al.Problem(GENERIC + changes, **LIMITS[limits])


@pytest.mark.parametrize("limits", LIMITS)
def test_the_last_prices_halve_the_passes(limits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_candidates, "SAMPLE", 1 << 10)
    prices, cold, warm = None, [], []
    for step in range(6):
        problem = drifting(step, limits)
        first = certified(problem)
        if prices is not None:
            again = certified(problem, warm_start=prices)
            assert again.objective == pytest.approx(first.objective, rel=1e-13)
            cold.append(first.stats["passes"])
            warm.append(again.stats["passes"])
        prices = first.prices
    assert 2 * np.median(warm) <= np.median(cold), (warm, cold)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("scores", ["all equal", "0..3"])
def test_prices_that_misplace_most_matches_cost_no_pass(
    scores: str, limits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where noise has decided between equal scores, prices say nothing about other scores: a few tokens tell."""
    monkeypatch.setattr(first_candidates, "SAMPLE", 1 << 10)
    noisy = certified(al.Problem(SCORES[scores] + 1e-3 * GENERIC, **LIMITS[limits]))
    problem = al.Problem(SCORES[scores], **LIMITS[limits])
    cold, warm = certified(problem), certified(problem, warm_start=noisy.prices)
    assert warm.objective == cold.objective
    assert warm.stats["passes"] <= cold.stats["passes"]


WRONG = {
    "of other scores": lambda rng: (rng.standard_normal(SHAPE[0]), rng.standard_normal(SHAPE[1]), 1.0),
    "huge": lambda rng: (np.full(SHAPE[0], 1e300), np.full(SHAPE[1], -1e300), 1e300),
    "tiny": lambda rng: (np.full(SHAPE[0], 5e-324), np.full(SHAPE[1], 5e-324), 5e-324),
    "not numbers": lambda rng: (np.full(SHAPE[0], np.nan), np.full(SHAPE[1], np.inf), np.nan),
    "of another shape": lambda rng: (np.zeros(3), np.zeros(2), 0.0),
    "of one wild token": lambda rng: (np.eye(1, SHAPE[0], 17)[0] * 50, np.zeros(SHAPE[1]), 1.0),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_prices_change_only_the_time(wrong: str) -> None:
    def price(value: Any) -> al.Price:
        return al.Price(value, lambda: (value, value))

    tokens, features, budget = WRONG[wrong](np.random.default_rng(3))
    none = price(np.empty(0))
    prices = al.Prices(price(budget), price(tokens), price(features), none, none)
    for limits in LIMITS.values():
        problem = al.Problem(SCORES["large integers"], **limits)
        assert certified(problem, warm_start=prices).objective == certified(problem).objective


def test_out_of_time_is_an_error_with_the_best_gap() -> None:
    problem = al.Problem(GENERIC, token_caps=8, feature_caps=6)
    optimum = certified(problem).objective
    with pytest.raises(
        al.NotCertifiedError, match=r"stopped after 1e-09 seconds .* best gap is .* max_seconds="
    ) as told:
        al.solve(problem, max_seconds=1e-9)
    bound = float(re.findall(r"every allocation scores at most ([^,]+),", str(told.value))[0])
    assert bound >= optimum * (1 - 1e-5)
    failed = al.solve(problem, max_seconds=1e-9, throw=False)
    assert failed.status is al.Status.NOT_CERTIFIED
    with pytest.raises(al.NotCertifiedError, match="stopped after 1e-09 seconds"):
        failed.mask()


def test_a_deadline_holds_where_floors_leave_no_allocation_known() -> None:
    problem = al.Problem(GENERIC, **LIMITS["budget, caps, floors"])
    with pytest.raises(
        al.NotCertifiedError,
        match=r"stopped after 1e-09 seconds .* no allocation that meets the floors is known yet.* gap is infinite",
    ):
        al.solve(problem, max_seconds=1e-9)


def test_what_a_solve_may_visit_is_bounded_unless_seconds_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = al.Problem(GENERIC, token_caps=8, feature_caps=6)
    monkeypatch.setattr(work_limit, "FREE_VISITS", 0)
    monkeypatch.setattr(work_limit, "MOST_VISITS", 1)
    with pytest.raises(
        al.NotCertifiedError,
        match=r"stopped after \d+ visits to edges without a proof: .* best gap .* LinearProgram\(\)",
    ):
        al.solve(problem)
    certified(problem, max_seconds=600)


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("bits", [3, 20])
@pytest.mark.parametrize("limits", ["caps", "budget, caps, floors"])
def test_scores_that_differ_in_their_last_bits_are_solved_exactly(limits: str, bits: int) -> None:
    """Integers of 53 bits in units of 2^-52, of which their sums with prices hold every bit."""
    last = np.random.default_rng(bits).integers(0, 1 << bits, SHAPE)
    problem = al.Problem(1.0 + np.ldexp(last.astype(np.float64), -52), **LIMITS[limits])
    assert problem.matrix.n_edges > starting_point.SMALL
    solution = al.solve(problem)
    assert al.verify(problem, solution) == al.Certificate(True, 0.0, 0.0, ())
    shifted = (1 << 30) + last  # of as many matches, an integer programme knows it alike
    found = int(shifted[solution.tokens, solution.features].sum())
    assert found == best_value(al.Problem(shifted, **LIMITS[limits]))


def planned_limits(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Any]:
    """Limits close to the counts of a random allocation, with groups of features in groups."""
    planned = rng.random(shape) < 0.3 * rng.uniform(0.2, 2, (shape[0], 1))
    of_tokens, of_features = planned.sum(1), planned.sum(0)
    groups = []
    for size in (shape[1] // 2, shape[1] // 6):
        for start in range(0, shape[1], size):
            count = int(of_features[start : start + size].sum())
            groups.append(al.Group(range(start, min(start + size, shape[1])), cap=count + 1, floor=max(count - 1, 0)))
    return {
        "budget": int(of_tokens.sum()), "token_caps": of_tokens, "token_floors": np.maximum(of_tokens - 1, 0),
        "feature_caps": of_features + 1, "feature_floors": np.maximum(of_features - 1, 0), "feature_groups": groups,
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 9, 10])
def test_scores_over_two_hundred_orders_are_solved(seed: int) -> None:
    """No grid holds the largest and the smallest: what each leaves is solved for on the next."""
    rng = np.random.default_rng(seed)
    shape = (60, 48)
    scores = rng.standard_normal(shape) * 10.0 ** rng.uniform(-100, 100, shape)
    certified(al.Problem(scores, **planned_limits(rng, shape)))


@pytest.mark.parametrize("seed", [4, 127, 212, 262])
def test_scores_over_all_orders_of_float64_are_solved_step_by_step(seed: int) -> None:
    """From one grid to a much finer one paths need edges that no grid between had priced."""
    rng = np.random.default_rng(seed)
    shape = (9, 9)
    scores = rng.standard_normal(shape) * 10.0 ** rng.uniform(-290, 269, (9, 1) if seed % 2 else shape)
    planned = rng.random(shape) < rng.uniform(0.1, 0.6)
    of_tokens, of_features = planned.sum(1), planned.sum(0)
    caps = of_tokens + rng.integers(0, 2, 9)
    floors = np.maximum(of_features - rng.integers(0, 3, 9), 0)
    certified(al.Problem(scores, token_caps=caps, feature_caps=of_features, feature_floors=floors))


@pytest.mark.parametrize("seed", [6, 9])
def test_tokens_over_24_orders_take_few_phases(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (120, 150)
    scores = rng.standard_normal(shape) * 10.0 ** rng.uniform(-12, 12, (shape[0], 1))
    assert certified(al.Problem(scores, **planned_limits(rng, shape))).stats["phases"] < 500


@pytest.mark.usefixtures("sampled")
def test_groups_of_both_sides_on_a_large_problem() -> None:
    documents = [al.Group(range(n, n + 50), cap=450, floor=300) for n in range(0, 250, 50)]
    prefixes = [al.Group(range(100), floor=700), al.Group(range(20), cap=150), al.Group(range(200, 400), cap=500)]
    given = {"token_caps": 12, "feature_caps": 9, "budget": 2000}
    problem = al.Problem(GENERIC, **given, token_groups=documents, feature_groups=prefixes)
    solution = certified(problem)
    assert al.solve(al.Problem(GENERIC, **given)).objective > solution.objective
    assert np.count_nonzero(solution.prices.feature_groups.value)


def test_infeasible_on_a_large_problem_names_who_is_starved() -> None:
    scores = np.where(np.arange(SHAPE[1]) < 30, GENERIC, GENERIC - 9)
    scores[:, :3] = -np.inf
    floors = np.zeros(SHAPE[1], np.int64)
    floors[2] = 1
    with pytest.raises(
        al.InfeasibleError, match=r"features 2 \(1\) demand 1 match, more than the 0 that the 0 allowed"
    ):
        al.solve(al.Problem(scores, token_caps=4, feature_caps=5, feature_floors=floors))
    with pytest.raises(al.InfeasibleError, match=r"demand 1250 matches, more than the 1200 that the caps of features"):
        al.solve(al.Problem(GENERIC, token_floors=5, token_caps=8, feature_caps=3))


@pytest.mark.parametrize("sparse", [False, True], ids=["matrix", "candidate edges"])
def test_prices_far_from_the_scores_do_not_loosen_the_proof(sparse: bool) -> None:
    """Where caps equal floors the sides may trade any price: rounding in huge ones would hide a lost optimum."""
    scores = np.random.default_rng(0).standard_normal((6, 8))
    exact = {"token_caps": 4, "token_floors": 4, "feature_caps": 3, "feature_floors": 3}
    tokens, features = np.indices(scores.shape).reshape(2, -1)
    matrix = al.Problem(scores, **exact)
    problem = al.Problem.from_edges(tokens, features, scores.ravel(), shape=(6, 8), **exact) if sparse else matrix
    one, none = np.ones(1), np.empty(0)
    start = al.Prices(
        *(al.Price(value, lambda: (one, one)) for value in (0.0, np.full(6, 1e14), np.full(8, -1e14), none, none))
    )
    solution = certified(problem, warm_start=start)
    assert solution.objective == pytest.approx(al.solve(matrix, al.LinearProgram()).objective, rel=1e-12)
    assert al.verify(problem, solution).tolerance < 1e-11


def crowded(extra: float) -> np.ndarray[Any, Any]:
    """A few tokens hold most of the matches."""
    scores = np.random.default_rng(1).random((2000, 400)).astype(np.float32)
    scores[:100] += extra
    return scores


@pytest.mark.parametrize(
    ("extra", "limits"),
    [
        (0.0, {"token_caps": np.where(np.arange(2000) < 100, 300, 2), "feature_caps": 80}),
        (10.0, {"budget": 20_000, "token_caps": 300, "feature_caps": 90}),
    ],
)
def test_matches_do_not_crowd_violators_out_of_the_proof(extra: float, limits: dict[str, Any]) -> None:
    problem = al.Problem(crowded(extra), **limits)
    certificate = al.verify(problem, al.solve(problem))
    assert certificate.optimal, certificate.violations


def test_a_blocked_flow_finds_edges_beside_those_that_carry_flow() -> None:
    problem = al.Problem(np.eye(6) * 100.0, token_floors=2)
    edges, taken = AllEdges(problem, None), np.arange(6) * 7
    nothing = np.zeros(6)
    found = edges.leaving(np.arange(6), np.arange(6), nothing, nothing, but=taken)
    assert found.size
    assert not np.isin(found, taken).any()


def test_a_scale_of_its_own_for_every_token_takes_few_phases() -> None:
    """Floors of small tokens press on features that large ones price: unit by unit that were thousands of paths."""
    rng = np.random.default_rng(2)
    shape = (600, 200)
    scores = rng.normal(size=shape) * 10.0 ** rng.uniform(-6, 6, size=(shape[0], 1))
    token_caps, feature_caps = rng.integers(0, 8, shape[0]), rng.integers(0, 12, shape[1])
    token_caps[:30] = 10 + rng.integers(0, 190)
    problem = al.Problem(
        scores, token_caps=token_caps, feature_caps=feature_caps,
        token_floors=np.minimum(token_caps, rng.integers(0, 3, shape[0])),
        feature_floors=np.minimum(feature_caps, rng.integers(0, 3, shape[1])),
    )  # fmt: skip
    assert certified(problem).stats["phases"] < 1000


@pytest.mark.parametrize(
    "limits",
    [{"token_caps": 8, "feature_caps": 10}, {"budget": 400, "token_caps": 9, "feature_caps": 12, "feature_floors": 2}],
)
def test_a_few_scores_far_beyond_all_prices_do_not_blur_them(limits: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    scores = np.where(rng.random((100, 80)) < 0.002, 1e20, rng.standard_normal((100, 80)))
    solution = certified(al.Problem(scores, **limits))
    assert (solution.values == 1e20).any()
    assert solution.stats["phases"] < 40


@pytest.mark.parametrize("seed", [10, 19, 41, 52])
def test_small_prices_beside_large_ones_are_put_right_round_by_round(seed: int) -> None:
    """Every round used to round them away again, to the grid of the largest score."""
    rng = np.random.default_rng(seed)
    shape = (24, 83)
    scores = rng.standard_normal(shape) * 10.0 ** rng.uniform(-12, 12, (1, shape[1]))
    planned = rng.random(shape) < 0.9 * rng.uniform(0.2, 2, (shape[0], 1))
    of_tokens, of_features = planned.sum(1), planned.sum(0)
    order = rng.permutation(shape[1])
    groups = []
    for size in (40, 20, 5):
        for start in range(0, 80, size):
            members = order[start : start + size]
            count = int(of_features[members].sum())
            groups.append(al.Group(members, cap=count + int(rng.integers(0, 2)), floor=count - int(rng.integers(0, 2))))
    limits = {"token_caps": of_tokens, "token_floors": of_tokens, "feature_caps": of_features + 1}
    certified(al.Problem(scores, **limits, feature_groups=groups))


def test_prices_that_meet_no_resistance_are_not_extrapolated_beyond_the_scores() -> None:
    """Sweeps that raise prices by the same again and again had them end at 1e19, where rounding hides every score."""
    prices, rise = np.array([-2e5, -1.9e5]), np.array([-1e4, -1e4])
    history = [(prices + n * rise, prices + (n + 1) * rise + n * 1e-9) for n in range(3)]
    assert np.array_equal(_extrapolated(history, 1e6), history[-1][1])
    assert not np.array_equal(_extrapolated(history, np.inf), history[-1][1])
