"""The path without CuPy, on tensors of the processor: the same answers as NumPy."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.cuda.scores import DeviceScores
from allocation.cuda.torch_engine import TorchEngine
from allocation.cuda.validation import device_scores
from tests.allocation.cuda.matrices import KINDS, SHAPES, TYPES, assert_same, drawn, typed
from tests.allocation.strategies import one_sided


def on_torch(held: np.ndarray, type_name: str) -> DeviceScores:
    """A tensor as it would come without CuPy."""
    tensor = torch.from_numpy(np.ascontiguousarray(held))
    return DeviceScores(
        tensor.view(torch.bfloat16) if type_name == "bfloat16" else tensor, type_name, TorchEngine("cpu")
    )


@settings(max_examples=100)
@given(one_sided(max_side=9))
def test_small_problems(problem: tuple[np.ndarray, dict[str, Any]]) -> None:
    """Budgets, caps of either side and both together."""
    scores, limits = problem
    found = al.solve(al.Problem(on_torch(scores, scores.dtype.name), **limits))
    expected = al.solve(al.Problem(scores, **limits))
    assert_same(found, expected)
    assert found.objective == expected.objective
    np.testing.assert_array_equal(found.mask().numpy(), expected.mask())
    np.testing.assert_array_equal(found.token_counts.numpy(), expected.token_counts)
    assert (found.to_scipy() != expected.to_scipy()).nnz == 0
    assert repr(found) == repr(expected)


@settings(max_examples=60)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(KINDS),
    st.sampled_from(TYPES),
    st.sampled_from([None, 0, 1]),
    st.integers(0, 10**6),
)
def test_every_type(shape: tuple[int, int], kind: str, type_name: str, axis: int | None, seed: int) -> None:
    """The whole matrix, rows and columns with caps of their own."""
    held, plain = typed(drawn(shape, kind, seed), type_name)
    rng = np.random.default_rng(seed)
    limits: dict[str, Any] = {"budget": int(rng.integers(0, 300))}
    if axis is not None:
        limits[("token_caps", "feature_caps")[axis]] = rng.integers(0, 9, shape[axis])
    matrix = on_torch(held, type_name)
    assert_same(al.solve(al.Problem(matrix, **limits)), al.solve(al.Problem(plain, **limits)))


def test_a_tensor_without_cupy_says_so_once_and_checks_its_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way a CUDA tensor takes where CuPy is missing; a tensor of the processor can take it too."""
    monkeypatch.setitem(sys.modules, "cupy", None)  # type: ignore[arg-type]  # where it is installed, too
    tensor = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    with pytest.warns(RuntimeWarning, match=r"CuPy is not installed.*pip install 'sae-allocation\[cuda12\]'") as caught:
        matrix = device_scores(tensor)
    assert len(caught) == 1
    assert al.solve(al.mutual_choice(matrix, 2)).features.tolist() == [1, 0]
    bad: list[tuple[torch.Tensor, str]] = [
        (torch.tensor([[0.0, np.nan], [np.nan, 0.0]]), "2 entries are NaN, the first at token 0, feature 1"),
        (torch.tensor([[0.0, 0.0], [np.inf, 0.0]]), r"1 entries are \+inf, the first at token 1, feature 0"),
        (
            torch.tensor([[0.0, -np.inf], [0.0, -1e300]], dtype=torch.float64),
            "1 entries are beyond .* token 1, feature 1",
        ),
        (torch.zeros(3), "expected a matrix"),
        (torch.zeros((2, 2), dtype=torch.complex64), "complex64"),
        (torch.zeros((2, 2), requires_grad=True), "requires grad"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for scores, sentence in bad:
            with pytest.raises(al.InvalidProblemError, match=sentence):
                device_scores(scores)


def test_limits_on_the_device_are_read() -> None:
    """Caps may be tensors too."""
    matrix = on_torch(np.ones((2, 3), np.float32), "float32")
    assert len(al.solve(al.Problem(matrix, token_caps=torch.tensor([1, 2]))).tokens) == 3


@pytest.mark.parametrize(("axis", "caps"), [(None, [7]), (0, [3] * 6), (1, [2] * 9)])
def test_equal_caps_copy_nothing(axis: int | None, caps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured graph copies from main memory anew at each replay, when others use that memory."""
    scores = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    matrix = on_torch(scores, "float32")
    name = "budget" if axis is None else ("token_caps", "feature_caps")[axis]
    expected = al.solve(al.Problem(scores, **{name: caps[0]}))
    monkeypatch.delattr(TorchEngine, "put")
    for kind in (matrix, on_torch(scores[:0], "float32")):
        found = kind.engine.padded_top(kind, axis, np.array(caps[: kind.shape[0] if axis == 0 else None]))
        if kind is matrix:
            flat = found.positions[: int(found.count[0])].numpy()
            np.testing.assert_array_equal(flat, expected.tokens * 9 + expected.features)
