"""Limits on both sides: against the linear programme and minimum-cost flow, on hard inputs, from wrong prices."""

from __future__ import annotations

import re
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.scores import DenseScores
from allocation.solvers.two_sided import circulation, first_candidates, pricing, primal_dual, starting_point
from tests.allocation.integer_program import best_value, limits_of
from tests.allocation.strategies import any_case, any_limits, any_problem, one_sided, score_matrices

LIMITS = ("budget", "token_caps", "token_floors", "feature_caps", "feature_floors", "token_groups", "feature_groups")
BLOCKS = ("budget", "tokens", "features", "token_groups", "feature_groups")


def certified(problem: al.Problem, **options: Any) -> al.Solution:
    solution = al.solve(problem, al.TwoSided(), **options)
    certificate = al.verify(problem, solution)
    assert certificate.optimal, certificate
    return solution


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """One promising edge per limit to begin with, however small the problem: pricing finds the others, row by row."""
    monkeypatch.setattr(starting_point, "SMALL", 0)
    monkeypatch.setattr(pricing, "BLOCK_BYTES", 1)
    for name, value in (("SMALL", 0), ("WIDE", 0), ("EXTRA", 1)):
        monkeypatch.setattr(first_candidates, name, value)


def agrees_with_the_integer_programme(problem: al.Problem) -> None:
    ours = al.solve(problem, al.TwoSided(), throw=False)
    best = best_value(problem.scores, limits_of(problem))
    assert (ours.status is al.Status.INFEASIBLE) == (best is None), (ours, best)
    if ours.status is al.Status.INFEASIBLE:
        return
    certificate = al.verify(problem, ours)
    assert certificate.optimal, certificate
    assert ours.objective == pytest.approx(best, rel=1e-12, abs=1e-12)
    np.testing.assert_array_equal(ours.values, problem.scores[ours.tokens, ours.features])


@given(any_problem(max_side=5, min_side=0))
@settings(max_examples=250)
def test_every_mix_of_limits_agrees_with_the_integer_programme(problem: al.Problem) -> None:
    agrees_with_the_integer_programme(problem)


@pytest.mark.hypothesis
@pytest.mark.usefixtures("few_candidates")
def test_what_the_candidates_miss_is_found_by_pricing() -> None:
    @given(any_problem(max_side=5))
    @settings(max_examples=120)
    def check(problem: al.Problem) -> None:
        agrees_with_the_integer_programme(problem)

    check()


