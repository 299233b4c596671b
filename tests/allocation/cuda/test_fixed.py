"""Selections of sizes known beforehand: no number of the device decides what happens next, whatever the scores."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import allocation as al
from allocation.cuda.floors import select_floored
from allocation.cuda.scores import DeviceScores
from allocation.cuda.selection import expected_ends, smallest_allowed
from allocation.cuda.torch_engine import TorchEngine
from tests.allocation.cuda.host_device import HostDevice
from tests.allocation.cuda.matrices import KINDS, TYPES, assert_same, drawn, scores_of_keys, typed

# What makes the host wait for a GPU: one number, a list of places, a mask as an index.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "unique", "is_nonzero")
SHAPE = (40, 57)
SIDES = ("tokens", "features")
CAPS = {None: np.array([90]), 0: np.arange(40) % 5, 1: np.full(57, 3)}


@pytest.fixture(autouse=True)
def without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is installed, too: tensors of the processor are none of its own."""
    monkeypatch.setitem(sys.modules, "cupy", None)  # type: ignore[arg-type]


class Sequence(TorchDispatchMode):
    """The operations that run, with the shapes they make; refuses those for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        assert name not in WAITING, name
        if name in ("index", "index_put_", "index_put"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), "a mask as an index"
        result = function(*args, **(kwargs or {}))
        self.seen.append((name, getattr(result, "shape", None)))
        return result


class Unread(HostDevice):
    """A device of which nothing is read back."""

    def get(self, array: Any) -> np.ndarray:
        raise AssertionError("read by the host")


def expected(plain: np.ndarray, axis: int | None) -> al.Solution:
    names = {None: "budget", 0: "token_caps", 1: "feature_caps"}
    caps = CAPS[axis]
    return al.solve(al.Problem(plain, **{names[axis]: int(caps[0]) if axis is None else caps}))


def assert_fixed(found: Any, plain: np.ndarray, axis: int | None) -> None:
    """As many places as the caps allow, the first of them as in main memory, zeros behind."""
    solution = expected(plain, axis)
    positions, count = np.asarray(found.positions), int(found.count[0])
    assert positions.shape == (CAPS[axis].sum(),)
    np.testing.assert_array_equal(positions[:count], solution.tokens * SHAPE[1] + solution.features)
    assert not positions[count:].any()
    assert np.asarray(found.last).dtype == np.float64
    if axis is None:
        assert float(found.refused[0]) == (solution.prices.budget.value if count == CAPS[None][0] else 0.0)
        np.testing.assert_equal(float(found.last[0]), solution.values.min() if count else np.inf)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("type_name", TYPES)
def test_torch_alone(type_name: str, axis: int | None) -> None:
    """One sequence of operations for every kind of scores."""
    sequences = []
    for kind in KINDS:
        held, plain = typed(drawn(SHAPE, kind, 1), type_name)
        tensor = torch.from_numpy(held)
        tensor = tensor.view(torch.bfloat16) if type_name == "bfloat16" else tensor
        engine = TorchEngine("cpu")
        with Sequence() as sequence:
            found = engine.padded_top(DeviceScores(tensor, type_name, engine), axis, CAPS[axis])
        assert_fixed(found, plain, axis)
        sequences.append(sequence.seen)
    assert all(sequence == sequences[0] for sequence in sequences)


def test_torch_alone_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks of equals go on from block to block."""
    monkeypatch.setattr("allocation.cuda.torch_engine.BLOCK_ENTRIES", 150)
    for kind in ("tied", "equal"):
        _, plain = typed(drawn(SHAPE, kind, 1), "float32")
        engine = TorchEngine("cpu")
        for axis in CAPS:
            matrix = DeviceScores(torch.from_numpy(plain), "float32", engine)
            assert_fixed(engine.padded_top(matrix, axis, CAPS[axis]), plain, axis)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("type_name", TYPES)
