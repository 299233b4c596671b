"""The arrays must be those SciPy solves, with the sign conventions the docstring states."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csc_array

import allocation as al
from tests.allocation.integer_program import best_value, limits_of
from tests.allocation.strategies import any_problem


@given(any_problem())
@settings(max_examples=100)
def test_integer_programme_linear_programme_and_certificate_agree(problem: al.Problem) -> None:
    program = al.to_linear_program(problem)
    relaxed = linprog(program.c, program.A_ub, program.b_ub, bounds=program.bounds) if program.c.size else None
    solution = al.solve(problem, al.LinearProgram(), throw=False)
    best = best_value(problem.scores, limits_of(problem))
    assert (best is None) == (solution.status is al.Status.INFEASIBLE)
    if best is not None:
        assert solution.objective == pytest.approx(best, rel=1e-12, abs=1e-12)
    if program.c.size and program.b_ub.size:
        integral = milp(
            program.c,
            constraints=LinearConstraint(program.A_ub, ub=program.b_ub),
            integrality=np.ones_like(program.c),
            bounds=Bounds(*program.bounds),
        )
        assert (integral.status == 2) == (solution.status is al.Status.INFEASIBLE) == (relaxed.status == 2)
        if solution.status is al.Status.OPTIMAL:
            assert integral.fun == pytest.approx(-solution.objective, abs=1e-7)
            assert relaxed.fun == pytest.approx(integral.fun, abs=1e-7)
    if solution.status is al.Status.OPTIMAL:
        assert al.verify(problem, solution).optimal
    else:
        assert "demand" in str(solution.error)


@given(any_problem())
@settings(max_examples=60)
def test_highs_reads_the_written_programme_as_it_is(problem: al.Problem) -> None:
    """Every number, and the same answer; by the HiGHS that SciPy brings, which reads files."""
    _core = pytest.importorskip("scipy.optimize._highspy._core")
    program = al.to_linear_program(problem)
    with tempfile.TemporaryDirectory() as folder:
        program.write(f"{folder}/x.mps")
        highs = _core._Highs()
        highs.setOptionValue("output_flag", False)
        assert highs.readModel(f"{folder}/x.mps") == _core.HighsStatus.kOk
    read = highs.getModel().lp_
    assert (read.num_row_, read.num_col_) == program.A_ub.shape
    for found, expected in (
        (read.col_cost_, program.c),
        (read.row_upper_, program.b_ub),
        (read.row_lower_, np.full(program.b_ub.size, -np.inf)),
        (read.col_lower_, np.zeros(program.c.size)),
        (read.col_upper_, np.ones(program.c.size)),
    ):
        np.testing.assert_array_equal(found, expected)
    matrix = csc_array((read.a_matrix_.value_, read.a_matrix_.index_, read.a_matrix_.start_), program.A_ub.shape)
    assert (matrix != program.A_ub).nnz == 0
    if program.c.size and program.b_ub.size:
        highs.run()
        relaxed = linprog(program.c, program.A_ub, program.b_ub, bounds=program.bounds)
        infeasible = highs.getModelStatus() == _core.HighsModelStatus.kInfeasible
        assert infeasible == (relaxed.status == 2)
        if not infeasible:
            assert highs.getObjectiveValue() == pytest.approx(relaxed.fun, abs=1e-7)


@given(any_problem(agreed=False))
@settings(max_examples=40)
def test_an_infeasible_answer_names_limits_that_contradict_each_other(problem: al.Problem) -> None:
    """The named floors and caps alone, on the same edges, are infeasible already."""
    solution = al.solve(problem, al.LinearProgram(), throw=False)
    if solution.status is not al.Status.INFEASIBLE:
        return
    text = str(solution.error)
    named = {name: name.split("_")[0] + "s" in text for name in ("token_floors", "feature_floors")}
    named |= {"token_groups": "token_groups" in text, "feature_groups": "feature_groups" in text}
    assert any(named.values()), text
    kept = {name: getattr(problem, name) for name in named if named[name]}
    caps = {name: getattr(problem, name) for name in ("token_caps", "feature_caps", "budget")}
    assert al.solve(al.Problem(problem.scores, **kept, **caps), throw=False).status is al.Status.INFEASIBLE


def test_price_of_a_cap_is_minus_its_marginal_and_of_a_floor_plus_its_marginal() -> None:
    problem = al.Problem([[5.0, -2.0], [4.0, -3.0]], budget=3, feature_caps=[1, 2], feature_floors=[0, 1])
    program = al.to_linear_program(problem)
    marginals = linprog(program.c, program.A_ub, program.b_ub, bounds=program.bounds).ineqlin.marginals
    solution = al.solve(problem, al.LinearProgram())
    assert al.verify(problem, solution).optimal
    cap = np.flatnonzero((program.blocks == "features") & (program.signs > 0) & (program.members == 0))
    floor = np.flatnonzero((program.blocks == "features") & (program.signs < 0) & (program.members == 1))
    assert -marginals[cap] == pytest.approx(solution.prices.features.value[0])
    assert marginals[floor] == pytest.approx(solution.prices.features.value[1])
    assert solution.prices.features.value[0] > 0 > solution.prices.features.value[1]
    # one more unit of the first feature's cap is worth 4, of the second's floor costs 3
    assert solution.prices.features.lower[0] == pytest.approx(4.0)
    assert solution.prices.features.lower[1] == pytest.approx(-3.0)


def test_a_block_crossing_both_sides_would_have_a_fractional_vertex() -> None:
    """Why such groups are refused: caps of 1 on three crossing sets that pairwise share an edge."""
    program = al.to_linear_program(al.Problem([[1.0, 1.0], [1.0, -np.inf]], token_caps=1, feature_caps=1))
    crossing = np.array([[0.0, 1.0, 1.0]])  # the block of edges (0, 1) and (1, 0)
    A = np.vstack([program.A_ub.toarray(), crossing])
    result = linprog(program.c, A, np.append(program.b_ub, 1.0), bounds=program.bounds)
    assert -result.fun == pytest.approx(1.5)
    np.testing.assert_allclose(result.x, 0.5)


def test_auto_never_takes_the_linear_programme_for_large_problems() -> None:
    small = al.balanced_choice(np.eye(4), token_caps=1, feature_caps=1)
    assert al.verify(small, al.solve(small)).optimal
    large = al.token_choice(np.random.default_rng(0).random((200, 101)), 3)
    assert al.solve(large).stats["solver"] != "LinearProgram"
