"""Limits on both sides of scores on a device: proved there, with only few edges crossing over."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.cuda.scores import DeviceScores
from allocation.cuda.torch_engine import TorchEngine
from allocation.solvers.two_sided import block_passes
from tests.allocation.cuda.host_device import HostDevice
from tests.allocation.cuda.matrices import drawn, typed


@dataclass(frozen=True, eq=False)
class StrictEngine:
    """Arrays that know the array standard and nothing else; notes how much crosses over."""

    crossed: list[int] = field(default_factory=list)
    namespace: Any = array_api_strict

    def scope(self) -> AbstractContextManager[None]:
        return nullcontext()

    def wait(self) -> None:
        pass

    def put(self, array: np.ndarray) -> Any:
        return array_api_strict.asarray(np.ascontiguousarray(array))

    def get(self, array: Any) -> np.ndarray:
        self.crossed.append(array.size)
        return np.asarray(array)

    def returned(self, array: Any) -> Any:
        return np.asarray(array)


def strict(scores: np.ndarray) -> DeviceScores:
    engine: Any = StrictEngine()
    return DeviceScores(engine.put(scores), scores.dtype.name, engine)


def on_tensor(scores: np.ndarray, type_name: str = "") -> DeviceScores:
    tensor = torch.from_numpy(scores)
    return DeviceScores(
        tensor.view(torch.bfloat16) if type_name == "bfloat16" else tensor,
        type_name or scores.dtype.name,
        TorchEngine("cpu"),
    )


def on_kernels(scores: np.ndarray, type_name: str = "") -> DeviceScores:
    device = HostDevice()
    return DeviceScores(device.put(scores), type_name or scores.dtype.name, device)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of the tests count as large: sampled, thinned, and in several blocks."""
    for module in (
        "solvers.two_sided.solver",
        "solvers.two_sided.first_candidates",
        "solvers.two_sided.starting_point",
    ):
        monkeypatch.setattr(sys.modules[f"allocation.{module}"], "SMALL", 100)
    monkeypatch.setattr(sys.modules["allocation.solvers.two_sided.solver"], "ALWAYS_ALL", 100)
    monkeypatch.setattr("allocation.solvers.two_sided.first_candidates.SAMPLE", 1500)
    monkeypatch.setattr("allocation.cuda.scores.DEVICE_ENTRIES", 900)


LIMITS: list[dict[str, Any]] = [
    {"token_caps": 4, "feature_caps": 5},
    {"token_caps": 6, "token_floors": 1, "feature_caps": 9, "feature_floors": 2, "budget": 260},
    {"token_floors": 2, "feature_caps": 20, "budget": 200},
    {
        "token_groups": [al.Group(range(0, 40), cap=90)],
        "feature_groups": [al.Group(range(0, 30), cap=60, floor=10), al.Group(range(0, 10), cap=30)],
        "token_caps": 5,
    },
]


@pytest.mark.parametrize("kind", ["generic", "tied"])
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("place", [strict, on_tensor, on_kernels])
def test_the_optimum_and_its_certificate(place: Any, limits: dict[str, Any], kind: str) -> None:
    """The value of main memory, prices that prove it, and their intervals."""
    scores = drawn((90, 70), kind, 3).astype(np.float32)
    scores[scores < -2] = -np.inf
    problem = al.Problem(place(scores), **limits)
    found, expected = al.solve(problem), al.solve(al.Problem(scores, **limits))
    assert found.stats["solver"] == "TwoSided"
    assert found.objective == expected.objective
    assert al.verify(al.Problem(scores, **limits), found.on_host()).optimal
    for name, price in vars(expected.prices).items():
        ours = getattr(found.prices, name)
        np.testing.assert_allclose(ours.lower, price.lower, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(ours.upper, price.upper, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("type_name", ["float16", "bfloat16", "float64", "int32"])
@pytest.mark.parametrize("place", [on_tensor, on_kernels])
def test_every_type(place: Any, type_name: str) -> None:
    """Compared in a type that holds the scores."""
    held, plain = typed(10 * drawn((90, 70), "generic", 5), type_name)
    limits = {"token_caps": 4, "feature_caps": 6, "feature_floors": 1}
    found = al.solve(al.Problem(place(held, type_name), **limits))
    assert found.objective == al.solve(al.Problem(plain, **limits)).objective
    assert al.verify(al.Problem(plain, **limits), found.on_host()).optimal


@pytest.mark.parametrize("place", [strict, on_tensor, on_kernels])
def test_integers_that_sums_would_round_are_refused_there_too(place: Any) -> None:
    scores = np.full((4, 3), 2**50)
    problem = al.Problem(place(scores), token_caps=1, feature_caps=2)
    assert al.verify(problem, al.solve(problem).on_host()) == al.Certificate(True, 0.0, 0.0, ())
    scores[2, 1] -= 2**53
    with pytest.raises(al.InvalidProblemError, match="1 entries are beyond, the first at token 2, feature 1"):
        al.Problem(place(scores), token_caps=1, feature_caps=2)


def test_only_few_edges_cross() -> None:
    """No block of the matrix comes over: candidate edges and the edges of a few tokens do."""
    scores = drawn((400, 300), "generic", 1).astype(np.float32)
    matrix = strict(scores)
    problem = al.Problem(matrix, token_caps=4, feature_caps=6)
    matrix.engine.crossed.clear()
    al.solve(problem)
    assert max(matrix.engine.crossed) < scores.size / 5
    assert sum(matrix.engine.crossed) < scores.size


def test_infeasible_floors_are_named() -> None:
    """The edges between blocked sides are counted where they are."""
    scores = drawn((30, 40), "generic", 1).astype(np.float32)
    scores[:, :4] = -np.inf
    for place in (strict, on_tensor):
        with pytest.raises(al.InfeasibleError, match="floors of features"):
            al.solve(al.Problem(place(scores), token_caps=3, feature_floors=1))


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_steps_of_a_pass(rows: int, columns: int, seed: int) -> None:
    """Each of them in NumPy, in torch and by the array standard alone: the same places."""
    rng = np.random.default_rng(seed)
    block = rng.integers(-3, 4, (rows, columns)).astype(float)
    row, column = rng.integers(-2, 3, rows).astype(float), rng.integers(-2, 3, columns).astype(float)
    places = np.flatnonzero(rng.random(rows * columns) < 0.3)
    order = block_passes.hash24(np, np.arange(rows * columns).reshape(rows, columns))
    assert np.unique(order).size == order.size

    def steps(xp: Any, put: Any) -> list[np.ndarray]:
        b, r, c = put(block.copy()), put(row), put(column)
        found = [*block_passes.beating(xp, b, r, c, True), *block_passes.beating(xp, b, r, c, False)]
        found += [block_passes.total_excess(xp, b, r, c), block_passes.without_positions(xp, b, put(places), -np.inf)]
        b = put(block.copy())
        found += [block_passes.hash24(xp, put(np.arange(rows * columns)))]
        for axis in (0, 1):
            found += block_passes.best_of_each(xp, b, put(order), axis)
            found += block_passes.shortest_steps(xp, b, (r, c)[axis], axis)
        place, score = (np.asarray(part) for part in block_passes.best_positions(xp, b, c, columns // 2 + 1))
        return [np.asarray(part) for part in found] + [np.sort(score - column[place], axis=1)]

    plain = steps(np, lambda array: array)
    engines: list[Any] = [StrictEngine(), TorchEngine("cpu")]
    for engine in engines:
        for ours, theirs in zip(steps(engine.namespace, engine.put), plain, strict=True):
            np.testing.assert_array_equal(ours, theirs)
