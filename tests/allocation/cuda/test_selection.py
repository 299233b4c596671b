"""The kernels' own source, run thread by thread on the processor: the same answers as NumPy, in any order of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.cuda import selection
from allocation.cuda.kernel_engine import KernelEngine
from allocation.cuda.scores import DeviceScores
from tests.allocation.cuda.host_device import HostDevice
from tests.allocation.strategies import one_sided

TYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64")


def on_device(scores: np.ndarray, type_name: str, **options: Any) -> DeviceScores:
    """A matrix on the emulated device."""
    device = HostDevice(**options)
    return DeviceScores(device.put(np.ascontiguousarray(scores)), type_name, KernelEngine(device))


def typed(scores: np.ndarray, type_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores as a device holds them and, of the same values, as NumPy computes with them."""
    if type_name != "bfloat16":
        converted = scores.astype(type_name)
        return converted, converted
    bits = (scores.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits.view(np.int16), (bits.astype(np.uint32) << 16).view(np.float32)


def assert_same(found: al.Solution, expected: al.Solution) -> None:
    """Matches, values and prices, to the last bit."""
    for name in ("tokens", "features", "values"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    for name, price in vars(expected.prices).items():
        for part in ("value", "lower", "upper"):
            ours, theirs = getattr(getattr(found.prices, name), part), getattr(price, part)
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}.{part}")


@settings(max_examples=150)
@given(one_sided(max_side=9), st.integers(0, 10**6))
def test_small_problems_of_every_type(problem: tuple[np.ndarray, dict[str, Any]], seed: int) -> None:
    """Budgets, caps of either side and both together; ties, forbidden matches, empty sides, every type."""
    scores, limits = problem
    scores = np.ascontiguousarray(scores)
    matrix = on_device(scores, scores.dtype.name, seed=seed)
    found = al.solve(al.Problem(matrix, **limits))
    assert_same(found, al.solve(al.Problem(scores, **limits)))
    np.testing.assert_array_equal(found.mask(), al.solve(al.Problem(scores, **limits)).mask())


SHAPES = st.sampled_from([(3, 1100), (40, 57), (1, 2000), (300, 9), (64, 64)])


def drawn(shape: tuple[int, int], kind: str, seed: int) -> np.ndarray:
    """Scores that suit a bracket, or mislead it."""
    rng = np.random.default_rng(seed)
    if kind == "generic":
        return rng.standard_normal(shape)
    if kind == "tied":
        return rng.integers(-2, 4, shape).astype(float)
    if kind == "equal":
        return np.full(shape, 1.5)
    if kind == "one row":  # the sample sees few of the entries that matter
        return np.where(np.arange(shape[0])[:, None] == shape[0] // 2, rng.random(shape) + 5, -1.0)
    return np.where(rng.random(shape) < 0.02, rng.random(shape), -0.0)


@settings(max_examples=60)
@given(
    SHAPES,
    st.sampled_from(["generic", "tied", "equal", "one row", "sparse"]),
    st.sampled_from(TYPES),
    st.integers(0, 2000),
    st.integers(0, 10**6),
    st.sampled_from([64, 500, selection.SAMPLE]),
)
@example((40, 57), "generic", "float32", 30, 1, 64)
@example((40, 57), "equal", "bfloat16", 30, 1, 64)
def test_whole_matrix(shape: tuple[int, int], kind: str, type_name: str, budget: int, seed: int, sample: int) -> None:
    """With a bracket from a small sample, right or wrong, and without."""
    held, plain = typed(drawn(shape, kind, seed), type_name)
    device = HostDevice(seed=seed)
    matrix = DeviceScores(device.put(held), type_name, KernelEngine(device, sample=sample))
    assert_same(al.solve(al.mutual_choice(matrix, budget)), al.solve(al.mutual_choice(plain, budget)))


@settings(max_examples=60)
@given(
    SHAPES,
    st.sampled_from(["generic", "tied", "equal", "one row", "sparse"]),
    st.sampled_from(TYPES),
    st.sampled_from([0, 1]),
    st.sampled_from([1, 3, 40]),
    st.booleans(),
    st.integers(0, 10**6),
)
@example((3, 1100), "generic", "float16", 0, 3, True, 1)
@example((300, 9), "generic", "float32", 1, 3, True, 1)
def test_lines(
    shape: tuple[int, int], kind: str, type_name: str, axis: int, most: int, budgeted: bool, seed: int
) -> None:
    """Caps that differ from line to line, with and without a budget."""
    held, plain = typed(drawn(shape, kind, seed), type_name)
    limits: dict[str, Any] = {
        ("token_caps", "feature_caps")[axis]: np.random.default_rng(seed).integers(0, most + 1, shape[axis])
    }
    if budgeted:
        limits["budget"] = int(sum(limits[("token_caps", "feature_caps")[axis]])) // 2
    matrix = on_device(held, type_name, seed=seed)
    assert_same(al.solve(al.Problem(matrix, **limits)), al.solve(al.Problem(plain, **limits)))


@pytest.mark.parametrize("digit", [5, 8])
def test_the_order_of_threads_changes_nothing(digit: int) -> None:
    """Twelve orders of blocks and threads, also with the block size of a real device: the same bytes everywhere."""
    scores = drawn((70, 300), "tied", 3).astype(np.float32)
    answers = []
    for seed in range(12 if digit == 5 else 2):
        matrix = on_device(scores, "float32", digit=digit, seed=1000 * seed)
        device = matrix.engine.device
        whole = selection.select_whole(device, matrix.engine.bits(matrix), 333, sample=256)
        lines = selection.select_lines(device, matrix.engine.bits(matrix), 1, np.full(300, 5))
        answers.append([part.tobytes() for part in (*vars(whole).values(), *vars(lines).values())])
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("type_name", ["float16", "float32", "float64"])
def test_any_alignment(offset: int, type_name: str) -> None:
    """A view that starts between two vector loads is read entry by entry."""
    scores = drawn((1, 3000), "generic", 5).astype(type_name)
    device = HostDevice()
    array = device.put(scores)[:, offset:]
    matrix = DeviceScores(array.reshape(1, -1), type_name, KernelEngine(device))
    assert_same(al.solve(al.mutual_choice(matrix, 40)), al.solve(al.mutual_choice(scores[:, offset:], 40)))


@pytest.mark.parametrize("type_name", TYPES[:4])
def test_bad_entries_are_counted_and_placed(type_name: str) -> None:
    """NaN of both signs and +inf; -inf and the largest number are allowed."""
    scores = np.zeros((9, 300))
    scores[0, 0], scores[0, 1] = -np.inf, np.finfo(np.float16).max
    held, _ = typed(scores, type_name)
    matrix = on_device(held, type_name)
    assert matrix.engine.inspect(matrix).tolist() == [0, 2700, 0, 2700]
    scores[8, 2], scores[3, 299], scores[5, 5], scores[5, 4] = np.nan, -np.nan, np.inf, np.inf
    held, _ = typed(scores, type_name)
    matrix = on_device(held, type_name)
    assert matrix.engine.inspect(matrix).tolist() == [2, 1199, 2, 1504]


def test_solvers_in_main_memory_say_that_they_copy() -> None:
    """A problem with floors is solved from a copy, and the answer goes back to the device."""
    scores = drawn((6, 9), "tied", 2).astype(np.float32)
    limits = {"token_floors": 1, "token_caps": 3, "feature_caps": 2}
    with pytest.warns(RuntimeWarning, match="TwoSided works in main memory"):
        found = al.solve(al.Problem(on_device(scores, "float32"), **limits))
    assert found.objective == al.solve(al.Problem(scores, **limits)).objective
    assert al.verify(al.Problem(on_device(scores, "float32"), **limits), found).optimal
