"""Defects seen in other libraries that solve such problems: ours must have none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import allocation as al

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1)])
@pytest.mark.parametrize("limits", [{"budget": 1}, {"token_caps": 1}, {"feature_caps": 1}])
@pytest.mark.parametrize("form", ["entropy", "clipped"])
def test_entmax_budget_gradient_where_an_axis_has_size_1(
    shape: tuple[int, int], limits: dict[str, int], form: str
) -> None:
    """Its `budget_bisect` sums the gradient over the wrong axis there."""
    scores = RNG.normal(size=shape) + 0.3
    soft = al.soft_solve(al.Problem(scores, **limits), 0.8, form)
    step = 1e-6
    for unit in np.eye(scores.size):
        change = step * unit.reshape(shape)
        ahead, behind = (
            al.soft_solve(al.Problem(scores + sign * change, **limits), 0.8, form).allocation for sign in (1, -1)
        )
        np.testing.assert_allclose(soft.vjp(unit.reshape(shape)), (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_entmax_infeasible_budgets_are_silent() -> None:
    with pytest.raises(al.InfeasibleError, match="demand"):
        al.solve(al.Problem(np.ones((3, 2)), budget=2, token_floors=1))
    with pytest.raises(al.InfeasibleError, match=r"floor 7, but only 6 allowed matches"):
        al.solve(al.Problem(np.ones((3, 2)), budget=7, token_groups=[al.Group(range(3), floor=7)]))


@pytest.mark.parametrize("value", [1.1, 1e-30, 3e38])
def test_entmax_float32_ties_miss_the_budget(value: float) -> None:
    scores = np.full((7, 9), value, np.float32)
    for limits in ({"budget": 10}, {"budget": 10, "token_caps": 2}, {"budget": 10, "token_caps": 2, "feature_caps": 2}):
        problem = al.Problem(scores, **limits)
        solution = al.solve(problem)
        assert solution.tokens.size == 10
        assert al.verify(problem, solution).optimal
    soft = al.soft_solve(al.mutual_choice(scores, 10), 1e-3 * value)
    assert soft.allocation.sum() == pytest.approx(10, rel=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_pot_ignores_the_mass_asked_for_when_costs_are_negative(sign: float) -> None:
    """An exact total holds whatever the sign of the scores."""
    scores = sign * RNG.uniform(1, 2, size=(5, 6))
    for total in (0, 4, 11):
        everything = [al.Group(range(5), floor=total)]
        problem = al.Problem(scores, budget=total, token_caps=3, feature_caps=2, token_groups=everything)
        solution = al.solve(problem)
        assert solution.tokens.size == total
        assert al.verify(problem, solution).optimal


def test_pot_puts_more_than_one_on_a_pair() -> None:
    """Two tokens and two features with two matches each: the favourite pair is matched once, not twice."""
    scores = np.array([[9.0, 1.0], [1.0, 0.5]])
    solution = al.solve(al.balanced_choice(scores, token_caps=2, feature_caps=2))
    np.testing.assert_array_equal(solution.mask(), np.ones((2, 2), bool))
    soft = al.soft_solve(al.balanced_choice(scores, token_caps=2, feature_caps=2), 0.01)
    assert soft.allocation.max() <= 1


NAN = np.array([[1.0, np.nan], [0.0, 2.0]])


@pytest.mark.parametrize(
    "call",
    [
        lambda: al.Problem(NAN),
        lambda: al.Problem(NAN.astype(np.float16)),
        lambda: al.balanced_choice(NAN, token_caps=1, feature_caps=1),
        lambda: al.Problem.from_edges([0, 0], [0, 1], NAN[0], shape=(2, 2)),
        lambda: al.select_stream([NAN], budget=1),
        lambda: al.soft_solve(al.token_choice([[1.0, 2.0]], 1), 0.5).vjp(NAN[:1]),
    ],
)
def test_lap_accepts_nan(call: Callable[[], Any]) -> None:
    with pytest.raises(al.InvalidProblemError, match=r"1 entries are (NaN|not finite), the first at"):
        call()
