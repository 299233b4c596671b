"""Every solver against every property: one table of solvers, one of properties."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import allocation as al
from allocation import threads
from allocation.solvers.top_selection import lines, whole
from allocation.solvers.two_sided import pricing
from tests.allocation.integer_program import best_value
from tests.allocation.strategies import Limits, Matrix, any_case, laminar_families, nested, one_sided

Case: TypeAlias = tuple[Matrix, Limits]


class Streamed:
    """`select_stream` as a solver: the rows in three blocks."""

    def refusal(self, problem: al.Problem) -> str | None:
        if problem.token_caps is not None or (problem.budget is None and problem.feature_caps is None):
            return "select_stream takes a budget and feature caps"
        return al.TopSelection().refusal(problem)

    def solve(self, problem: al.Problem, options: Any) -> al.Solution:
        blocks = np.array_split(problem.scores, 3)
        return al.select_stream(blocks, problem.budget, problem.feature_caps)


@dataclass(frozen=True)
class Entry:
    """A solver, problems that it takes, and whether ties go to the smaller token and feature."""

    solver: Any
    cases: st.SearchStrategy[Case]
    ordered: bool = False
    floors: bool = True


SOLVERS = {
    "TopSelection": Entry(al.TopSelection(), one_sided(), ordered=True, floors=False),
    "select_stream": Entry(Streamed(), one_sided(sides=("none", "feature_caps")), ordered=True, floors=False),
    "Laminar": Entry(al.Laminar(), nested(), ordered=True),
    "TwoSided": Entry(al.TwoSided(), any_case(max_side=5)),
    "LinearProgram": Entry(al.LinearProgram(), any_case(max_side=5)),
    "Auto": Entry(al.Auto(), any_case(max_side=5)),
}


def answer(entry: Entry, scores: Any, limits: Limits, **options: Any) -> al.Solution | None:
    """The solution, checked by the certificate; None if there is none."""
    problem = al.Problem(scores, **limits)
    solution = al.solve(problem, entry.solver, throw=False, **options)
    if solution.status is al.Status.INFEASIBLE:
        return None
    certificate = al.verify(problem, solution)
    assert certificate.optimal, certificate
    return solution


def assert_same(entry: Entry, one: al.Solution | None, two: al.Solution | None) -> None:
    """The same value; from solvers with an order among ties the same matches and prices."""
    assert (one is None) == (two is None)
    if one is None or two is None:
        return
    assert one.objective == pytest.approx(two.objective, rel=1e-12, abs=1e-12)
    if entry.ordered:
        np.testing.assert_array_equal(one.tokens, two.tokens)
        np.testing.assert_array_equal(one.features, two.features)


def permuted(limits: Limits, rows: Any, columns: Any) -> Limits:
    """The limits after token `rows[i]` has become token i, and features likewise."""
    moved = dict(limits)
    for side, order in (("token", rows), ("feature", columns)):
        for name in (f"{side}_caps", f"{side}_floors"):
            if np.ndim(moved.get(name, 0)):
                moved[name] = np.asarray(moved[name])[order]
        place = np.argsort(order)
        moved[f"{side}_groups"] = [
            al.Group(place[np.asarray(group.members, np.int64)], group.cap, group.floor)
            for group in moved.get(f"{side}_groups", ())
        ]
    return moved


def assert_best(solution: al.Solution | None, scores: Any, limits: Limits) -> None:
    """The value of an integer programme that shares no line with the package."""
    best = best_value(scores, limits)
    assert (solution is None) == (best is None)
    if solution is not None:
        assert solution.objective == pytest.approx(best, rel=1e-12, abs=1e-12)


def value_of_the_integer_programme(entry: Entry, case: Case, _: np.random.Generator) -> None:
    assert_best(answer(entry, *case), *case)


def matches_are_scores_in_order(entry: Entry, case: Case, _: np.random.Generator) -> None:
    solution = answer(entry, *case)
    if solution is None:
        return
    scores = case[0]
    flat = solution.tokens * scores.shape[1] + solution.features
    assert np.all(np.diff(flat) > 0)
    assert solution.tokens.dtype == solution.features.dtype == np.int64
    assert solution.values.dtype == scores.dtype
    np.testing.assert_array_equal(solution.values, scores[solution.tokens, solution.features])
    np.testing.assert_array_equal(solution.to_scipy().toarray(), np.where(solution.mask(), scores, 0))
    np.testing.assert_array_equal(solution.mask().sum(1), solution.token_counts)
    np.testing.assert_array_equal(solution.mask().sum(0), solution.feature_counts)


def matches_of_score_0_or_less_are_needed_by_a_floor(entry: Entry, case: Case, rng: np.random.Generator) -> None:
    """Without any one of them some floor would not be met. Few values, so that many are 0."""
    scores = rng.integers(-1, 2, case[0].shape).astype(np.float64)
    scores[case[0] == -np.inf] = -np.inf
    solution = answer(entry, scores, case[1])
    if solution is None:
        return
    for at in np.flatnonzero(solution.values <= 0):
        left = solution.mask()
        left[solution.tokens[at], solution.features[at]] = False
        assert below_a_floor(left, case[1]), (scores, case[1])


def below_a_floor(mask: Matrix, limits: Limits) -> bool:
    """Whether some count is below its floor."""
    for axis, side in enumerate(("token", "feature")):
        counts = mask.sum(1 - axis)
        if np.any(counts < limits.get(f"{side}_floors", 0)):
            return True
        for group in limits.get(f"{side}_groups", ()):
            if counts[np.asarray(group.members, np.int64)].sum() < (group.floor or 0):
                return True
    return False


def renaming_renames_the_answer(entry: Entry, case: Case, rng: np.random.Generator) -> None:
    scores, limits = case
    distinct = rng.permutation(scores.size).reshape(scores.shape) - scores.size // 3 + 0.5
    rows, columns = (rng.permutation(size) for size in scores.shape)
    plain = answer(entry, distinct, limits)
    moved = answer(entry, distinct[rows][:, columns], permuted(limits, rows, columns))
    assert (plain is None) == (moved is None)
    if plain is not None and moved is not None:
        assert plain.objective == moved.objective
        if entry.ordered:  # one optimum only; two-sided problems may have several of equal value
            np.testing.assert_array_equal(plain.mask()[rows][:, columns], moved.mask())


def all_equal_scores(entry: Entry, case: Case, rng: np.random.Generator) -> None:
    scores = np.full(case[0].shape, rng.choice([-1.0, 0.0, 2.5]))
    first = answer(entry, scores, case[1])
    assert_same(Entry(None, entry.cases, ordered=True), first, answer(entry, scores, case[1]))
    if first is not None and scores.size and scores[0, 0] > 0 and set(case[1]) == {"budget"} and entry.ordered:
        np.testing.assert_array_equal(np.flatnonzero(first.mask()), np.arange(first.tokens.size))


NUMBERS = (np.float16, np.float32, np.float64, np.int8, np.int16, np.int64, np.uint8, np.uint64)


def every_number_type(entry: Entry, case: Case, rng: np.random.Generator) -> None:
    shape, limits = case[0].shape, case[1]
    wide = rng.integers(0, 7, shape).astype(np.float64)
    expected = answer(entry, wide, limits)
    kind = NUMBERS[rng.integers(len(NUMBERS))]
    assert_same(entry, expected, answer(entry, wide.astype(kind), limits))
    for narrow in (torch.float16, torch.bfloat16):
        found = answer(entry, torch.from_numpy(wide).to(narrow), limits)
        assert_same(entry, expected, found)
        if found is not None and not isinstance(entry.solver, Streamed):
            assert found.values.dtype == (np.float16 if narrow is torch.float16 else np.float32)


def forbidden_pairs_stay_apart(entry: Entry, case: Case, rng: np.random.Generator) -> None:
    scores = rng.normal(size=case[0].shape)
    scores[rng.random(scores.shape) < rng.choice([0.3, 0.9, 1.0])] = -np.inf
    solution = answer(entry, scores, case[1])
    if solution is not None:
        assert np.all(np.isfinite(solution.values))


def any_layout(entry: Entry, case: Case, _: np.random.Generator) -> None:
    scores, limits = case
    plain = answer(entry, np.ascontiguousarray(scores), limits)
    padded = np.zeros((2 * scores.shape[0], 3 * scores.shape[1]), scores.dtype)
    padded[::-2, ::3] = scores
    for same in (np.asfortranarray(scores), padded[::-2, ::3], scores.astype(scores.dtype.newbyteorder())):
        assert_same(entry, plain, answer(entry, same, limits))


def empty_and_thin_shapes(entry: Entry, case: Case, rng: np.random.Generator) -> None:
    limits = {name: limit for name, limit in case[1].items() if np.ndim(limit) == 0} or {"budget": 2}
    for shape in ((0, 0), (0, 3), (3, 0), (1, 5), (5, 1), (1, 1)):
        scores = rng.normal(size=shape)
        assert_best(answer(entry, scores, limits), scores, limits)


def budgets_of_nothing_and_of_everything(entry: Entry, case: Case, _: np.random.Generator) -> None:
    scores, limits = case
    nothing = answer(entry, scores, {**limits, "budget": 0})
    if nothing is not None:
        assert nothing.tokens.size == 0
    everything = answer(entry, scores, {**limits, "budget": scores.size})
    assert_same(entry, everything, answer(entry, scores, {**limits, "budget": 10**30}))


def warm_starts_change_nothing(entry: Entry, case: Case, rng: np.random.Generator) -> None:
    scores, limits = case
    cold = answer(entry, scores, limits)
    if cold is None:
        return
    other = al.solve(al.Problem(np.ones((4, 3)), budget=5, token_caps=2, feature_caps=3)).prices
    sizes = {"tokens": scores.shape[0], "features": scores.shape[1]}
    sizes |= {f"{side}_groups": len(limits.get(f"{side}_groups", ())) for side in ("token", "feature")}
    strange = [
        al.Prices(al.Price(float(value)), *(al.Price(np.full(size, value)) for size in sizes.values()))
        for value in (rng.normal(), -1e300, 1e300, np.inf, np.nan)
    ]
    for prices in (cold.prices, cold.prices.without_intervals(), other, *strange):
        assert_same(entry, cold, answer(entry, scores, limits, warm_start=prices))


def seconds_bound_the_solve(entry: Entry, case: Case, _: np.random.Generator) -> None:
    problem = al.Problem(case[0], **case[1])
    hurried = al.solve(problem, entry.solver, throw=False, max_seconds=0)
    assert hurried.status in (al.Status.OPTIMAL, al.Status.INFEASIBLE, al.Status.NOT_CERTIFIED)
    if hurried.status is al.Status.OPTIMAL:
        assert al.verify(problem, hurried).optimal
    assert_same(entry, answer(entry, *case, max_seconds=60), answer(entry, *case))


def arguments_stay_as_they_are(entry: Entry, case: Case, _: np.random.Generator) -> None:
    scores, limits = case
    before = scores.copy()
    kept = {name: np.copy(limit) for name, limit in limits.items() if isinstance(limit, np.ndarray)}
    answer(entry, scores, limits)
    np.testing.assert_array_equal(scores, before)
    for name, limit in kept.items():
        np.testing.assert_array_equal(limits[name], limit)


PROPERTIES: dict[str, Callable[[Entry, Case, np.random.Generator], None]] = {
    check.__name__: check
    for check in (
        value_of_the_integer_programme,
        matches_are_scores_in_order,
        matches_of_score_0_or_less_are_needed_by_a_floor,
        renaming_renames_the_answer,
        all_equal_scores,
        every_number_type,
        forbidden_pairs_stay_apart,
        any_layout,
        empty_and_thin_shapes,
        budgets_of_nothing_and_of_everything,
        warm_starts_change_nothing,
        seconds_bound_the_solve,
        arguments_stay_as_they_are,
    )
}


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.parametrize("solver", SOLVERS)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_every_solver_has_every_property(solver: str, name: str, data: st.DataObject, seed: int) -> None:
    entry = SOLVERS[solver]
    case = data.draw(entry.cases)
    PROPERTIES[name](entry, case, np.random.default_rng(seed))


@pytest.mark.parametrize("solver", SOLVERS)
def test_failures_are_answers_without_throw(solver: str) -> None:
    entry = SOLVERS[solver]
    contradiction = {"token_floors": 2, "token_caps": 1} if entry.floors else {"token_caps": 1, "feature_caps": 1}
    problem = al.Problem(np.ones((2, 3)), **contradiction)
    failed = al.solve(problem, entry.solver, throw=False)
    kind = al.InfeasibleError if entry.floors else al.UnsupportedProblemError
    assert failed.status is (al.Status.INFEASIBLE if entry.floors else al.Status.UNSUPPORTED)
    with pytest.raises(kind, match="^" + str(failed.error).split("(")[0].split("[")[0]):
        al.solve(problem, entry.solver)
    for name in ("tokens", "features", "values", "prices", "objective", "token_counts"):
        with pytest.raises(kind):
            getattr(failed, name)


@pytest.mark.parametrize("side", ["token", "feature"])
@pytest.mark.parametrize("solver", [name for name, entry in SOLVERS.items() if entry.floors])
@given(data=st.data())
@settings(max_examples=15)
def test_a_group_without_an_allowed_edge_cannot_reach_a_floor(solver: str, side: str, data: st.DataObject) -> None:
    """No member, or members whose every match is forbidden, among other limits of the side that all hold."""
    entry = SOLVERS[solver]
    scores = np.array([[1.0, 2.0, -3.0], [0.0, -1.0, 4.0], [-np.inf] * 3])
    scores = scores if side == "token" else scores.T.copy()
    barren = al.Group(data.draw(st.sampled_from([[], [2]])), cap=data.draw(st.sampled_from([None, 1, 2])), floor=1)
    counts = np.array([1, 2, 0])
    others = data.draw(laminar_families(counts))
    at = data.draw(st.integers(0, len(others)))
    limits: Limits = {f"{side}_groups": [*others[:at], barren, *others[at:]]}
    if data.draw(st.booleans()):
        limits[f"{side}_caps"] = counts
    failed = al.solve(al.Problem(scores, **limits), entry.solver, throw=False)
    assert failed.status is al.Status.INFEASIBLE
    assert f"{side}_groups" in str(failed.error)
    if len(barren.members) == 0:
        assert re.search(rf"{side}_groups(\[{at}\]|.* {at} )", str(failed.error)), failed.error
    without: Limits = {**limits, f"{side}_groups": others}
    assert answer(entry, scores, without) is not None


class Together:
    """Shares runs as `threads` does; the first two threads wait for one another. Counts the calls so far."""

    calls = 0
    share = staticmethod(threads._together)

    @classmethod
    def runs(cls, work: Callable[[Any], Any], runs: list[Any], helpers: int) -> list[Any]:
        both, begun = threading.Barrier(2), list[int]()

        def together(run: Any) -> Any:
            if threading.get_ident() not in begun:
                begun.append(threading.get_ident())
                if begun.index(threading.get_ident()) < 2 and both.wait(60) == 0:
                    cls.calls += 1
            return work(run)

        return cls.share(together, runs, helpers)


@pytest.fixture
def threads_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row a block of its own on a thread, every search one that samples and groups, however small the matrix."""
    monkeypatch.setattr(threads, "SERIAL_BYTES", 0)
    for function in (threads.map_runs, threads.map_blocks):
        assert function.__defaults__ == (None, threads.BLOCK_BYTES)
        monkeypatch.setattr(function, "__defaults__", (None, 1))
    monkeypatch.setattr(pricing, "BLOCK_BYTES", 1)
    monkeypatch.setattr(whole, "SAMPLE", 32)
    monkeypatch.setattr(lines, "COLUMN_GROUPS", (2,))
    monkeypatch.setattr(lines, "MAXIMA_BYTES", 1)
    monkeypatch.setattr(threads, "_together", Together.runs)


