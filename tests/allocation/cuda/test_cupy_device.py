"""The device that CuPy drives, with a stand-in for CuPy: NumPy arrays, and launches on the processor.

The stand-in accepts what CuPy accepts of a launch (arrays and NumPy integers) and no more.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import allocation as al
from allocation.cuda import cupy_device, torch_device
from allocation.cuda.kernels import TYPES, definitions, source
from allocation.cuda.validation import device_scores
from benchmarks import gpu_parity
from sae_torch.matches import matches_of
from tests.allocation.cuda.host_device import library, run_kernel
from tests.allocation.cuda.matrices import TYPES as SCORE_TYPES
from tests.allocation.cuda.matrices import assert_same, drawn, typed

STREAMS: list[Any] = []


class StandInArray(np.ndarray):
    """An array that NumPy alone does not read."""

    device = nullcontext()

    def get(self) -> np.ndarray:
        """A copy in main memory."""
        return np.array(self)


StandInArray.__module__ = "cupy"
StandInArray.device.id = 0  # type: ignore[attr-defined]


class StandInModule:
    """Kernels of the type that the compiler's options name."""

    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        assert code == source()
        (self.type_name,) = [name for name in TYPES if ("-std=c++17", *definitions(name)) == options]

    def get_function(self, kernel: str) -> Any:
        """A kernel to call with blocks, threads and arguments."""

        def launch(blocks: tuple[int, ...], threads: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            assert threads == (256,)
            assert all(isinstance(a, (StandInArray, np.int64)) for a in arguments)
            compiled = library(self.type_name, 8)
            numbers = [a.ctypes.data if isinstance(a, StandInArray) else int(a) for a in arguments]
            assert run_kernel(compiled, kernel, threads[0], range(blocks[0]), numbers)

        return launch


def external_stream(pointer: int, number: int) -> Any:
    """Warns as CuPy does; says when it is current."""
    warnings.warn("ExternalStream is deprecated.", DeprecationWarning, stacklevel=2)
    return Entered((pointer, number))


class Entered:
    """A stream that may be made current again and again."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        STREAMS.append(self.stream)

    def __exit__(self, *error: object) -> None:
        STREAMS.append(None)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`import cupy` finds the stand-in."""
    module = ModuleType("cupy")
    entries: dict[str, Any] = {
        **{name: getattr(np, name) for name in ("take", "reshape", "bincount", "zeros_like", "nonzero", "max", "min")},
        "arange": lambda size, dtype: np.arange(size, dtype=dtype).view(StandInArray),
        "full": lambda size, value, kind: np.full(size, value, kind).view(StandInArray),
        "empty": lambda size, kind: np.empty(size, kind).view(StandInArray),
        "asarray": lambda array: np.array(array).view(StandInArray),
        "ascontiguousarray": lambda array: np.ascontiguousarray(array).view(StandInArray),
        "from_dlpack": lambda tensor: np.from_dlpack(tensor).view(StandInArray),
        "RawModule": StandInModule,
        "cuda": SimpleNamespace(
            Device=lambda number: nullcontext(),
            ExternalStream=external_stream,
            set_allocator=lambda allocator: None,
        ),
    }
    vars(module).update(entries)
    monkeypatch.setitem(sys.modules, "cupy", module)
    for cached in (cupy_device._module, cupy_device._function):
        cached.cache_clear()
    yield module
    for cached in (cupy_device._module, cupy_device._function):
        cached.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("cupy")
def test_the_sanitizer_is_shown_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make gpu-check` runs under compute-sanitizer."""
    seen = set()
    get = StandInModule.get_function

    def noting(self: StandInModule, kernel: str) -> Any:
        seen.add(kernel)
        return get(self, kernel)

    monkeypatch.setattr(StandInModule, "get_function", noting)
    gpu_parity.selections_once()
    assert seen == set(re.findall(r"__global__ void (\w+)", source()))


LIMITS: list[dict[str, Any]] = [
    {"budget": 70},
    {"token_caps": 3, "budget": 90},
    {"feature_caps": 2},
    {"token_floors": 1, "budget": 60},
]


@pytest.mark.usefixtures("cupy")
@pytest.mark.parametrize("type_name", [name for name in SCORE_TYPES if name != "bfloat16"])  # which NumPy lacks
def test_arrays_of_cupy(type_name: str) -> None:
    """From `Problem` to the certificate, matches staying where the scores are."""
    held, plain = typed(drawn((40, 57), "tied", 1), type_name)
    for limits in LIMITS:
        problem = al.Problem(held.view(StandInArray), **limits)
        assert problem.matrix.on_device
        solution = al.solve(problem)
        assert isinstance(solution.tokens, StandInArray)
        assert_same(solution, al.solve(al.Problem(plain, **limits)))
        assert al.verify(problem, solution).optimal


@pytest.fixture
def card(cupy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of the processor count as those of a GPU, whose current stream is one of its own."""
    stream = SimpleNamespace(cuda_stream=77, synchronize=lambda: STREAMS.append("waited"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda number: stream)
    monkeypatch.setattr(torch.cuda, "device", lambda number: nullcontext())
    monkeypatch.setattr(torch_device.TorchDevice, "device", "cpu")
    torch_device._external_stream.cache_clear()
    STREAMS.clear()
    yield
    torch_device._external_stream.cache_clear()


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("type_name", SCORE_TYPES)
def test_tensors_are_read_where_they_are_on_torchs_stream(type_name: str) -> None:
    """The same memory, every launch on torch's current stream, and answers that any stream may read."""
    held, plain = typed(drawn((40, 57), "tied", 1), type_name)
    tensor = torch.from_numpy(held).view(torch.bfloat16) if type_name == "bfloat16" else torch.from_numpy(held)
    for limits in LIMITS:
        matrix = device_scores(tensor)
        assert matrix.array.data_ptr() == tensor.data_ptr()
        problem = al.Problem(matrix, **limits)
        STREAMS.clear()
        solution = al.solve(problem)
        assert STREAMS == [(77, None), "waited", None]  # entered once, waited for, left
        assert isinstance(solution.tokens, StandInArray)
        expected = al.solve(al.Problem(plain, **limits))
        assert_same(solution, expected)
        assert matches_of(solution)[1].tolist() == expected.features.tolist()
        STREAMS.clear()
        assert solution.token_counts.tolist() == expected.token_counts.tolist()
        assert STREAMS == [(77, None), None]


@pytest.mark.usefixtures("cupy")
def test_what_cannot_be_read_is_named() -> None:
    """Types, shapes and entries; candidate edges belong in main memory."""
    cases: list[tuple[Any, str]] = [
        (np.zeros((2, 2), complex), "on CUDA expected float16.*found complex128"),
        (np.zeros((2, 2), np.uint64), "integers up to int64, found uint64"),
        (np.zeros(3, np.float32), "expected a matrix"),
        (np.full((2, 2), np.nan), "4 entries are NaN, the first at token 0, feature 0"),
    ]
    for scores, sentence in cases:
        with pytest.raises(al.InvalidProblemError, match=sentence):
            al.Problem(scores.view(StandInArray), budget=1)
    with pytest.raises(
        al.InvalidProblemError, match=r"expected main memory, .* found a CuPy array; pass scores.get\(\)"
    ):
        al.Problem.from_edges([0], [0], np.ones(1).view(StandInArray), (1, 1), budget=1)
