"""OR-tools as the start of a two-sided search: the same values, proved; and where it stays out."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import allocation as al
from allocation.solvers.two_sided import compiled_flow, first_candidates, solver, starting_point
from benchmarks import rivals_families as families
from tests.allocation.strategies import Limits, Matrix, any_case

LIMITS = {"budget": 300, "token_caps": 12, "token_floors": 3, "feature_caps": 10, "feature_floors": 2}


@pytest.fixture
def always() -> Iterator[list[bool]]:
    """OR-tools is asked whatever is out of balance, and what it answered is noted."""
    answered: list[bool] = []
    start = compiled_flow.compiled_start

    def noted(*arguments: object) -> object:
        found = start(*arguments)  # type: ignore[arg-type]
        answered.append(found is not None)
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiled_flow, "LEAST_IMBALANCE", -1)
        patched.setattr(compiled_flow, "compiled_start", noted)
        yield answered


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(any_case(max_side=5))
def test_the_same_values(always: list[bool], case: tuple[Matrix, Limits]) -> None:
    problem = al.Problem(case[0], **case[1])
    plain = al.solve(problem, al.TwoSided(), throw=False)
    ours = al.solve(problem, al.TwoSided(compiled=True), throw=False)
    assert ours.status is plain.status
    if plain.status is al.Status.OPTIMAL:
        certificate = al.verify(problem, ours)
        assert certificate.optimal, certificate
        assert ours.objective == pytest.approx(plain.objective, rel=1e-12, abs=1e-12)


def test_scales_far_apart_take_few_grids() -> None:
    """On one grid the small scores are lost, and OR-tools balances each of the grids that refinement goes through."""
    scores = families.twelve_orders(np.random.default_rng(0), (300, 160))
    limits = {"token_caps": 6, "token_floors": 1, "feature_caps": 16, "feature_floors": 2}
    problem = al.Problem(scores, **limits)
    found, plain = (al.solve(problem, al.TwoSided(compiled=compiled)) for compiled in (True, False))
    assert al.verify(problem, found).optimal
    assert found.objective == pytest.approx(plain.objective, rel=1e-12)
    assert found.stats["phases"] < plain.stats["phases"] / 3


@settings(max_examples=25)
@given(any_case(max_side=5))
def test_the_same_values_where_edges_are_left_out(case: tuple[Matrix, Limits]) -> None:
    problem = al.Problem(case[0], **case[1])
    plain = al.solve(problem, al.TwoSided(), throw=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(solver, "ALWAYS_ALL", 0)
        for module in (compiled_flow, starting_point):
            patched.setattr(module, "LEAST_IMBALANCE", 0)
        for name, number in (("IN_VAIN", 0), ("FAR_OFF", 2), ("SMALL", 12)):
            patched.setattr(starting_point, name, number)
        for name in ("EXTRA", "WIDE"):
            patched.setattr(first_candidates, name, 1)
        ours = al.solve(problem, al.TwoSided(compiled=True), throw=False)
    assert ours.status is plain.status
    if plain.status is al.Status.OPTIMAL:
        certificate = al.verify(problem, ours)
        assert certificate.optimal, certificate
        assert ours.objective == pytest.approx(plain.objective, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("family", [*families.STRUCTURED, *families.RANK_ONE, "twelve orders", "two-cost"])
def test_families(always: list[bool], family: str) -> None:
    known = {**families.STRUCTURED, **families.RANK_ONE, "twelve orders": families.twelve_orders}
    scores = {**known, "two-cost": families.two_cost}[family](np.random.default_rng(0), (40, 50))
    problem = al.Problem(scores, **LIMITS)
    solution = al.solve(problem, al.TwoSided(compiled=True))
    assert any(always)
    assert solution.stats["compiled"] == "OR-tools"
    assert al.verify(problem, solution).optimal
    assert solution.objective == pytest.approx(al.solve(problem, al.TwoSided()).objective, rel=1e-12)


def test_hard_ones_take_few_phases() -> None:
    scores = families.products(np.random.default_rng(0), (100, 150))
    problem = al.Problem(scores, budget=1000, token_caps=16, token_floors=4, feature_caps=13, feature_floors=2)
    plain = al.solve(problem, al.TwoSided())
    solution = al.solve(problem)
    assert "compiled" not in plain.stats
    assert solution.stats["compiled"] == "OR-tools"
    assert 5 * solution.stats["phases"] < plain.stats["phases"]
    assert solution.objective == pytest.approx(plain.objective, rel=1e-12)


@pytest.mark.parametrize("floors", [False, True])
@pytest.mark.parametrize("family", [*families.STRUCTURED, *families.RANK_ONE, "normal", "two-cost"])
def test_edges_join_those_that_each_line_offers(family: str, floors: bool) -> None:
    known = {**families.STRUCTURED, **families.RANK_ONE, **families.ASSIGNMENT, "normal": families.normal}
    limits = {**LIMITS, "budget": 800} if floors else {"budget": 800, "token_caps": 12, "feature_caps": 10}
    problem = al.Problem(known[family](np.random.default_rng(0), (160, 210)), **limits)
    solution = al.solve(problem, al.TwoSided(compiled=True))
    if family in (*families.STRUCTURED, *families.RANK_ONE):
        assert solution.stats["compiled"] == "OR-tools"
    assert al.verify(problem, solution).optimal


@pytest.mark.parametrize("family", ["a_i b_j", "normal", "two-cost"])
def test_some_edges_first_without_ortools(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    known = {**families.STRUCTURED, **families.ASSIGNMENT, "normal": families.normal}
    monkeypatch.setattr(compiled_flow, "is_installed", lambda: False)
    problem = al.Problem(known[family](np.random.default_rng(0), (160, 210)), **{**LIMITS, "budget": 800})
    assert al.verify(problem, al.solve(problem, al.TwoSided(compiled=True))).optimal


def test_where_it_stays_out(always: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    problem = al.Problem(families.products(np.random.default_rng(0), (40, 50)), **LIMITS)
    start = al.solve(problem, al.TwoSided()).prices
    al.solve(problem, warm_start=start)
    al.solve(problem, max_seconds=600)
    al.solve(problem, al.TwoSided())
    assert not always
    monkeypatch.setattr(compiled_flow, "is_installed", lambda: False)
    al.solve(problem, al.TwoSided(compiled=True))
    assert not always


def test_a_flow_that_fails_is_left_to_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = al.Problem(families.products(np.random.default_rng(0), (40, 50)), **LIMITS)
    monkeypatch.setattr(compiled_flow, "LEAST_IMBALANCE", -1)
    monkeypatch.setattr(compiled_flow, "_flow", lambda *_: None)
    solution = al.solve(problem)
    assert "compiled" not in solution.stats
    assert al.verify(problem, solution).optimal


def test_auto_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = importlib.import_module("allocation.solve")  # `allocation.solve` itself is the function
    problem = al.Problem([[1.0, 2.0]], token_caps=1, feature_floors=1)
    assert al.Auto().explain(problem).endswith("need prices on both, by OR-tools where they are hard")
    monkeypatch.setattr(solve, "is_installed", lambda: False)
    assert al.Auto().explain(problem).endswith("need prices on both")
