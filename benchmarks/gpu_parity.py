"""What a GPU must answer as NumPy does, and what it must not do meanwhile: wait, race, go wrong in a graph."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

import allocation as al
import sae_torch as st
from allocation.cuda.floors import select_floored
from allocation.cuda.scores import DeviceScores
from allocation.cuda.torch_engine import TorchEngine
from allocation.cuda.validation import device_scores
from benchmarks.gpu_device import Gpu
from sae_torch.ops import count_above
from tests.allocation.cuda.matrices import KINDS, SHAPES, TYPES, assert_same, drawn, typed

K, M = 32, 8


def on_gpu(held: np.ndarray, type_name: str, gpu: Gpu) -> Tensor:
    """Scores of the tests as a tensor of the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(held)).to(gpu.device)
    return tensor.view(torch.bfloat16) if type_name == "bfloat16" else tensor


def in_numpy(scores: Tensor) -> np.ndarray:
    """The same values in main memory; bfloat16 widened."""
    return np.asarray((scores.float() if scores.dtype == torch.bfloat16 else scores).cpu().numpy())


def normal(gpu: Gpu, shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Scores drawn where they are."""
    scores = torch.empty(shape, dtype=dtype, device=gpu.device)
    return scores.normal_(generator=torch.Generator(gpu.device).manual_seed(seed))


def refusals(gpu: Gpu) -> str:
    """What is wrong is named with its place."""
    scores = torch.zeros(300, 200, device=gpu.device)
    scores[7, 9], scores[8, 1] = float("nan"), float("inf")
    said = ""
    try:
        al.mutual_choice(scores, 3)
    except al.InvalidProblemError as error:
        said = str(error)
    assert "1 entries are NaN, the first at token 7, feature 9" in said, said
    return "NaN and +inf"


def limits_of(shape: tuple[int, int], axis: int | None, seed: int) -> dict[str, Any]:
    """A budget, and caps that differ from line to line."""
    rng = np.random.default_rng(seed)
    limits: dict[str, Any] = {"budget": int(rng.integers(0, shape[0] * 4))}
    if axis is not None:
        limits[("token_caps", "feature_caps")[axis]] = rng.integers(0, 9, shape[axis])
    return limits


def small_parity(gpu: Gpu) -> str:
    """Every type, kind of scores and side, small: tensors, CuPy arrays, and torch alone."""
    count = 0
    cases = [(shape, kind, type_name) for shape in SHAPES for kind in KINDS for type_name in TYPES]
    # a stride that shares no factor with the lists, so that what fits into the time is of every kind
    cases = [cases[number * 97 % len(cases)] for number in range(len(cases))]
    for number, (shape, kind, type_name) in enumerate(cases if gpu.is_real else cases[::7]):
        if not gpu.has_time:
            break
        held, plain = typed(drawn(shape, kind, number), type_name)
        tensor = on_gpu(held, type_name, gpu)
        for axis in (None, 0, 1):
            limits = limits_of(shape, axis, number)
            expected = al.solve(al.Problem(plain, **limits))
            inputs: list[Any] = [tensor, DeviceScores(tensor, type_name, TorchEngine(gpu.device))]
            if gpu.has_kernels and type_name != "bfloat16":
                import cupy

                inputs.append(cupy.asarray(held))
            for scores in inputs:
                assert_same(al.solve(al.Problem(scores, **limits)), expected)
                count += 1
    return f"{count} small problems, {number} of {len(cases)} kinds and shapes"


def large_parity(gpu: Gpu) -> str:
    """A batch of training size, on a stream of its own."""
    shape = (4096, 16384) if gpu.is_real else (64, 512)
    done = 0
    for dtype in (torch.float32, torch.bfloat16):
        stream = torch.cuda.Stream() if gpu.is_real else None
        with torch.cuda.stream(stream):
            scores = normal(gpu, shape, dtype)
            limits: list[dict[str, Any]] = [{"budget": K * shape[0]}, {"token_caps": K}, {"feature_caps": M}]
            found = [al.solve(al.Problem(scores, **limit)) for limit in limits]
            plain = in_numpy(scores)
        for limit, solution in zip(limits, found, strict=True):
            assert_same(solution, al.solve(al.Problem(plain, **limit)))
            done += 1
    return f"{done} of {shape[0]} x {shape[1]}"


def nested_parity(gpu: Gpu) -> str:
    """Floors and groups of one side: candidates from the GPU, the answer from main memory."""
    shape = (2048, 8192) if gpu.is_real else (16, 64)
    scores = normal(gpu, shape)
    groups = [al.Group(range(start, start + 8), cap=100, floor=20) for start in range(0, shape[0], 8)]
    for limits in ({"token_groups": groups}, {"token_floors": 2, "budget": 16 * shape[0]}):
        assert_same(al.solve(al.Problem(scores, **limits)), al.solve(al.Problem(in_numpy(scores), **limits)))
    return f"{shape[0]} x {shape[1]}"


def two_sided_parity(gpu: Gpu) -> str:
    """Limits on both sides: the same value, with a certificate; allocations may differ where several are optimal."""
    shape = (1024, 4096) if gpu.is_real else (300, 256)
    caps = {"token_caps": 16, "feature_caps": max(1, 20 * shape[0] // shape[1]), "feature_floors": 1}
    for dtype in (torch.float32, torch.bfloat16):
        scores = normal(gpu, shape, dtype)
        problem = al.Problem(in_numpy(scores), **caps)
        found = al.solve(al.Problem(scores, **caps))
        assert found.objective == al.solve(problem).objective
        assert al.verify(problem, found).optimal
    return f"{shape[0]} x {shape[1]}"


def beyond_32_bits(gpu: Gpu) -> str:
    """More entries than a 32-bit integer counts."""
    shape = ((1 << 16) + 3, (1 << 15) + 1) if gpu.is_real else (67, 129)
    scores = normal(gpu, shape, torch.float16)
    scores[-1, -5:] = 9.0
    plain = in_numpy(scores)
    for limit in ({"budget": 100_000}, {"token_caps": 2}, {"feature_caps": 3}):
        assert_same(al.solve(al.Problem(scores, **limit)), al.solve(al.Problem(plain, **limit)))
    return f"{scores.numel():,} entries"


# The limits of the three choices, as a selection of fixed size takes them.
FIXED = ((None, "budget"), (0, "token_caps"), (1, "feature_caps"))


def no_waiting(gpu: Gpu) -> str:
    """Selections of fixed size make the host wait for nothing: torch raises where it would."""
    scores = normal(gpu, (512, 1024) if gpu.is_real else (8, 30))
    engines = [device_scores(scores, check_finite=False), DeviceScores(scores, "float32", TorchEngine(gpu.device))]
    for matrix in engines:
        for axis, name in FIXED:
            caps = np.array([900]) if axis is None else np.arange(scores.shape[axis]) % 4
            with matrix.scope():
                matrix.engine.padded_top(matrix, axis, caps)  # compiles
                with gpu.refusing_to_wait():
                    found = matrix.engine.padded_top(matrix, axis, caps)
                count = int(matrix.get(found.count)[0])
            expected = al.solve(al.Problem(in_numpy(scores), **{name: int(caps[0]) if axis is None else caps}))
            assert count == len(expected.tokens)
        floors = np.arange(scores.shape[1]) % 3
        for caps in (None, floors + 2):
            arguments = (matrix, 1, int(floors.sum()) + 50, floors, caps)
            with matrix.scope():
                select_floored(*arguments)
                with gpu.refusing_to_wait():
                    found = select_floored(*arguments)
            limits = {"budget": arguments[2], "feature_floors": floors, "feature_caps": caps}
            expected = al.solve(al.Problem(in_numpy(scores), **limits))
            flat = matrix.get(found.positions)[: int(matrix.get(found.count)[0])]
            np.testing.assert_array_equal(flat, expected.tokens * scores.shape[1] + expected.features)
    return f"{len(FIXED) + 2} selections by {len(engines)} engines"


def graph_capture(gpu: Gpu) -> str:
    """A selection is captured once and replayed on other scores: the whole matrix, and equal caps of rows."""
    if not gpu.has_kernels:
        return "not run: CuPy or the GPU is missing"
    scores, others = normal(gpu, (512, 1024), seed=1), normal(gpu, (512, 1024), seed=2)
    for axis, name in FIXED[:2]:
        caps = np.array([900]) if axis is None else np.full(512, 5)
        matrix = device_scores(scores, check_finite=False)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side), matrix.scope():
            matrix.engine.padded_top(matrix, axis, caps)  # compiles, and fills the pool
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), matrix.scope():
            found = matrix.engine.padded_top(matrix, axis, caps)
        for batch in (others, normal(gpu, (512, 1024), seed=3)):
            scores.copy_(batch)
            graph.replay()
            torch.cuda.synchronize()
            positions = found.positions.cpu().numpy()[: int(found.count)]
            expected = al.solve(al.Problem(in_numpy(batch), **{name: int(caps[0])}))
            np.testing.assert_array_equal(positions, expected.tokens * 1024 + expected.features)
    return "replayed on other scores"


def racecheck(gpu: Gpu) -> str:
    """No two threads of a block meet in shared memory without an order."""
    return sanitized(gpu, "racecheck", 0.5 * gpu.seconds_left)


def memcheck(gpu: Gpu) -> str:
    """No kernel reads or writes beside what it was given."""
    return sanitized(gpu, "memcheck", gpu.seconds_left)


def memcheck_of_ops(gpu: Gpu) -> str:
    """The same of the kernels of the sparse ops, which torch starts."""
    return sanitized(gpu, "memcheck", gpu.seconds_left, "ops")


def sanitized(gpu: Gpu, name: str, seconds: float, what: str = "selections") -> str:
    """A few problems that reach every kernel under a tool of compute-sanitizer, where it is installed."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None or not gpu.has_kernels:
        return "not run: compute-sanitizer, CuPy or the GPU is missing"
    command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu_check"]
    # it ends itself: ended from here, the tool would leave it running, on the device that others measure
    command += ["--kernels-once", what, "--alarm", str(max(1, int(seconds)))]
    # a pool would hide what is read beside an array
    uncached = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=uncached)
    assert run.returncode == 0, f"status {run.returncode}, {seconds:.0f} s: {run.stdout[-3000:]}{run.stderr[-2000:]}"
    return "clean"