@pytest.mark.hypothesis
def test_counts_beyond_32_bits_are_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the limits of size patched to those of small problems: one unit at once, bounds just above the edges."""
    monkeypatch.setattr(primal_dual, "AT_ONCE", 1)
    monkeypatch.setattr(circulation, "LEAST_UNBOUNDED", 1)
    at_once, cut = primal_dual._at_once, [0]

    def counted(sources: Any, sinks: Any) -> Any:
        sent, received = at_once(sources, sinks)
        cut[0] += int(min(sources.sum(), sinks.sum()) > 1)
        assert min(sent.sum(), received.sum()) <= 1
        return sent, received

    monkeypatch.setattr(primal_dual, "_at_once", counted)

    @given(any_problem(max_side=5) | any_problem(max_side=5, agreed=True))
    @settings(max_examples=100)
    def check(problem: al.Problem) -> None:
        agrees_with_the_integer_programme(problem)

    check()
    assert cut[0] >= 5


def test_bounds_of_more_than_32_bits_are_what_was_given() -> None:
    """Of a matrix that is one number in memory."""
    size = 1 << 15
    matrix = DenseScores(np.broadcast_to(np.int8(1), (size, size)), "int8")
    everybody = al.Group(range(size), floor=2**29 + 1, cap=2**29 + 2)
    problem = al.Problem(matrix, token_groups=[everybody], feature_caps=size, budget=2**30 - 1, token_caps=2**62)
    network = circulation.network_of(problem)
    assert network.unbounded > 2**30
    blocks = {name: (network.lower[at], network.upper[at]) for name, at in network.blocks.items()}
    assert blocks["token_groups"] == (2**29 + 1, 2**29 + 2)
    assert blocks["budget"] == (-network.unbounded, 2**30 - 1)
    assert set(blocks["features"][1]) == {size}
    assert set(blocks["tokens"][1]) == {network.unbounded}
    assert network.most_matches == 2**30 - 1
    too_many = al.Problem(matrix, token_groups=[al.Group(range(size), floor=2**30 + 1)], feature_caps=size)
    with pytest.raises(al.InfeasibleError, match=r"token_groups 0 \(1073741825\) .* more than the 1073741824 pairs"):
        circulation.network_of(too_many)


@given(any_case(max_side=4, min_side=1), st.sampled_from([2**29 - 1, 2**29, 2**31, 2**32 + 1, 2**62, 2**63 - 1]))
@settings(max_examples=60)
def test_caps_of_any_size_are_none_and_floors_of_any_size_infeasible(case: Any, large: int) -> None:
    scores, limits = case
    tokens, features = np.nonzero(np.asarray(scores, np.float64) > -np.inf)
    edges = {"tokens": tokens, "features": features, "scores": scores[tokens, features]}
    plain = al.Problem.from_edges(**edges, shape=scores.shape, **limits)
    known = al.solve(plain, al.TwoSided(), throw=False)
    more = {name: large for name in ("budget", "token_caps", "feature_caps") if name not in limits}
    roomy = al.Problem.from_edges(**edges, shape=scores.shape, **limits, **more)
    for solver in (al.TwoSided(), al.LinearProgram()):
        found = al.solve(roomy, solver, throw=False)
        assert found.status is known.status
        if known.status is al.Status.OPTIMAL:
            assert al.verify(roomy, found).optimal
            assert found.objective == pytest.approx(known.objective, rel=1e-12, abs=1e-12)
    floor = al.Group(range(scores.shape[0]), floor=large)
    for solver in (al.TwoSided(), al.LinearProgram(), al.Auto()):
        groups = [floor, *limits.get("token_groups", ())]
        failed = al.solve(
            al.Problem.from_edges(**edges, shape=scores.shape, **{**limits, "token_groups": groups}),
            solver,
            throw=False,
        )
        assert failed.status is al.Status.INFEASIBLE
        assert not re.search(rf"-\d|cap of {2**29}\b", str(failed.error)), failed.error


def test_prices_of_integers_that_float64_does_not_hold_are_an_error() -> None:
    """Each feature of a chain costs two scores more than the one before."""

    def chain(score: int, length: int) -> al.Problem:
        tokens = np.repeat(np.arange(length), 2)[:-1]
        features = tokens + np.arange(2 * length - 1) % 2
        scores = np.where(tokens == features, -score, score)
        return al.Problem.from_edges(
            tokens, features, scores, (length, length), token_caps=1, token_floors=1, feature_caps=1
        )

    held = chain(2**46, 16)
    assert al.verify(held, al.solve(held)) == al.Certificate(True, 0.0, 0.0, ())
    with pytest.raises(
        al.NotCertifiedError, match=r"stopped after prices of .* together .* bring the scores closer to 0"
    ):
        al.solve(chain(2**50, 16))


def value(scores: Any, given: dict[str, Any]) -> float:
    """The optimal value; -inf if there is no allocation."""
    problem = al.Problem(scores, **given)
    solution = al.solve(problem, al.TwoSided(), throw=False)
    if solution.status is al.Status.INFEASIBLE:
        return -np.inf
    assert al.verify(problem, solution).optimal
    return solution.objective


def moved(given: dict[str, Any], name: str, member: int, by: int) -> dict[str, Any] | None:
    """The limits with one of them moved; None where a cap would be below 0. `name` is a block and "cap" or "floor"."""
    block, kind = name.split()
    if block == "budget":
        new: Any = given["budget"] + by
    elif block.endswith("groups"):
        group = given[block][member]
        new = getattr(group, kind) + by
    else:
        new = given[f"{block}_{kind}s"][member] + by
    if new < 0:
        if kind == "cap":
            return None
        new = 0
    if block == "budget":
        return {**given, "budget": new}
    if block.endswith("groups"):
        changed = al.Group(group.members, *[new if kind == k else getattr(group, k) for k in ("cap", "floor")])
        return {**given, block: [changed if n == member else g for n, g in enumerate(given[block])]}
    vector = np.array(given[f"{block}_{kind}s"])
    vector[member] = new
    return {**given, f"{block}_{kind}s": vector}


def solved_again(problem: al.Problem, names: list[str], member: int) -> tuple[float, float]:
    """`V(b + 1) - V(b)` and `V(b) - V(b - 1)`, all of the named limits moved together."""
    given = {name: getattr(problem, name) for name in LIMITS}
    values = []
    for by in (1, 0, -1):
        changed: dict[str, Any] | None = given
        for name in names:
            changed = None if changed is None else moved(changed, name, member, by)
        values.append(-np.inf if changed is None else value(problem.scores, changed))
    return values[0] - values[1], values[1] - values[2]


@given(any_problem())
@settings(max_examples=40)
def test_price_intervals_are_what_solving_again_gives(problem: al.Problem) -> None:
    solution = al.solve(problem, al.TwoSided(), throw=False)
    if solution.status is not al.Status.OPTIMAL:
        return
    for block, singular in zip(BLOCKS, ("budget", "token", "feature", "token_groups", "feature_groups"), strict=True):
        price = getattr(solution.prices, block)
        lower, upper, at = (np.atleast_1d(np.asarray(part)) for part in (price.lower, price.upper, price.value))
        assert np.all(lower <= at)
        assert np.all(at <= upper)
        for member in range(at.size):
            given_limits = {kind: _limit(problem, singular, kind, member) for kind in ("cap", "floor")}
            names = [f"{singular} {kind}" for kind, limit in given_limits.items() if limit is not None]
            together = len(set(given_limits.values())) == 1
            parts = [solved_again(problem, names, member)] if together else []
            parts += [] if together else [solved_again(problem, [name], member) for name in names]
            expected = np.sum(parts, axis=0) if parts else (0.0, 0.0)
            np.testing.assert_allclose(
                (lower[member], upper[member]), expected, atol=1e-12, err_msg=f"{block} {member}"
            )


def _limit(problem: al.Problem, block: str, kind: str, member: int) -> int | None:
    if block == "budget":
        return problem.budget if kind == "cap" else None
    if block.endswith("groups"):
        limit: int | None = getattr(getattr(problem, block)[member], kind)
        return limit
    vector = getattr(problem, f"{block}_{kind}s")
    return None if vector is None else int(vector[member])


@given(score_matrices(max_side=5), st.data())
@settings(max_examples=150)
def test_candidate_edges_give_the_value_of_the_matrix(scores: np.ndarray[Any, Any], data: st.DataObject) -> None:
    given_limits = data.draw(any_limits(scores))
    tokens, features = np.nonzero(scores != -np.inf)
    edges = al.Problem.from_edges(tokens, features, scores[tokens, features], shape=scores.shape, **given_limits)
    dense = al.solve(al.Problem(scores, **given_limits), al.TwoSided(), throw=False)
    sparse = al.solve(edges, al.TwoSided(), throw=False)
    assert dense.status is sparse.status
    if dense.status is al.Status.OPTIMAL:
        assert al.verify(edges, sparse).optimal
        assert sparse.objective == pytest.approx(dense.objective, rel=1e-12, abs=1e-12)


NAMED = re.compile(r"(token_groups|feature_groups|tokens|features|budget)((?: \d+ \(\d+\),?)+| \(\d+\))")


def named_limits(text: str) -> dict[str, dict[int, int]]:
    """Block -> member -> number, from "tokens 0 (2), 3 (1); budget (4)"."""
    found: dict[str, dict[int, int]] = {}
    for block, members in NAMED.findall(text):
        pairs = re.findall(r"(\d+) \((\d+)\)", members) or [("0", re.findall(r"\d+", members)[0])]
        found[block] = {int(member): int(number) for member, number in pairs}
    return found


def only(problem: al.Problem, floors: dict[str, dict[int, int]], caps: dict[str, dict[int, int]]) -> al.Problem:
    """The problem without any limit that is not named."""
    given: dict[str, Any] = {"budget": problem.budget if "budget" in caps else None}
    for side, size in zip(("token", "feature"), problem.shape, strict=True):
        for kind, named, absent in (("floors", floors, 0), ("caps", caps, 10**6)):
            members = named.get(f"{side}s", {})
            vector = getattr(problem, f"{side}_{kind}")
            given[f"{side}_{kind}"] = [vector[i] if i in members else absent for i in range(size)]
        given[f"{side}_groups"] = [
            al.Group(
                group.members,
                cap=group.cap if number in caps.get(f"{side}_groups", {}) else None,
                floor=group.floor if number in floors.get(f"{side}_groups", {}) else None,
            )
            for number, group in enumerate(getattr(problem, f"{side}_groups"))
        ]
    return al.Problem(problem.scores, **given)


@given(any_problem(max_side=5, agreed=False))
@settings(max_examples=150)
def test_the_named_limits_alone_contradict_each_other_and_the_numbers_add_up(problem: al.Problem) -> None:
    solution = al.solve(problem, al.TwoSided(), throw=False)
    if solution.status is not al.Status.INFEASIBLE:
        return
    text = str(solution.error)
    demand, supply = text.split("more than")
    floors = named_limits(demand)
    demanded, left = int(re.findall(r"demand (\d+) match(?:es)?", demand)[0]), int(re.findall(r"\d+", supply)[0])
    assert demanded == sum(sum(members.values()) for members in floors.values()) > left, text
    for block, members in floors.items():
        for member, number in members.items():
            assert _limit(problem, block if block.endswith("groups") else block[:-1], "floor", member) == number, text
    if "its own cap" in supply:
        caps = {block: dict.fromkeys(members, left) for block, members in floors.items()}
    else:
        caps = named_limits(supply)
    for block, members in caps.items():
        for member, number in members.items():
            name = block if block in ("budget", "token_groups", "feature_groups") else block[:-1]
            assert _limit(problem, name, "cap", member) == number, text
    assert sum(sum(members.values()) for members in caps.values()) <= left, text
    alone = only(problem, floors, caps)
    assert al.solve(alone, al.LinearProgram(), throw=False).status is al.Status.INFEASIBLE, text


ONES = np.ones((6, 4))
HARD: dict[str, tuple[Any, dict[str, Any]]] = {
    "all equal": (np.full((30, 40), 1.5, np.float32), {"budget": 100, "token_caps": 5, "feature_caps": 3}),
    "all equal, floors": (np.full((30, 40), -1.0), {"token_floors": 2, "feature_floors": 2, "feature_caps": 2}),
    "one feature wanted by all": (np.eye(1, 20) * 9 + np.ones((50, 20)), {"token_caps": 2, "feature_caps": 5}),
    "one token wants all": ((np.eye(1, 20) * 9 + np.ones((50, 20))).T, {"token_caps": 2, "feature_caps": 5}),
    "floors equal to caps": (ONES, {"token_caps": 2, "token_floors": 2, "feature_caps": 3, "feature_floors": 3}),
    "budget 0": (ONES, {"budget": 0, "token_caps": 1, "feature_caps": 1}),
    "budget at the maximum": (ONES, {"budget": 24, "token_caps": 4, "feature_caps": 6}),
    "budget beyond the maximum": (ONES, {"budget": 10**30, "token_caps": 10**25, "feature_caps": 2**63 - 1}),
    "caps of 0": (ONES, {"token_caps": 0, "feature_caps": [0, 1, 2, 3]}),
    "no tokens": (np.empty((0, 4)), {"budget": 3, "token_caps": 1, "feature_caps": 2}),
    "no features": (np.empty((4, 0)), {"budget": 3, "token_caps": [1, 2, 3, 4], "feature_caps": 2}),
    "nothing": (np.empty((0, 0)), {"token_caps": 1, "feature_caps": 2, "token_groups": [al.Group([], cap=0)]}),
    "one row": (np.arange(9.0)[None], {"token_caps": 4, "feature_caps": 1, "feature_floors": [1] + [0] * 8}),
    "one column": (np.arange(9.0)[:, None], {"token_caps": 1, "feature_caps": 4, "token_floors": [1] + [0] * 8}),
    "one entry": (np.array([[-2]]), {"token_caps": 1, "feature_caps": 1, "token_floors": 1}),
    "only forbidden": (np.full((3, 5), -np.inf), {"budget": 2, "token_caps": 1, "feature_caps": 2}),
    "forbidden but the diagonal": (np.where(np.eye(7) > 0, -1.0, -np.inf), {"token_floors": 1, "feature_floors": 1}),
    "float16": (np.random.default_rng(0).standard_normal((40, 50)).astype(np.float16), {"budget": 90, "token_caps": 3,
                "feature_caps": 2, "feature_floors": 1}),
    "bytes": (np.arange(48, dtype=np.uint8).reshape(6, 8) % 7, {"token_caps": 3, "feature_caps": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_hard_inputs(name: str) -> None:
    scores, given_limits = HARD[name]
    problem = al.Problem(scores, **given_limits)
    solution = certified(problem)
    reference = al.solve(problem, al.LinearProgram())
    assert solution.objective == pytest.approx(reference.objective, rel=1e-12)
    assert all(np.all(getattr(solution.prices, b).lower <= getattr(solution.prices, b).upper) for b in BLOCKS)


def best_by_trying_all(problem: al.Problem) -> Fraction:
    """The exact optimum of a small problem with caps, floors and a budget."""
    rows, columns = problem.shape
    masks = (np.arange(1 << (rows * columns))[:, None] >> np.arange(rows * columns)) & 1
    matches = masks.reshape(-1, rows, columns)
    fits = matches.sum((1, 2)) <= (rows * columns if problem.budget is None else problem.budget)
    for axis, side in ((2, "token"), (1, "feature")):
        counts = matches.sum(axis)
        for kind, sign in (("caps", 1), ("floors", -1)):
            limit = getattr(problem, f"{side}_{kind}")
            if limit is not None:
                fits &= (sign * counts <= sign * limit).all(axis=1)
    scores = [Fraction(float(score)) for score in problem.scores.reshape(-1)]
    return max(sum((scores[at] for at in np.flatnonzero(mask)), Fraction(0)) for mask in masks[fits])


MAGNITUDES = st.builds(lambda m, e: m * 10.0**e, st.floats(-10, 10, allow_subnormal=False), st.integers(-6, 6))
LAST_BITS = st.integers(-4, 4).map(lambda bits: 1.0 + bits * 2.0**-52)


@pytest.mark.hypothesis
@pytest.mark.parametrize("numbers", [MAGNITUDES, LAST_BITS], ids=["twelve orders of magnitude", "last bits"])
def test_no_allocation_beats_the_answer_by_more_than_the_stated_bound(numbers: st.SearchStrategy[float]) -> None:
    @given(hnp.arrays(np.float64, (3, 4), elements=numbers), st.integers(0, 2), st.integers(1, 2), st.integers(3, 8))
    @settings(max_examples=80, deadline=None)
    def check(scores: np.ndarray[Any, Any], floor: int, cap: int, budget: int) -> None:
        floors = [floor, 0, min(floor, 1)]
        problem = al.Problem(scores, budget=budget, token_caps=2, token_floors=floors, feature_caps=cap)
        solution = certified(problem)
        certificate = al.verify(problem, solution)
        assert certificate.tolerance <= 64 * np.finfo(float).eps * np.abs(scores).max() * scores.size
        lost = best_by_trying_all(problem) - sum(map(Fraction, solution.values.tolist()), Fraction(0))
        assert 0 <= lost <= Fraction(certificate.tolerance)

    check()


@given(hnp.arrays(np.int64, (3, 4), elements=st.integers(2**50 - 5, 2**50) | st.integers(-3, 3)), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_large_integers_are_exact(scores: np.ndarray[Any, Any], budget: int) -> None:
    problem = al.Problem(scores // 2, budget=budget, token_caps=2, feature_caps=1)
    solution = certified(problem)
    assert sum(solution.values.tolist()) == best_by_trying_all(problem)


@given(one_sided())
def test_one_sided_problems_are_exact_to_the_last_bit(case: tuple[Any, dict[str, Any]]) -> None:
    """There the certificate compares scores with scores."""
    scores, given_limits = case
    problem = al.Problem(scores, **given_limits)
    assert certified(problem).objective == al.solve(problem, al.TopSelection()).objective


def test_wrong_prices_cost_no_last_bit_of_one_sided_problems() -> None:
    rng = np.random.default_rng(0)
    none = al.Price(np.empty(0))
    for _ in range(60):
        problem = al.Problem(1.0 + rng.integers(-4, 5, (6, 4)) * 2.0**-52, feature_caps=rng.integers(0, 4, 4), budget=5)
        wrong = (al.Price(4 * rng.random()), al.Price(rng.normal(size=6)), al.Price(4 * rng.normal(size=4)))
        certified(problem, warm_start=al.Prices(*wrong, none, none))


@given(
    hnp.arrays(np.float64, (3, 4), elements=LAST_BITS),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(3, 8),
    st.sampled_from([0, 0, 1, -40, 800, -900]),
    st.data(),
)
@settings(max_examples=150)
def test_scores_whose_sums_float64_holds_are_solved_to_the_last_bit(
    scores: Any, floor: int, cap: int, budget: int, power: int, data: st.DataObject
) -> None:
    """And certified without a tolerance; no other allocation of another value is, whatever its prices."""
    least = min(floor, cap)
    limits = {"token_floors": least, "token_caps": cap, "feature_caps": 2, "budget": max(budget, 3 * least)}
    problem = al.Problem(np.ldexp(scores, power), **limits)
    solution = al.solve(problem, al.TwoSided())
    assert al.verify(problem, solution) == al.Certificate(True, 0.0, 0.0, ())
    best = best_by_trying_all(problem)
    assert sum(map(Fraction, solution.values.tolist()), Fraction(0)) == best
    tokens, features = np.nonzero(solution.mask())
    order = data.draw(st.permutations(range(4)))
    other = np.zeros((3, 4), bool)
    other[tokens, np.array(order)[features]] = True
    ends = np.nonzero(other)
    claimed = SimpleNamespace(tokens=ends[0], features=ends[1], values=problem.scores[ends], prices=solution.prices)
    certificate = al.verify(problem, claimed)
    if certificate.optimal and certificate.tolerance == 0:
        assert sum(map(Fraction, claimed.values.tolist()), Fraction(0)) == best


NEAR_THE_BOUND = st.builds(
    lambda base, by: base + by, st.sampled_from([2**50 - 3, 2**49, 3 - 2**50]), st.integers(-3, 3)
)


@given(hnp.arrays(np.int64, (3, 4), elements=NEAR_THE_BOUND), st.integers(0, 2), st.integers(1, 2), st.integers(3, 8))
@example(
    scores=np.where(np.arange(12).reshape(3, 4) > 8, 3 - 2**50, 2**50 - 3), floor=1, cap=2, budget=3
)  # prices of over 2^51
@settings(max_examples=80)
def test_integers_as_large_as_allowed_are_solved_exactly(scores: Any, floor: int, cap: int, budget: int) -> None:
    """A difference of 1 between scores of 2^50 decides; the certificate has no tolerance."""
    limits = {"token_floors": min(floor, cap), "token_caps": cap, "feature_caps": 2}
    problem = al.Problem(scores, budget=max(budget, 3 * min(floor, cap)), **limits)
    solution = al.solve(problem, al.TwoSided())
    assert al.verify(problem, solution) == al.Certificate(True, 0.0, 0.0, ())
    assert sum(solution.values.tolist()) == best_by_trying_all(problem)
