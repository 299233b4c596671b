"""What is wrong on one rank is said on all, whatever it is; and what ranks need not agree on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import allocation as al
from tests.allocation.ranks_in_threads import on_ranks

SCORES = np.arange(6.0).reshape(2, 3)


def problem_on(rank: Any, scores: Any = SCORES, **limits: Any) -> al.Problem:
    """Two tokens of four."""
    return al.Problem(scores, **(limits or {"budget": 3}), part=al.Part(tokens=(2 * rank.index, 4)))


class Failing:
    """A solver of the caller's own, which says nothing of itself and may fail or answer otherwise on some rank."""

    def __init__(self, error: Exception | None, price: float | None = None) -> None:
        self.error, self.price = error, price

    def refusal(self, problem: al.Problem) -> None:
        return None

    def solve(self, problem: al.Problem, options: al.Options) -> al.Solution:
        if self.error is not None:
            raise self.error
        solution = al.LinearProgram().solve(problem, options)
        if self.price is None:
            return solution
        return dataclasses.replace(solution, _prices=dataclasses.replace(solution.prices, budget=al.Price(self.price)))


def blocks_that_end(rank: Any) -> Callable[[], Iterator[Any]]:
    def blocks() -> Iterator[Any]:
        yield SCORES
        if rank.index:
            raise OSError("no such disk")

    return blocks