def kernels_once(what: str, seconds: int) -> None:
    """A few problems that reach every kernel, for the sanitizer; ends this process after so many seconds."""
    signal.alarm(seconds)
    {"selections": selections_once, "ops": ops_once}[what]()
    signal.alarm(0)


def selections_once() -> None:
    """Lists and the scores themselves, from a sample, maxima of groups and a warm start; torch stays asleep."""
    import cupy

    cupy.cuda.set_allocator(None)
    for kind in ("generic", "tied"):
        for type_name in ("float32", "float16"):
            held, plain = typed(drawn((70, 600), kind, 1), type_name)
            for limits in ({"budget": 80}, {"token_caps": 3}, {"feature_caps": 3, "budget": 200}):
                problem, expected = al.Problem(cupy.asarray(held), **limits), al.solve(al.Problem(plain, **limits))
                for start in (None, expected.prices):
                    assert_same(al.solve(problem, warm_start=start), expected)


def ops_once(device: str = "cuda") -> None:
    """Forward and backward of a sparse autoencoder, with sizes that no tile divides."""
    for dtype in (torch.float32, torch.bfloat16):
        sae = st.SparseAutoencoder(33, 129, st.TokenChoice(3), dtype=dtype, device=device)
        x = torch.randn(257, 33, device=device).to(dtype)
        torch.autograd.backward(st.losses.reconstruction(sae(x), x))
        count_above(sae.scores(x), torch.zeros(129, device=device))