def test_kernels(type_name: str, axis: int | None) -> None:
    """One sequence of launches for every kind of scores, and nothing is read."""
    sequences = []
    for kind in KINDS:
        held, plain = typed(drawn(SHAPE, kind, 1), type_name)
        device = Unread(sample=256)
        found = device.padded_top(DeviceScores(device.put(held), type_name, device), axis, CAPS[axis])
        assert_fixed(found, plain, axis)
        sequences.append(device.launched)
    assert all(sequence == sequences[0] for sequence in sequences)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "expected exactly one"),
        ({"token_floors": 1}, "expected exactly one"),
        ({"token_caps": 1, "feature_caps": 1}, "expected exactly one"),
        ({"budget": 1, "token_caps": 1, "feature_floors": 0}, "expected exactly one"),
        ({"token_caps": -1}, "token_caps: expected 0 or more, found -1"),
        ({"feature_caps": [1.5, 1.0, 1.0]}, "feature_caps: expected integers"),
        ({"feature_caps": [1, 1]}, "feature_caps: expected an integer or 3 integers"),
    ],
)
def test_wrong_limits_get_one_sentence(limits: dict[str, Any], message: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CuPy is not installed", RuntimeWarning)
        with pytest.raises(al.InvalidProblemError, match=message):
            al.select_fixed(torch.ones(2, 3), **limits)


def test_scores_in_main_memory_are_refused_by_name() -> None:
    with pytest.raises(al.InvalidProblemError, match="scores: expected a CuPy array or a CUDA tensor"):
        al.select_fixed(np.ones((2, 3)), budget=1)


def floored(axis: int, seed: int, with_caps: bool) -> dict[str, Any]:
    """A budget, floors of one side, and caps of it, drawn: tight ones, and such that leave nothing to choose."""
    rng = np.random.default_rng(seed)
    lines, length = SHAPE[axis], SHAPE[1 - axis]
    floors = rng.integers(0, 1 + rng.integers(0, 5), lines)
    if rng.random() < 0.2:
        floors[rng.integers(lines)] = length
    limits = {"budget": int(floors.sum()) + int(rng.choice([0, 1, 40, 150, SHAPE[0] * SHAPE[1]]))}
    side = ("token", "feature")[axis]
    limits[f"{side}_floors"] = floors
    if with_caps:
        limits[f"{side}_caps"] = np.minimum(floors + rng.integers(0, 5, lines), length)
    return limits


def given(axis: int, limits: dict[str, Any]) -> tuple[Any, ...]:
    """The same as arguments."""
    side = ("token", "feature")[axis]
    return axis, limits["budget"], limits[f"{side}_floors"], limits.get(f"{side}_caps")


def assert_floored(found: Any, plain: np.ndarray, axis: int, limits: dict[str, Any]) -> None:
    """The matches and the prices of main memory, which the certificate takes."""
    problem = al.Problem(plain, **limits)
    solution = al.solve(problem, al.Laminar())
    positions, count = np.asarray(found.positions), int(found.count[0])
    flat = positions[:count]
    sides = [al.Price(np.zeros(size)) for size in SHAPE]
    sides[axis] = al.Price(np.asarray(found.line_prices))
    prices = al.Prices(al.Price(float(found.refused[0])), *sides, al.Price(np.zeros(0)), al.Price(np.zeros(0)))
    tokens, features = np.divmod(flat, SHAPE[1])
    claim = SimpleNamespace(tokens=tokens, features=features, values=plain[tokens, features], prices=prices)
    assert al.verify(problem, claim).optimal
    np.testing.assert_array_equal(flat, solution.tokens * SHAPE[1] + solution.features)
    caps = given(axis, limits)[3]
    assert len(positions) == min(limits["budget"], plain.size if caps is None else int(caps.sum()))
    assert not positions[count:].any()
    for one, other in ((prices.budget, solution.prices.budget), (sides[axis], vars(solution.prices)[SIDES[axis]])):
        np.testing.assert_array_equal(one.value, other.value)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("type_name", TYPES)
def test_floors_beside_a_budget(type_name: str, axis: int) -> None:
    """By torch and by the kernels: one sequence whatever the scores, and nothing is read."""
    limits = floored(axis, 3, with_caps=(TYPES.index(type_name) + axis) % 2 == 0)
    launched, operations = [], []
    for kind in KINDS:
        held, plain = typed(drawn(SHAPE, kind, 1), type_name)
        tensor = torch.from_numpy(held)
        tensor = tensor.view(torch.bfloat16) if type_name == "bfloat16" else tensor
        engine = TorchEngine("cpu")
        with Sequence() as sequence:
            found = select_floored(DeviceScores(tensor, type_name, engine), *given(axis, limits))
        assert_floored(found, plain, axis, limits)
        device = Unread(sample=256)
        found = select_floored(DeviceScores(device.put(held), type_name, device), *given(axis, limits))
        assert_floored(found, plain, axis, limits)
        launched.append(device.launched)
        operations.append(sequence.seen)
    assert all(each == launched[0] for each in launched)
    assert all(each == operations[0] for each in operations)


@pytest.mark.parametrize("seed", range(40))
def test_floors_of_all_sizes(seed: int) -> None:
    """The budget holds nothing but floors, or more than there is; forced matches lie in and outside the best."""
    axis, kind = seed % 2, KINDS[seed // 2 % len(KINDS)]
    limits = floored(axis, seed, with_caps=seed % 3 == 0)
    plain = drawn(SHAPE, kind, seed).astype(np.float32)
    engine = TorchEngine("cpu")
    found = select_floored(DeviceScores(torch.from_numpy(plain), "float32", engine), *given(axis, limits))
    assert_floored(found, plain, axis, limits)


def test_more_is_forbidden_than_a_floor_allows() -> None:
    """What is allowed is taken: the host cannot know."""
    scores = torch.full((4, 3), -torch.inf)
    scores[1, 0], scores[2, 1] = -2.0, 5.0
    engine = TorchEngine("cpu")
    found = select_floored(DeviceScores(scores, "float32", engine), 1, 6, np.array([2, 1, 0]), None)
    assert found.positions[: int(found.count[0])].tolist() == [3, 7]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"budget": 3, "token_floors": [1, 2], "token_caps": 1}, r"tokens\[1\] has floor 2 above its cap 1"),
        ({"budget": 9, "feature_floors": [0, 3, 1]}, r"features\[1\] has floor 3, but only 2 allowed matches fit"),
        ({"budget": 2, "feature_floors": 1}, "budget has cap 2, but the floors inside it demand 3 matches"),
    ],
)
def test_floors_that_contradict_other_limits(limits: dict[str, Any], message: str) -> None:
    """The words are those of main memory."""
    with pytest.raises(al.InfeasibleError, match=message):
        al.solve(al.Problem(np.ones((2, 3)), **limits))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CuPy is not installed", RuntimeWarning)
        with pytest.raises(al.InfeasibleError, match=message):
            al.select_fixed(torch.ones(2, 3), **limits)