THREADED = {
    "TopSelection": Entry(al.TopSelection(), one_sided(max_side=10)),
    "Laminar": Entry(al.Laminar(), nested(max_side=10)),
    "TwoSided": Entry(al.TwoSided(), any_case(max_side=10)),
}


@pytest.mark.hypothesis
@pytest.mark.usefixtures("threads_at_any_size")
@pytest.mark.parametrize("solver", THREADED)
def test_threads_change_nothing(solver: str) -> None:
    entry = THREADED[solver]
    before, solved = Together.calls, 0

    @given(entry.cases, st.sampled_from([2, 7]))
    @settings(max_examples=20)
    def check(case: Case, workers: int) -> None:
        nonlocal solved
        alone = answer(entry, *case, workers=1)
        together = answer(entry, *case, workers=workers)
        assert_same(Entry(None, entry.cases, ordered=True), alone, together)
        solved += alone is not None

    check()
    # some of the cases are empty, or too small to share
    assert solved >= 10
    assert Together.calls - before >= solved // 3, "two threads ran"


LARGEST = 1e280
NEAR_THE_END = {
    "all the largest": np.full((6, 8), LARGEST),
    "both signs": np.where(np.random.default_rng(0).random((6, 8)) < 0.5, LARGEST, -LARGEST),
    "all the least": np.full((6, 8), -LARGEST),
    "generic": np.random.default_rng(1).uniform(-LARGEST, LARGEST, (6, 8)),
    "beside the smallest number": np.where(np.random.default_rng(2).random((6, 8)) < 0.5, LARGEST, 5e-324),
    "many": np.random.default_rng(3).uniform(-LARGEST, LARGEST, (260, 300)),
}


@pytest.mark.parametrize("solver", [al.TopSelection(), al.Laminar(), al.TwoSided()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", NEAR_THE_END)
def test_the_largest_scores_are_solved_and_certified(name: str, solver: Any) -> None:
    scores, solved = NEAR_THE_END[name], 0
    cases: list[Limits] = [
        {"budget": 9},
        {"token_caps": 2},
        {"budget": 8, "feature_caps": 2},
        {"token_groups": [al.Group([0, 1, 2], cap=4, floor=2)], "token_floors": 1},
        {"token_caps": 2, "feature_caps": 1},
        {"budget": 2 * scores.size // 7, "token_caps": 3, "token_floors": 1, "feature_caps": 3, "feature_floors": 1},
    ]
    for limits in cases:
        problem = al.Problem(scores, **limits)
        if solver.refusal(problem) is None:
            solved += 1
            solution = al.solve(problem, solver)
            certificate = al.verify(problem, solution)
            assert certificate.optimal, certificate
            assert np.isfinite(solution.objective)
            assert np.all(np.asarray(solution.prices.budget.lower) <= solution.prices.budget.value)
    assert solved == {"TopSelection": 3, "Laminar": 4, "TwoSided": 6}[type(solver).__name__]
