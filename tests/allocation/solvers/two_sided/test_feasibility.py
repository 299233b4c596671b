"""Contradictions between floors and caps are found before the search, and only where there are some."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import allocation as al
from allocation.solvers.two_sided import feasibility
from allocation.solvers.two_sided.circulation import network_of
from allocation.solvers.two_sided.infeasibility import witness
from tests.allocation.integer_program import best_value
from tests.allocation.strategies import Limits, Matrix, any_case, floors_around, plans, score_matrices


@st.composite
def demanding(draw: st.DrawFn) -> tuple[Matrix, Limits]:
    """Floors and caps drawn apart, so that they often contradict each other."""
    scores = draw(score_matrices(max_side=5, min_side=1))
    counts = [draw(plans(scores > -np.inf)) for _ in range(3)]
    limits: Limits = {
        "token_floors": draw(floors_around(counts[0].sum(axis=1))),
        "feature_floors": draw(floors_around(counts[1].sum(axis=0))),
        "token_caps": counts[2].sum(axis=1) + draw(st.integers(0, 2)),
    }
    if draw(st.booleans()):
        limits["feature_caps"] = draw(st.integers(1, 4))
    if draw(st.booleans()):
        limits["budget"] = draw(st.integers(0, scores.size))
    return scores, limits


def contradicts(scores: Matrix, limits: Limits) -> bool:
    """Whether a contradiction is found; if so, its sentence must be one."""
    problem = al.Problem(scores, **limits)
    try:
        network = network_of(problem)
    except al.InfeasibleError:
        return True
    inside = feasibility.contradiction(problem, network)
    if inside is None:
        return False
    sentence = witness(problem, network, inside)
    found = re.search(r"demand (\d+) match(?:es)?, more than the (\d+) that", sentence)
    assert found, sentence
    assert int(found[1]) > int(found[2]), sentence
    return True


@given(demanding())
def test_found_where_there_is_no_allocation(case: tuple[Matrix, Limits]) -> None:
    assert contradicts(*case) == (best_value(*case) is None)


@given(any_case(max_side=5))
def test_with_groups(case: tuple[Matrix, Limits]) -> None:
    assert contradicts(*case) == (best_value(*case) is None)


@given(demanding())
def test_counts_alone_decide_where_nothing_is_forbidden(case: tuple[Matrix, Limits]) -> None:
    scores = np.zeros(case[0].shape)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(feasibility, "_by_flow", lambda *_: pytest.fail("a flow was asked for"))
        found = contradicts(scores, case[1])
    assert found == (best_value(scores, case[1]) is None)


@pytest.mark.parametrize("spare", [0, 1])
def test_few_edges_first(monkeypatch: pytest.MonkeyPatch, spare: int) -> None:
    calls: list[int] = []
    by_flow = feasibility._by_flow

    def counted(network: Any, tokens: Any, features: Any) -> Any:
        calls.append(tokens.size)
        return by_flow(network, tokens, features)

    monkeypatch.setattr(feasibility, "_by_flow", counted)
    scores = np.random.default_rng(0).standard_normal((200, 200))
    scores[100:, :50] = -np.inf
    # 50 features that only 100 tokens may serve, two matches each
    limits = {"feature_floors": np.where(np.arange(200) < 50, 4, 0), "token_caps": np.full(200, 1 + spare)}
    assert contradicts(scores, limits) == (spare == 0)
    assert len(calls) == 1 + (spare == 0)
    assert calls[0] < scores.size / 4


def test_larger_problems_are_left_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feasibility, "MOST_EDGES", 3)
    scores = np.array([[1.0, -np.inf], [1.0, -np.inf]])
    assert not contradicts(scores, {"token_floors": 1, "feature_caps": 1})
    with pytest.raises(al.InfeasibleError, match="demand 2 matches, more than the 1"):
        al.solve(al.Problem(scores, token_floors=1, feature_caps=1), al.TwoSided())
