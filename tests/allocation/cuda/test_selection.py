"""The kernels' own source, thread by thread on the processor: the same answers as NumPy, in any order of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.cuda import selection
from allocation.cuda.kernels import TYPES as KERNEL_TYPES
from allocation.cuda.scores import DeviceScores
from tests.allocation.cuda.host_device import HostDevice
from tests.allocation.cuda.matrices import KINDS, SHAPES, TYPES, assert_same, drawn, scores_of_keys, typed
from tests.allocation.strategies import one_sided

TYPE_WIDTHS = {name: bits for name, (bits, _) in KERNEL_TYPES.items()}


def on_device(scores: np.ndarray, type_name: str, **options: Any) -> DeviceScores:
    """A matrix on the emulated device."""
    device = HostDevice(**options)
    return DeviceScores(device.put(np.ascontiguousarray(scores)), type_name, device)


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


@settings(max_examples=60)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(KINDS),
    st.sampled_from(TYPES),
    st.integers(0, 2000),
    st.integers(0, 10**6),
    st.sampled_from([64, 1500, selection.SAMPLE]),
)
@example((40, 57), "generic", "float32", 30, 1, 64)
@example((70, 600), "generic", "float32", 80, 1, 1500)
@example((70, 600), "one row", "float16", 80, 1, 1500)
@example((40, 57), "equal", "bfloat16", 30, 1, 64)
def test_whole_matrix(shape: tuple[int, int], kind: str, type_name: str, budget: int, seed: int, sample: int) -> None:
    """With a bracket from a small sample, right or wrong, and without."""
    held, plain = typed(drawn(shape, kind, seed), type_name)
    device = HostDevice(seed=seed, sample=sample)
    matrix = DeviceScores(device.put(held), type_name, device)
    assert_same(al.solve(al.mutual_choice(matrix, budget)), al.solve(al.mutual_choice(plain, budget)))


@settings(max_examples=30)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(KINDS),
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


def test_the_sampled_end_is_that_of_the_sample() -> None:
    """A list as long as expected, its lower end the wanted-th largest of the sample."""
    scores = np.abs(drawn((70, 600), "generic", 1)).astype(np.float32)
    matrix = on_device(scores, "float32")
    lower, room = selection.sampled_end(matrix.engine, matrix.engine.bits(matrix), 80, 1500)
    steps = np.arange(1500, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    places = [int(step) * scores.size >> 64 for step in steps]
    wanted = room * 1500 // (selection.WIDE * scores.size)
    assert 81 < room < scores.size / 8
    assert scores_of_keys(lower, "float32", 0.0)[0] == np.sort(scores.reshape(-1)[places])[-wanted]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(75, 600), (600, 75)])
def test_the_ends_of_lines_are_those_of_their_groups(axis: int, shape: tuple[int, int]) -> None:
    """At least one more entry than a cap reaches a line's end: that of the maxima of interleaved groups."""
    scores = np.abs(drawn(shape, "generic", 1)).astype(np.float32)
    caps = np.random.default_rng(0).integers(0, 4, shape[axis])
    matrix = on_device(scores, "float32", digit=6)
    lower = selection.line_ends(
        matrix.engine,
        matrix.engine.bits(matrix),
        axis,
        caps,
        matrix.engine.put(caps),
        selection.smallest_positive("float32"),
    )
    lines = scores if axis == 0 else scores.T
    groups = 32 if lines.shape[1] > 32 else lines.shape[1]
    maxima = np.array([[line[group::groups].max() for group in range(groups)] for line in lines])
    expected = -np.sort(-maxima, axis=1)[np.arange(shape[axis]), caps]
    np.testing.assert_array_equal(scores_of_keys(lower, "float32", 0.0).astype(np.float32), expected)


@pytest.mark.parametrize("digit", [5, 8])
def test_the_order_of_threads_changes_nothing(digit: int) -> None:
    """Twelve orders of blocks and threads, also with the block size of a real device: the same bytes everywhere."""
    scores = drawn((70, 300), "tied", 3).astype(np.float32)
    answers = []
    for seed in range(12 if digit == 5 else 2):
        matrix = on_device(scores, "float32", digit=digit, seed=1000 * seed)
        device = matrix.engine
        whole = selection.select_whole(device, matrix.engine.bits(matrix), 333, sample=256)
        lines = selection.select_lines(device, matrix.engine.bits(matrix), 1, np.full(300, 5))
        parts = ("positions", "count", "last", "refused")
        answers.append([getattr(found, name).tobytes() for found in (whole, lines) for name in parts])
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("type_name", ["float16", "bfloat16", "float32", "float64", "int64"])
def test_scores_of_keys(type_name: str) -> None:
    """Every 16-bit number there is, and many of the others, subnormal ones included."""
    bits = TYPE_WIDTHS[type_name]
    kind = "uint64" if bits == 64 else "uint32"
    if bits == 16:
        keys = np.arange(1 << 16).astype(kind)
    else:
        keys = np.random.default_rng(0).integers(0, 1 << bits, 20000, dtype=np.uint64).astype(kind)
        keys[:200] = (1 << bits - 1) + np.arange(-100, 100).astype(np.int64).astype(kind)
    device = HostDevice()
    found = selection.scores_of_keys(device, device.put(keys), type_name, np.inf)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found, scores_of_keys(keys, type_name, np.inf))


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("type_name", ["float16", "float32", "float64"])
def test_any_alignment(offset: int, type_name: str) -> None:
    """A view that starts between two vector loads is read entry by entry."""
    scores = drawn((1, 3000), "generic", 5).astype(type_name)
    device = HostDevice()
    array = device.put(scores)[:, offset:]
    matrix = DeviceScores(array.reshape(1, -1), type_name, device)
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
    """The reference solves a copy, and the answer goes back to the device."""
    scores = drawn((6, 9), "tied", 2).astype(np.float32)
    with pytest.warns(RuntimeWarning, match="LinearProgram works in main memory") as caught:
        found = al.solve(al.Problem(on_device(scores, "float32"), budget=7), al.LinearProgram())
    assert [warning.filename for warning in caught] == [__file__]
    assert found.objective == al.solve(al.Problem(scores, budget=7)).objective
    assert al.verify(al.Problem(on_device(scores, "float32"), budget=7), found).optimal


def test_the_warning_names_the_line_that_solves() -> None:
    """By way of `Auto` there are more calls between that line and the copy."""
    scores = drawn((6, 9), "tied", 2).astype(np.float32)
    problem = al.Problem(on_device(scores, "float32"), token_floors=[9, 0, 0, 0, 0, 0], token_caps=9)
    with pytest.warns(RuntimeWarning, match="Laminar works in main memory") as caught:
        al.solve(problem)
    assert [warning.filename for warning in caught] == [__file__]
