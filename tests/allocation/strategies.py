"""Hypothesis strategies: small problems of every number type and mix of limits, with ties and empty sides.

Limits are drawn around the counts of a planned allocation, so that most problems have an answer and most limits bind;
`test_strategies.py` holds the share of those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

import allocation as al

Matrix: TypeAlias = np.ndarray[Any, Any]
Limits: TypeAlias = dict[str, Any]

FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (np.int8, np.int32, np.int64, np.uint8)
# a few values only, so that ties are the rule
TIED = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0, -np.inf])

# by how much a limit leaves the counts room that it was drawn around
SPARE = st.sampled_from([0, 0, 0, 1])


def on_grid(score: float) -> float:
    """A multiple of 1/1024: HiGHS, the reference, tells nothing apart that is closer than 1e-7."""
    return round(score * 1024) / 1024


@st.composite
def shapes(draw: st.DrawFn, max_side: int, min_side: int) -> tuple[int, int]:
    """Two or more tokens and features; one time in eight any shape, the empty ones too."""
    least = min_side if draw(st.integers(0, 7)) == 0 else max(min_side, 2)
    return draw(st.tuples(*[st.integers(least, max_side)] * 2))


@st.composite
def score_matrices(draw: st.DrawFn, max_side: int = 6, min_side: int = 0) -> Matrix:
    """A matrix of scores: tied or generic, of any supported type, at times not contiguous."""
    shape = draw(shapes(max_side, min_side))
    if draw(st.booleans()):
        integer = draw(st.sampled_from(INTEGERS))
        low = 0 if np.dtype(integer).kind == "u" else -4
        scores = draw(hnp.arrays(integer, shape, elements=st.integers(low, 6), fill=st.nothing()))
    else:
        kind = draw(st.sampled_from(FLOATS))
        generic = st.floats(-8, 8, width=16).map(on_grid)
        elements = draw(st.sampled_from([TIED, generic, generic | TIED]))
        scores = draw(hnp.arrays(kind, shape, elements=elements, fill=st.nothing()))
    layout = draw(st.sampled_from(["C", "F", "strided"]))
    if layout == "F":
        return np.asfortranarray(scores)
    return np.repeat(np.repeat(scores, 2, 0), 2, 1)[::2, ::2] if layout == "strided" else scores


def limits(size: int, most: int = 7) -> st.SearchStrategy[Any]:
    """One integer for all, or a vector."""
    return st.integers(0, most) | hnp.arrays(np.int64, size, elements=st.integers(0, most))


@st.composite
def plans(draw: st.DrawFn, within: Matrix) -> Matrix:
    """An allocation on the entries that are true."""
    rows, columns = within.shape
    bits = draw(st.lists(st.integers(0, 2**columns - 1), min_size=rows, max_size=rows))
    return within & (np.array(bits, np.int64).reshape(rows, 1) >> np.arange(columns) & 1).astype(bool)


@st.composite
def caps_around(draw: st.DrawFn, counts: Matrix) -> Any:
    """One cap for all or a vector, the counts within them and some exactly at them."""
    if draw(st.integers(0, 3)) == 0:
        return int(counts.max(initial=0))
    return counts + np.array(draw(st.lists(SPARE, min_size=counts.size, max_size=counts.size)), np.int64)


@st.composite
def floors_around(draw: st.DrawFn, counts: Matrix) -> Any:
    """One floor for all or a vector, the counts within them and some exactly at them."""
    if draw(st.integers(0, 3)) == 0:
        return int(counts.min(initial=2))
    below = np.array(draw(st.lists(SPARE, min_size=counts.size, max_size=counts.size)), np.int64)
    return np.maximum(counts - below, 0)


@st.composite
def one_sided(
    draw: st.DrawFn, max_side: int = 6, sides: tuple[str, ...] = ("none", "token_caps", "feature_caps")
) -> tuple[Matrix, Limits]:
    """Scores and limits that a top-selection solves: a budget, caps of one side, or both."""
    scores = draw(score_matrices(max_side))
    plan = draw(plans(scores > 0))
    given: Limits = {}
    side = draw(st.sampled_from(sides))
    if side != "none":
        given[side] = draw(caps_around(plan.sum(axis=int(side == "token_caps"))))
    if side == "none" or draw(st.booleans()):
        enough = draw(st.integers(0, 7)) == 0
        given["budget"] = draw(st.integers(0, scores.size + 3) if enough else st.integers(1, max(1, int(plan.sum()))))
    return scores, given


@st.composite
def laminar_families(draw: st.DrawFn, counts: Matrix) -> list[al.Group]:
    """Nested or disjoint intervals of a shuffled side, with caps and floors around these counts of its lines."""
    order = draw(st.permutations(range(counts.size)))
    groups: list[al.Group] = []

    def split(start: int, stop: int, depth: int) -> None:
        if stop - start < 1 or depth > 2 or (depth > 0 and not draw(st.booleans())):
            return
        count = int(counts[order[start:stop]].sum())
        kinds = draw(st.sampled_from(["cap", "floor", "both", "neither"] if depth else ["both", "cap", "floor"]))
        cap = count + draw(SPARE) if kinds in ("cap", "both") else None
        floor = max(0, count - draw(SPARE)) if kinds in ("floor", "both") else None
        groups.append(al.Group(order[start:stop], cap=cap, floor=floor))
        middle = draw(st.integers(start, stop))
        split(start, middle, depth + 1)
        split(middle, stop, depth + 1)

    split(0, counts.size, 0)
    return groups + draw(st.lists(degenerate_groups(counts), max_size=2))


def degenerate_groups(counts: Matrix) -> st.SearchStrategy[al.Group]:
    """Groups that any family may have more of: without members, or of a whole side, limited or not."""
    total = int(counts.sum())
    nobody = st.builds(al.Group, st.just([]), st.sampled_from([None, 0, 1]), st.sampled_from([None, 0]))
    floors = st.sampled_from([None, 0, total])
    everybody = st.builds(al.Group, st.just(range(counts.size)), st.sampled_from([None, total, total + 1]), floors)
    return nobody | everybody


@st.composite
def planned(draw: st.DrawFn, scores: Matrix, agreed: bool | None = None) -> Callable[[], Matrix]:
    """Plans to draw limits around: `agreed` the same for all limits, which it keeps; else often a contradiction.

    By default they are agreed, but for one time in six.
    """
    within = scores > -np.inf
    if draw(st.integers(0, 5)) > 0 if agreed is None else agreed:
        plan = draw(plans(within))
        return lambda: plan
    return lambda: draw(plans(within))


def limits_around(plan: Callable[[], Matrix], names: set[str]) -> st.SearchStrategy[Limits]:
    """The named limits."""
    made: dict[str, st.SearchStrategy[Any]] = {}
    for axis, side in enumerate(("token", "feature")):
        for kind, around in (("caps", caps_around), ("floors", floors_around), ("groups", laminar_families)):
            if f"{side}_{kind}" in names:
                made[f"{side}_{kind}"] = around(plan().sum(axis=1 - axis))
    if "budget" in names:
        made["budget"] = SPARE.map(int(plan().sum()).__add__)
    return st.fixed_dictionaries(made)


def names_of_limits(least: int, *sides: str) -> st.SearchStrategy[set[str]]:
    """A budget and limits of these sides, so many or more of them."""
    names = ["budget", *(f"{side}_{kind}" for side in sides for kind in ("caps", "floors", "groups"))]
    return st.sets(st.sampled_from(names), min_size=least)


@st.composite
def nested(draw: st.DrawFn, max_side: int = 5, agreed: bool | None = None) -> tuple[Matrix, Limits]:
    """Scores and any limits on one side."""
    scores = draw(score_matrices(max_side))
    names = draw(names_of_limits(2, draw(st.sampled_from(["token", "feature"]))))
    return scores, draw(limits_around(draw(planned(scores, agreed)), names))


@st.composite
def any_limits(draw: st.DrawFn, scores: Matrix, agreed: bool | None = None) -> Limits:
    """Every mix of a budget, caps, floors and nested groups of both sides, feasible or not."""
    names = draw(names_of_limits(3, "token", "feature"))
    return draw(limits_around(draw(planned(scores, agreed)), names))


@st.composite
def any_case(
    draw: st.DrawFn, max_side: int = 4, min_side: int = 0, agreed: bool | None = None
) -> tuple[Matrix, Limits]:
    """Scores and every kind of limit at once, feasible or not."""
    scores = draw(score_matrices(max_side, min_side))
    return scores, draw(any_limits(scores, agreed))


def any_problem(max_side: int = 4, min_side: int = 1, agreed: bool | None = None) -> st.SearchStrategy[al.Problem]:
    """Every kind of limit at once, feasible or not."""
    return any_case(max_side, min_side, agreed).map(lambda case: al.Problem(case[0], **case[1]))