def altered(rank: Any, **limits: Any) -> Any:
    problem = problem_on(rank)
    solution = al.solve(problem, ranks=rank)
    return al.verify(problem_on(rank, **limits) if rank.index else problem, solution, ranks=rank)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda r: al.solve(None if r.index else problem_on(r), ranks=r), "problem: expected an allocation.Problem"),
        (lambda r: al.solve(problem_on(r), 3 if r.index else None, ranks=r), "solver: expected a solver object"),
        (lambda r: al.solve(problem_on(r), throw=3 if r.index else False, ranks=r), "throw: expected True or False"),
        (lambda r: al.solve(problem_on(r), warm_start=3 if r.index else None, ranks=r), "warm_start: expected"),
        (lambda r: al.solve(problem_on(r), workers=1 - r.index, ranks=r), "workers: expected 1 or more"),
        (lambda r: al.verify(problem_on(r), None if r.index else al.solve(al.Problem(SCORES, 1)), ranks=r), "solution"),
        (lambda r: altered(r, budget=4), "budget: expected the same on every rank"),
        (lambda r: altered(r, budget=3, feature_floors=1), "feature_floors: expected the same on every rank"),
        (lambda r: al.select_stream([SCORES], budget=None if r.index else 2, ranks=r), "budget, feature_caps"),
    ],
)
def test_wrong_arguments_of_one_rank_are_refused_on_all(work: Callable[[Any], Any], message: str) -> None:
    found = on_ranks(2, work)
    assert {type(error) for error in found} == {al.InvalidProblemError}
    assert len({str(error) for error in found}) == 1
    assert str(found[0]).startswith(message)


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (
            lambda r: al.solve(problem_on(r), Failing(MemoryError("no room") if r.index else None), ranks=r),
            MemoryError,
            "rank 1 failed: MemoryError: no room",
        ),
        (
            lambda r: al.select_stream(blocks_that_end(r), budget=2, ranks=r),
            OSError,
            "rank 1 failed: OSError: no such disk",
        ),
    ],
)
def test_no_rank_waits_for_one_that_fails_in_its_own_way(
    work: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    other, own = on_ranks(2, work)
    assert isinstance(other, RuntimeError)
    assert str(other) == message
    assert type(own) is error


def test_parts_of_two_answers_are_no_answer() -> None:
    found = on_ranks(2, lambda rank: al.solve(problem_on(rank), Failing(None, 4.0 + rank.index), ranks=rank))
    assert {type(error) for error in found} == {al.NotCertifiedError}
    assert {str(error).split(":")[0] for error in found} == {
        "rank 1 found another answer than rank 0 from the same edges"
    }


def test_a_solver_that_does_not_say_what_it_is_is_the_same_everywhere() -> None:
    found = on_ranks(2, lambda rank: al.solve(problem_on(rank), Failing(None), ranks=rank))
    assert [one.objective for one in found] == [14.0, 14.0]


def edges_on(rank: Any, scores: Any) -> al.Problem:
    """The same as edges, the last first."""
    tokens, features = np.indices(scores.shape).reshape(2, -1)[:, ::-1]
    part = al.Part(tokens=(2 * rank.index, 4))
    return al.Problem.from_edges(tokens, features, scores[tokens, features], scores.shape, budget=3, part=part)


@pytest.mark.parametrize("make", [problem_on, edges_on])
@pytest.mark.parametrize("kind", ["float64", "float16"])
def test_a_flaw_is_said_whatever_the_number_type(kind: str, make: Callable[..., al.Problem]) -> None:
    scores = np.stack([SCORES, np.where(SCORES >= 4, np.nan, SCORES)]).astype(kind)

    def checked(rank: Any) -> al.Certificate:
        return al.verify(make(rank, scores[rank.index]), al.solve(al.Problem(SCORES, 0)), ranks=rank)

    with pytest.raises(al.InvalidProblemError) as expected:
        al.Problem(np.vstack(scores), budget=3)
    for work in (lambda rank: al.solve(make(rank, scores[rank.index]), ranks=rank), checked):
        assert {str(error) for error in on_ranks(2, work)} == {str(expected.value)}


def test_one_number_for_all_may_be_given_as_a_vector() -> None:
    def solved(rank: Any) -> al.Solution:
        return al.solve(problem_on(rank, feature_caps=[2, 2, 2] if rank.index else 2), ranks=rank)

    assert [one.objective for one in on_ranks(2, solved)] == [24.0, 24.0]


@pytest.mark.parametrize("limits", [{"budget": 5}, {"budget": 5, "feature_floors": 1}])
@pytest.mark.parametrize("edges", [False, True])
def test_an_empty_rank_may_hold_any_type(limits: dict[str, Any], edges: bool) -> None:
    whole = np.array([[5, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]])
    whole += 2**62 if len(limits) == 1 and not edges else 0
    expected = al.solve(al.Problem(whole, **limits))
    start = al.Prices(al.Price(1.0), *(al.Price(np.zeros(size)) for size in (4, 3, 0, 0)))

    def solved(rank: Any) -> tuple[al.Solution, al.Certificate]:
        part = al.Part(tokens=(0, 4))
        problem = al.Problem(np.empty((0, 3)), **limits, part=part)
        if rank.index:
            tokens, features = np.indices(whole.shape).reshape(2, -1)
            problem = al.Problem(whole, **limits, part=part)
            if edges:
                problem = al.Problem.from_edges(tokens, features, whole.reshape(-1), (4, 3), **limits, part=part)
        solution = al.solve(problem, ranks=rank, warm_start=start)
        return solution, al.verify(problem, solution, ranks=rank)

    for solution, certificate in on_ranks(2, solved):
        assert certificate.optimal
        assert solution.objective == expected.objective


@pytest.mark.parametrize(
    ("shapes", "firsts", "whole", "message"),
    [
        ([(3, 4), (2, 4), (2, 0)], [(0, 0), (3, 0), (0, 4)], (5, 4), "rank 2 has tokens of no other"),
        ([(0, 0), (0, 2), (0, 0)], [(0, 0), (0, 0), (0, 0)], (0, 3), "feature 2 is in none"),
    ],
)
def test_empty_blocks_are_of_the_grid_too(shapes: Any, firsts: Any, whole: Any, message: str) -> None:
    def solved(rank: Any) -> al.Solution:
        part = al.Part(*((first, total) for first, total in zip(firsts[rank.index], whole, strict=True)))
        return al.solve(al.Problem(np.ones(shapes[rank.index]), token_caps=2, feature_floors=1, part=part), ranks=rank)

    found = on_ranks(3, solved)
    assert len({str(error) for error in found}) == 1
    assert str(found[0]).endswith(message)


def test_one_rank_holds_the_whole() -> None:
    solution = al.solve(al.Problem(SCORES, budget=2))
    (rank,) = al.thread_ranks(1)
    with pytest.raises(al.InvalidProblemError, match="blocks that make up one whole matrix"):
        al.verify(problem_on(rank, budget=2), solution, ranks=rank)
