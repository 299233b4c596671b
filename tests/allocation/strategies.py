"""Hypothesis strategies: small problems of every number type and mix of limits, with ties and empty sides."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

import allocation as al

FLOATS = (np.float16, np.float32, np.float64)
INTEGERS = (np.int8, np.int32, np.int64, np.uint8)
# a few values only, so that ties are the rule
TIED = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0, -np.inf])


def on_grid(score: float) -> float:
    """A multiple of 1/1024: HiGHS, the reference, tells nothing apart that is closer than 1e-7."""
    return round(score * 1024) / 1024


@st.composite
def score_matrices(draw: st.DrawFn, max_side: int = 6, min_side: int = 0) -> np.ndarray[Any, Any]:
    """A matrix of scores: tied or generic, of any supported type, at times not contiguous."""
    shape = draw(st.tuples(*[st.integers(min_side, max_side)] * 2))
    if draw(st.booleans()):
        integer = draw(st.sampled_from(INTEGERS))
        low = 0 if np.dtype(integer).kind == "u" else -4
        scores = draw(hnp.arrays(integer, shape, elements=st.integers(low, 6)))
    else:
        kind = draw(st.sampled_from(FLOATS))
        generic = st.floats(-8, 8, width=16).map(on_grid)
        scores = draw(hnp.arrays(kind, shape, elements=draw(st.sampled_from([TIED, generic, generic | TIED]))))
    layout = draw(st.sampled_from(["C", "F", "strided"]))
    if layout == "F":
        return np.asfortranarray(scores)
    return np.repeat(np.repeat(scores, 2, 0), 2, 1)[::2, ::2] if layout == "strided" else scores


def limits(size: int, most: int = 7) -> st.SearchStrategy[Any]:
    """One integer for all, or a vector."""
    return st.integers(0, most) | hnp.arrays(np.int64, size, elements=st.integers(0, most))


@st.composite
def one_sided(draw: st.DrawFn, max_side: int = 6) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Scores and limits that a top-selection solves: a budget, caps of one side, or both."""
    scores = draw(score_matrices(max_side))
    given: dict[str, Any] = {}
    side = draw(st.sampled_from(["none", "token_caps", "feature_caps"]))
    if side != "none":
        given[side] = draw(limits(scores.shape[side == "feature_caps"]))
    if side == "none" or draw(st.booleans()):
        given["budget"] = draw(st.integers(0, scores.size + 3))
    return scores, given


@st.composite
def laminar_families(draw: st.DrawFn, size: int) -> list[al.Group]:
    """Nested or disjoint intervals of a shuffled side, with caps and floors."""
    order = draw(st.permutations(range(size)))
    groups: list[al.Group] = []

    def split(start: int, stop: int, depth: int) -> None:
        if stop - start < 1 or depth > 2 or not draw(st.booleans()):
            return
        cap = draw(st.none() | st.integers(0, 8))
        floor = draw(st.none() | st.integers(0, 4))
        groups.append(al.Group(order[start:stop], cap=cap, floor=floor))
        middle = draw(st.integers(start, stop))
        split(start, middle, depth + 1)
        split(middle, stop, depth + 1)

    split(0, size, 0)
    return groups


@st.composite
def nested(draw: st.DrawFn, max_side: int = 5) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Scores and any limits on one side."""
    scores = draw(score_matrices(max_side))
    side = draw(st.sampled_from(["token", "feature"]))
    size = scores.shape[side == "feature"]
    given: dict[str, Any] = {}
    if draw(st.booleans()):
        given["budget"] = draw(st.integers(0, scores.size + 1))
    if draw(st.booleans()):
        given[f"{side}_caps"] = draw(limits(size, 5))
    if draw(st.booleans()):
        given[f"{side}_floors"] = draw(limits(size, 2))
    given[f"{side}_groups"] = draw(laminar_families(size))
    return scores, given


@st.composite
def any_limits(draw: st.DrawFn, shape: tuple[int, int]) -> dict[str, Any]:
    """Every mix of a budget, caps, floors and nested groups of both sides, feasible or not."""
    given: dict[str, Any] = {}
    for side, size in zip(("token", "feature"), shape, strict=True):
        if draw(st.booleans()):
            given[f"{side}_caps"] = draw(limits(size, 4))
        if draw(st.booleans()):
            given[f"{side}_floors"] = draw(limits(size, 2))
        given[f"{side}_groups"] = draw(laminar_families(size))
    if draw(st.booleans()):
        given["budget"] = draw(st.integers(0, shape[0] * shape[1]))
    return given


@st.composite
def any_problem(draw: st.DrawFn, max_side: int = 4, min_side: int = 1) -> al.Problem:
    """Every kind of limit at once, feasible or not."""
    scores = draw(score_matrices(max_side, min_side))
    return al.Problem(scores, **draw(any_limits(scores.shape)))
