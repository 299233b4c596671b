"""Problems in parts on several ranks: the answer of one process, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.solvers.ranked.line_cuts import in_line_order
from tests.allocation.ranks_in_threads import on_ranks
from tests.allocation.strategies import Limits, Matrix, any_case, nested, one_sided

Parts = list[tuple[slice, slice]]


def cut(size: int, pieces: list[int]) -> list[slice]:
    """Slices of a side that end at these places."""
    ends = [0, *sorted(min(piece, size) for piece in pieces), size]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def grids(shape: tuple[int, int]) -> st.SearchStrategy[Parts]:
    """Cuts of tokens, of features, or both; some blocks may be empty."""
    sides = [
        st.lists(st.integers(0, size), min_size=1, max_size=2).map(lambda at, size=size: cut(size, at))
        for size in shape
    ]
    return st.tuples(*sides).map(lambda both: [(rows, columns) for rows in both[0] for columns in both[1]])


@st.composite
def cases(draw: st.DrawFn, made: st.SearchStrategy[tuple[Matrix, Limits]]) -> tuple[Matrix, Limits, Parts]:
    scores, limits = draw(made)
    parts = draw(grids((scores.shape[0], scores.shape[1])))
    return scores, limits, draw(st.permutations(parts))


def problem_of(scores: Matrix, limits: Limits, where: tuple[slice, slice], edges: bool = False) -> al.Problem:
    rows, columns = where
    part = al.Part((rows.start, scores.shape[0]), (columns.start, scores.shape[1]))
    block = scores[rows, columns]
    if not edges:
        return al.Problem(block, **limits, part=part)
    tokens, features = np.nonzero(block > -np.inf if block.dtype.kind == "f" else np.ones(block.shape, bool))
    return al.Problem.from_edges(tokens, features, block[tokens, features], block.shape, **limits, part=part)


def assert_like_one_process(
    scores: Matrix, limits: Limits, parts: Parts, exact: bool = True, edges: bool = False, **options: Any
) -> None:
    problem = al.Problem(scores, **limits)
    expected: Any

    def solved(rank: Any) -> tuple[al.Solution, al.Certificate]:
        block = problem_of(scores, limits, parts[rank.index], edges)
        solution = al.solve(block, ranks=rank, **options)
        return solution, al.verify(block, solution, ranks=rank)

    try:
        expected = al.solve(problem, **options)
    except (al.InfeasibleError, al.UnsupportedProblemError) as error:
        expected = error
    found = on_ranks(len(parts), solved)
    for one in found:
        if isinstance(one, Exception) and not isinstance(expected, Exception):
            raise one
    if isinstance(expected, Exception):
        event("infeasible")
        assert {type(error) for error in found} == {type(expected)}
        assert len({str(error) for error in found}) == 1
        if exact:
            assert str(found[0]) == str(expected)
        return
    mask = np.zeros(scores.shape, bool)
    assert len({certificate for _, certificate in found}) == 1
    assert found[0][1].optimal, found[0][1]
    for (rows, columns), (one, _) in zip(parts, found, strict=True):
        mask[rows, columns] = one.mask()
        assert one.objective == expected.objective
        block = problem_of(scores, limits, (rows, columns), edges)
        assert np.array_equal(
            one.values,
            block.with_scores(scores[rows, columns]).matrix.values_at(
                np.ravel_multi_index((one.tokens, one.features), block.shape) if one.tokens.size else one.tokens
            ),
        )
        if exact:
            assert one.prices.budget.value == expected.prices.budget.value
            assert np.array_equal(one.prices.tokens.value, expected.prices.tokens.value[rows])
            assert np.array_equal(one.prices.features.value, expected.prices.features.value[columns])
            for side in ("token_groups", "feature_groups"):
                assert np.array_equal(getattr(one.prices, side).value, getattr(expected.prices, side).value)
    if exact:
        assert np.array_equal(mask, expected.mask())


STARTS = st.sampled_from([None, 0.0, 0.5, 1.0, 2.0, 3.0, 100.0])


def start_of(price: float | None) -> al.Prices | None:
    """Prices of another batch, true or not."""
    return None if price is None else al.Prices(*(al.Price(price if n == 0 else np.zeros(0)) for n in range(5)))


@given(cases(one_sided(max_side=7)), STARTS)
@settings(max_examples=60)  # each starts threads
def test_top_selections_are_those_of_one_process(case: tuple[Matrix, Limits, Parts], start: float | None) -> None:
    event(f"{len(case[2])} ranks")
    assert_like_one_process(*case, warm_start=start_of(start))


@given(cases(nested(max_side=6)), STARTS)
@settings(max_examples=60)  # each starts threads
def test_floors_and_groups_are_those_of_one_process(case: tuple[Matrix, Limits, Parts], start: float | None) -> None:
    event("groups" if any(name.endswith("groups") for name in case[1]) else "no groups")
    assert_like_one_process(*case, warm_start=start_of(start))


@given(cases(any_case(max_side=5)))
@settings(max_examples=60)  # each starts threads
def test_limits_of_both_sides_reach_the_value_of_one_process(case: tuple[Matrix, Limits, Parts]) -> None:
    scores, limits, parts = case
    assert_like_one_process(scores, limits, parts, exact=False)


@given(cases(one_sided(max_side=6) | nested(max_side=5)))
@settings(max_examples=60)  # each starts threads
def test_candidate_edges_may_be_in_parts_too(case: tuple[Matrix, Limits, Parts]) -> None:
    assert_like_one_process(*case, edges=True)


LARGE: dict[str, Limits] = {
    "budget": {"budget": 3000},
    "token caps": {"token_caps": 7},
    "feature caps": {"feature_caps": np.arange(500) % 9},
    "token caps and budget": {"token_caps": 9, "budget": 2500},
    "feature caps and budget": {"feature_caps": 8, "budget": 2500},
    "feature floors": {"feature_floors": 2, "budget": 3000},
    "token floors and caps": {"token_floors": 3, "token_caps": 12, "budget": 2500},
    "groups": {"feature_groups": [al.Group(range(100), cap=300, floor=250)], "budget": 2000, "feature_floors": 1},
    "both sides": {"token_caps": 8, "feature_caps": 9, "feature_floors": 1},
}


def scores_of(kind: str, tied: bool) -> Matrix:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(400, 500)) * rng.lognormal(size=500)
    scores[:, ::50] = -np.abs(scores[:, ::50])  # features that only a floor takes
    if tied:
        scores = np.rint(2 * scores) / 2
    return scores.astype(kind)


@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("name", LARGE)
def test_larger_problems_take_several_rounds(name: str, tied: bool) -> None:
    scores = scores_of("float32", tied)
    rows, columns = cut(400, [130, 131]), cut(500, [200])
    grid = [(row, column) for row in rows for column in columns]
    if name == "both sides":
        assert_like_one_process(scores, LARGE[name], grid, exact=False)
        return
    for parts in ([(row, slice(0, 500)) for row in rows], [(slice(0, 400), c) for c in columns], grid):
        assert_like_one_process(scores, LARGE[name], parts)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "int8", "int64", "uint64"])
def test_number_types(kind: str) -> None:
    parts = [(row, column) for row in cut(400, [200]) for column in cut(500, [77])]
    if kind == "bfloat16":
        torch = pytest.importorskip("torch")
        tensor = torch.from_numpy(scores_of("float32", False)).bfloat16()
        whole = al.solve(al.Problem(tensor, **LARGE["budget"]))
        parts_of = [tensor[rows, columns] for rows, columns in parts]
        places = [al.Part((rows.start, 400), (columns.start, 500)) for rows, columns in parts]
        found = on_ranks(
            4,
            lambda rank: al.solve(
                al.Problem(parts_of[rank.index], **LARGE["budget"], part=places[rank.index]), ranks=rank
            ),
        )
        assert sum(len(one.values) for one in found) == len(whole.values)
        assert {one.objective for one in found} == {whole.objective}
        return
    scores = np.abs(scores_of("float64", False)) * (20 if kind in ("int8", "float16") else 1000)
    scores = np.minimum(scores, 127).astype(kind) if kind == "int8" else scores.astype(kind)
    if kind == "uint64":
        scores += np.uint64(2**63)  # beyond what int64 and float64 hold
    for name in ("budget", "token caps and budget", *(["feature floors"] if kind != "uint64" else [])):
        assert_like_one_process(scores, LARGE[name], parts)


@pytest.mark.parametrize("name", LARGE)
def test_prices_of_another_batch_change_no_answer(name: str) -> None:
    scores = scores_of("float32", False)
    parts = [(row, slice(0, 500)) for row in cut(400, [130])]
    others = al.solve(al.Problem(scores[::-1] * np.float32(1.3), **LARGE[name])).prices
    expected = al.solve(al.Problem(scores, **LARGE[name]))

    def solved(rank: Any) -> al.Solution:
        rows, columns = parts[rank.index]
        start = al.Prices(
            others.budget, al.Price(others.tokens.value[rows]), others.features, others.token_groups,
            others.feature_groups,
        )  # fmt: skip
        return al.solve(problem_of(scores, LARGE[name], (rows, columns)), ranks=rank, warm_start=start)

    for one in on_ranks(2, solved):
        assert one.objective == expected.objective


def test_what_is_wrong_on_one_rank_is_said_on_all() -> None:
    scores = scores_of("float32", False)
    scores[300, 450] = scores[301, 2] = np.nan
    scores[10, 3] = np.inf
    parts = [(row, column) for row in cut(400, [130]) for column in cut(500, [77])]
    with pytest.raises(al.InvalidProblemError) as expected:
        al.Problem(scores, budget=10)
    found = on_ranks(4, lambda rank: al.solve(problem_of(scores, {"budget": 10}, parts[rank.index]), ranks=rank))
    assert {str(error) for error in found} == {str(expected.value)}


def part_of(
    tokens: Any, limits: Callable[[int], Limits] = lambda rank: {"budget": 3}, kinds: Any = ("f8", "f8")
) -> Any:
    """A problem of two tokens on each of two ranks."""

    def make(rank: int) -> al.Problem:
        scores = np.arange(6.0).reshape(2, 3).astype(kinds[rank])
        return al.Problem(scores, **limits(rank), part=None if tokens is None else al.Part(tokens=tokens(rank)))

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            part_of(lambda rank: (2 * rank, 4), lambda rank: {"budget": 3 + rank}),
            "budget: expected the same on every rank, found another on rank 1",
        ),
        (
            part_of(lambda rank: (2 * rank, 4), lambda rank: {"feature_caps": [1, 1 + rank, 1]}),
            "feature_caps: expected the same on every rank",
        ),
        (part_of(lambda rank: (2 * rank, 4 + rank)), "found 4 x 3 on rank 0 and 5 x 3 on rank 1"),
        (part_of(lambda rank: (0, 2)), "found that a block is on two ranks"),
        (part_of(None), "found that a block is on two ranks"),
        (part_of(lambda rank: (3 * rank, 5)), "token 2 is in none"),
        (part_of(lambda rank: (rank, 3)), "token 1 is in two"),
        (part_of(lambda rank: (2 * rank, 4), kinds=("f4", "f8")), "found float32 and float64"),
    ],
)
def test_ranks_that_do_not_fit_together_say_why(make: Callable[[int], al.Problem], message: str) -> None:
    found = on_ranks(2, lambda rank: al.solve(make(rank.index), ranks=rank))
    assert len({str(error) for error in found}) == 1
    assert isinstance(found[0], al.InvalidProblemError)
    assert message in str(found[0])


def test_a_part_needs_its_ranks() -> None:
    problem = al.Problem([[1.0, 2.0]], budget=1, part=al.Part(tokens=(1, 2)))
    for use in (al.solve, lambda p: al.soft_solve(p, 1.0), al.to_linear_program, lambda p: al.verify(p, None)):
        with pytest.raises(al.InvalidProblemError, match="problem: expected a whole one, found a part of 2 tokens"):
            use(problem)
    for solver in (al.TopSelection(), al.Laminar(), al.Assignment(), al.TwoSided(), al.LinearProgram(), al.Auto()):
        with pytest.raises(al.InvalidProblemError, match="problem: expected a whole one, found a part of 2 tokens"):
            solver.solve(problem, al.Options())
    with pytest.raises(al.InvalidProblemError, match="ranks: expected an object with index, count"):
        al.solve(problem, ranks=3)  # type: ignore[arg-type]
    with pytest.raises(al.InvalidProblemError, match=r"part.tokens: expected a block within the 2 of the whole"):
        al.Problem([[1.0, 2.0]], budget=1, part=al.Part(tokens=(2, 2)))


def test_a_failed_solve_may_be_returned_on_every_rank() -> None:
    def solved(rank: Any) -> al.Solution:
        part = al.Part(tokens=(rank.index, 2))
        return al.solve(al.Problem([[1.0, 2.0]], budget=1, feature_floors=1, part=part), ranks=rank, throw=False)

    assert [one.status for one in on_ranks(2, solved)] == [al.Status.INFEASIBLE] * 2


class Counted:
    """Ranks that count what they send."""

    def __init__(self, ranks: Any) -> None:
        self.ranks, self.index, self.count = ranks, ranks.index, ranks.count
        self.bytes = self.rounds = 0

    def sum(self, values: Matrix) -> Matrix:
        self.bytes, self.rounds = self.bytes + values.nbytes, self.rounds + 1
        return self.ranks.sum(values)

    def gather(self, values: Matrix) -> Any:
        self.bytes, self.rounds = self.bytes + values.nbytes, self.rounds + 1
        return self.ranks.gather(values)


@pytest.mark.parametrize("layout", ["tokens", "features"])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_a_budget_sends_little_whatever_the_size(layout: str, kind: str) -> None:
    """At most 256 KiB a rank, and no more rounds than the number type needs."""
    rng = np.random.default_rng(0)
    sent = []
    for size, count in ((200, 2), (1200, 2), (1200, 8)):
        scores = rng.normal(size=(size, 1000)).astype(kind)
        axis = ("tokens", "features").index(layout)
        blocks = np.array_split(scores, count, axis=axis)
        firsts = np.cumsum([0, *(block.shape[axis] for block in blocks)])

        def solved(rank: Any, axis: int = axis, blocks: Any = blocks, firsts: Any = firsts, size: int = size) -> Any:
            counted = Counted(rank)
            part = al.Part(**{layout: (int(firsts[rank.index]), (size, 1000)[axis])})
            solution = al.solve(al.Problem(blocks[rank.index], budget=16 * size, part=part), ranks=counted)
            return counted.bytes, counted.rounds, solution.objective

        found = on_ranks(count, solved)
        assert found[0][2] == al.solve(al.Problem(scores, budget=16 * size)).objective
        sent.append((max(one[0] for one in found), found[0][1]))
    assert max(size for size, _ in sent) <= 256 << 10, sent
    assert max(rounds for _, rounds in sent) <= {"float32": 8, "float64": 11}[kind], sent


# Of 400 x 500 scores with 8 matches a token: limits, cut, KiB that a rank sends at most, rounds. A search for a
# budget's price is 80 KiB and 8 rounds; floors that bind take three.
CROSSING: list[tuple[Limits, str, float, int]] = [
    ({"token_caps": 8}, "tokens", 0.2, 4),
    ({"token_caps": 8}, "features", 1.4 * 8 * 8 * 400 / 2 / 1024, 8),  # eight bytes a pair, its share of the best
    ({"feature_caps": 7}, "features", 0.2, 4),
    ({"feature_caps": 7}, "tokens", 1.5 * 8 * 7 * 500 / 2 / 1024, 8),
    ({"budget": 3200, "token_caps": 12}, "tokens", 81, 8),
    ({"budget": 3200, "token_caps": 12}, "features", 110, 12),
    ({"budget": 3200, "feature_caps": 9}, "features", 81, 8),
    ({"budget": 3200, "feature_caps": 9}, "tokens", 110, 12),
    ({"budget": 3200, "feature_floors": 5}, "tokens", 320, 40),
    ({"budget": 3200, "feature_floors": 5}, "features", 320, 40),
    ({"budget": 3200, "token_floors": 5}, "tokens", 240, 30),
    ({"budget": 3200, "token_floors": 5}, "features", 240, 30),
    ({"budget": 3200, "token_caps": 12, "feature_floors": 5}, "tokens", 24 * 3200 / 1024 + 32, 30),
    ({"budget": 3200, "token_caps": 12, "feature_floors": 5}, "features", 24 * 3200 / 1024 + 32, 30),
]


@pytest.mark.parametrize(("limits", "layout", "most", "rounds"), CROSSING, ids=str)
def test_what_crosses_is_bounded_and_does_not_grow_with_the_ranks(
    limits: Limits, layout: str, most: float, rounds: int
) -> None:
    scores = np.random.default_rng(0).normal(size=(400, 500)).astype("f4")
    axis = ("tokens", "features").index(layout)
    sent = []
    for count in (2, 6):
        blocks = np.array_split(scores, count, axis=axis)
        firsts = np.cumsum([0, *(block.shape[axis] for block in blocks)])

        def solved(rank: Any, blocks: Any = blocks, firsts: Any = firsts) -> tuple[float, int, float]:
            counted = Counted(rank)
            part = al.Part(**{layout: (int(firsts[rank.index]), scores.shape[axis])})
            solution = al.solve(al.Problem(blocks[rank.index], **limits, part=part), ranks=counted)
            return counted.bytes / 1024, counted.rounds, solution.objective

        found = on_ranks(count, solved)
        assert found[0][2] == al.solve(al.Problem(scores, **limits)).objective
        sent.append((max(size for size, _, _ in found), found[0][1]))
    assert max(size for size, _ in sent) <= most, sent
    assert max(number for _, number in sent) <= rounds, sent
    assert sent[1][0] <= 1.1 * sent[0][0], sent


@given(cases(one_sided(max_side=7, sides=("none", "feature_caps"))), st.integers(1, 3))
def test_streams_of_several_ranks_are_one_stream(case: tuple[Matrix, Limits, Parts], rows: int) -> None:
    scores, limits, _ = case
    expected = al.solve(al.Problem(scores, **limits))
    parts = np.array_split(np.ascontiguousarray(scores), 3)

    def streamed(rank: Any) -> al.Solution:
        part = parts[rank.index]
        chunks = [part[start : start + rows] for start in range(0, len(part), rows)]
        return al.select_stream(chunks, **limits, ranks=rank)

    found = on_ranks(3, streamed)
    first = np.cumsum([0, *(len(part) for part in parts)])
    assert {one.objective for one in found} == {expected.objective}
    assert np.array_equal(
        np.concatenate([one.tokens + at for one, at in zip(found, first, strict=False)]), expected.tokens
    )
    assert np.array_equal(np.concatenate([one.features for one in found]), expected.features)
    for one in found:
        assert one.prices.budget.value == expected.prices.budget.value
        if len(parts[0]):  # the number of features is known
            assert np.array_equal(one.prices.features.value, expected.prices.features.value)


def test_a_block_that_does_not_fit_is_said_on_all_ranks() -> None:
    blocks = [[np.ones((2, 3))], [np.ones((2, 3)), np.ones((2, 4))]]
    found = on_ranks(2, lambda rank: al.select_stream(blocks[rank.index], budget=2, ranks=rank))
    assert {type(error) for error in found} == {al.InvalidProblemError}
    assert len({str(error) for error in found}) == 1


@pytest.mark.parametrize("start", [None, 0.5])
def test_what_a_full_line_refuses_sets_no_price_of_the_budget(start: float | None) -> None:
    """Found by fuzzing: caps of 0 beside a budget of 0, and a guess at its price between the only two scores."""
    scores = np.array([[0.0, 0.0], [1.0, 0.25]])
    limits = {"token_caps": 0, "token_floors": 0, "budget": 0}
    parts = [(slice(0, 1), slice(0, 2)), (slice(1, 2), slice(0, 2))]
    assert_like_one_process(scores, limits, parts, warm_start=start_of(start))


def test_equals_below_0_go_to_the_first_whatever_is_offered() -> None:
    """Of equal negative scores that a group's floor forces, a rank's share of the offers held too few of the first."""
    limits = {"token_caps": [0] * 20 + [4] * 20, "token_groups": [al.Group(range(40), floor=7)]}
    parts = [(slice(0, 40), slice(10 * k, 10 * k + 10)) for k in range(8)]
    assert_like_one_process(np.full((40, 80), -1.0), limits, parts)


def test_floors_are_met_by_edges_that_lie_beyond_what_is_known() -> None:
    """Prices of another problem made all known that twice the offers held, and no more was asked for."""
    at = np.arange(60)
    scores = 1000.0 - at[:, None] - at
    limits = {"token_floors": 1, "feature_caps": 1}
    rows, none = np.where(np.isin(at, [*range(11), *range(30, 41)]), 0.0, 500.0), al.Price(np.zeros(0))

    def solved(rank: Any) -> al.Solution:
        own = slice(30 * rank.index, 30 * rank.index + 30)
        features = al.Price(np.where(at < 22, 0.0, 500.0))
        start = al.Prices(al.Price(0.0), al.Price(rows[own]), features, none, none)
        return al.solve(problem_of(scores, limits, (own, slice(0, 60))), ranks=rank, warm_start=start)

    assert [one.objective for one in on_ranks(2, solved)] == [float(np.trace(scores))] * 2


@given(
    hnp.arrays(np.int64, 30, elements=st.integers(0, 3)),
    st.sampled_from(["float16", "float32", "float64", "int8", "int32", "uint8", "uint32", "int64", "uint64"]),
    st.integers(0, 2**32),
)
def test_line_order_is_by_line_then_value_then_place(lines: Matrix, kind: str, seed: int) -> None:
    """Sorting packed integers gives what two stable sorts give, equals and zeros of both signs included."""
    draw = np.random.default_rng(seed)
    if np.dtype(kind).kind == "f":
        values = draw.choice([-np.finfo(kind).max, -1.5, -1e-6, -0.0, 0.0, 1e-6, 1.0, np.finfo(kind).max], 30).astype(
            kind
        )
    else:
        ends = np.iinfo(kind)
        values = draw.choice(np.array([ends.min, ends.min + 1, 0, 1, 5, ends.max - 1, ends.max], kind), 30)
    expected = sorted(range(30), key=lambda at: (int(lines[at]), -values[at].item(), at))
    assert in_line_order(lines, values).tolist() == expected
