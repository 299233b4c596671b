"""Selections of sizes known beforehand: no number of the device decides what happens next, whatever the scores."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import allocation as al
from allocation.cuda.scores import DeviceScores
from allocation.cuda.torch_engine import TorchEngine
from tests.allocation.cuda.host_device import HostDevice
from tests.allocation.cuda.matrices import KINDS, TYPES, drawn, typed

# What makes the host wait for a GPU: one number, a list of places, a mask as an index.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "unique", "is_nonzero")
SHAPE = (40, 57)
CAPS = {None: np.array([90]), 0: np.arange(40) % 5, 1: np.full(57, 3)}


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
        ({"budget": 1, "token_caps": 1}, "expected exactly one"),
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