# Where a search may start: at the prices, well and badly off them, and where nothing can be expected.
STARTS = (1.0, 0.9, 0.2, 3.0, 0.0, -1.0, np.inf, -np.inf, np.nan)


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("type_name", TYPES)
def test_a_warm_start_never_changes_the_answer(type_name: str, axis: int | None) -> None:
    """One sequence of launches, in which lines are read once where they were read twice."""
    sequences = []
    for kind in KINDS:
        held, plain = typed(drawn(SHAPE, kind, 1), type_name)
        matrix = DeviceScores(held, type_name, HostDevice(sample=8))
        price = np.asarray(matrix.engine.padded_top(matrix, axis, CAPS[axis]).refused)
        for at, share in enumerate(STARTS if axis is None else (None, 0.9)):
            device = Unread(sample=8)
            with np.errstate(invalid="ignore"):
                expected = np.resize(STARTS, price.size) * price if share is None else share * price
            found = device.padded_top(
                DeviceScores(device.put(held), type_name, device), axis, CAPS[axis], expected=device.put(expected)
            )
            assert_fixed(found, plain, axis)
            sequences.append(device.launched)
            if at == 1 and kind == "generic" and axis is None and "int" not in type_name:
                assert CAPS[None][0] < int(found.reaching[0]) < 2 * CAPS[None][0]
    assert all(sequence == sequences[0] for sequence in sequences)
    read = {"sample", "row_maxima", "column_maxima"} & set(sequences[0])
    assert "expect" in sequences[0]
    assert not read


@pytest.mark.parametrize("type_name", TYPES)
def test_expected_scores_become_keys(type_name: str) -> None:
    """The key of the largest score that does not exceed what is expected."""
    held, plain = typed(drawn((1, 300), "generic", 2), type_name)
    expected = np.concatenate([plain.ravel().astype(np.float64), np.nextafter(plain.ravel().astype(np.float64), -9)])
    device = HostDevice()
    matrix = device.bits(DeviceScores(held, type_name, device))
    least = smallest_allowed(matrix.type)
    keys = expected_ends(device, matrix, device.put(expected), least)
    back = scores_of_keys(keys, matrix.type, np.nan)
    np.testing.assert_array_equal(back[:300], plain.ravel())
    assert np.all(back[300:] < plain.ravel())
    assert np.all(scores_of_keys(keys[300:] + 1, matrix.type, np.nan) == plain.ravel())


def test_solving_with_a_warm_start() -> None:
    """Prices of main memory serve: whole, rows, columns."""
    plain = drawn(SHAPE, "generic", 4).astype(np.float32)
    for axis, name in ((None, "budget"), (0, "token_caps"), (1, "feature_caps")):
        limit = {name: int(CAPS[axis][0]) if axis is None else CAPS[axis]}
        expected = al.solve(al.Problem(plain, **limit))
        device = HostDevice(sample=8)
        matrix = DeviceScores(device.put(plain), "float32", device)
        assert_same(al.solve(al.Problem(matrix, **limit), warm_start=expected.prices), expected)
        assert "expect" in device.launched


def test_a_warm_start_of_another_size_is_named() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CuPy is not installed", RuntimeWarning)
        with pytest.raises(al.InvalidProblemError, match="warm_start: expected 3 numbers on the device"):
            al.select_fixed(torch.ones(2, 3), feature_caps=1, warm_start=torch.ones(2))
        with pytest.raises(al.InvalidProblemError, match="warm_start: expected 3 numbers on the device"):
            al.select_fixed(torch.ones(2, 3), feature_caps=1, warm_start=np.ones(3))
        with pytest.raises(al.InvalidProblemError, match="warm_start: expected 1 numbers on the device"):
            al.select_fixed(torch.ones(2, 3), budget=1, warm_start=2.0)


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.uint32])
def test_floors_of_unsigned_tensors(kind: torch.dtype) -> None:
    """Torch ranks and takes few of these types."""
    plain = np.random.default_rng(0).integers(0, 9, SHAPE)
    engine = TorchEngine("cpu")
    matrix = DeviceScores(torch.from_numpy(plain).to(kind), str(kind).removeprefix("torch."), engine)
    for with_caps in (False, True):
        limits = floored(1, 5, with_caps)
        assert_floored(select_floored(matrix, *given(1, limits)), plain, 1, limits)
