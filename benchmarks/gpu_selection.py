"""Selections on a GPU beside one read of the scores, `torch.topk` and `cupy.partition`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import util
from typing import Any

import numpy as np
import torch
from torch import Tensor

import allocation as al
from allocation.cuda.scores import DeviceScores
from benchmarks.gpu_device import Gpu, verdict
from benchmarks.gpu_parity import K, M, normal

HEADINGS = ["selection", "type", "entries", "floor ms", "solve ms", "kernels ms", "torch.topk ms", "cupy.partition ms"]
HEADINGS += ["warm start ms", "solve / floor", "topk / solve", "cold / warm", "targets"]
FLASHINFER_HEADINGS = ["type", "entries", "solve ms", "flashinfer ms", "flashinfer / solve", "targets"]
# By selection: most reads of the scores, and least times faster than `torch.topk` and than a cold start.
MOST_READS, LEAST_FASTER, LEAST_WARM = {"whole": 2.0}, {"whole": 8.0, "rows": 1.0, "columns": 4.0}, {"whole": 1.3}


def selection_rows(gpu: Gpu) -> Iterator[list[Any]]:
    """Whole matrix, rows and columns."""
    powers = (24, 26, 28, 30) if gpu.is_real else (12, 13)
    plan = [("whole", dtype, power) for power in powers for dtype in (torch.float32, torch.bfloat16)]
    plan += [(kind, dtype, powers[1]) for kind in ("rows", "columns") for dtype in (torch.float32, torch.bfloat16)]
    for kind, dtype, power in sorted(plan, key=lambda entry: entry[2]):
        if not gpu.has_time:
            print(f"no time left for {kind}, {dtype}, 2^{power}", flush=True)
            continue
        tokens = 1 << min(12, power // 2)
        scores = normal(gpu, (tokens, (1 << power) // tokens), dtype)
        yield _row(gpu, kind, scores)
        del scores
        gpu.free()


def flashinfer_rows(gpu: Gpu) -> str | Iterator[list[Any]]:
    """Rows beside FlashInfer's deterministic selection, where it is installed; it compiles when first called."""
    if util.find_spec("flashinfer") is None:
        return "not run: flashinfer is missing"
    import flashinfer

    try:
        flashinfer.top_k(normal(gpu, (64, 1024)), K, deterministic=True)
        gpu.wait()
    except Exception as error:  # a peer raises anything, and a compiler may be missing
        return f"not run: {type(error).__name__}: {error}"[:500]
    return _beside_flashinfer(gpu, flashinfer.top_k)


def _beside_flashinfer(gpu: Gpu, top_k: Callable[..., object]) -> Iterator[list[Any]]:
    for dtype in (torch.float32, torch.bfloat16):
        scores = normal(gpu, (4096, 16384) if gpu.is_real else (64, 128), dtype)
        problem = al.Problem(scores, token_caps=K)
        sides: dict[str, Callable[[], object]] = {
            "solve": lambda problem=problem: al.solve(problem),
            "flashinfer": lambda scores=scores: top_k(scores, K, deterministic=True),
        }
        times = gpu.times(sides, repeats=5)
        ratio = times["flashinfer"] / times["solve"]
        met = f"{verdict(ratio > 1)} 1 x flashinfer" if gpu.is_real else "not judged"
        yield [str(dtype).removeprefix("torch."), scores.numel(), times["solve"], times["flashinfer"], ratio, met]


def _row(gpu: Gpu, kind: str, scores: Tensor) -> list[Any]:
    budget = K * scores.shape[0]
    limit, topk, axis, cap = {
        "whole": ({"budget": budget}, lambda: torch.topk(scores.flatten(), budget), None, budget),
        "rows": ({"token_caps": K}, lambda: torch.topk(scores, K, dim=1), 0, K),
        "columns": ({"feature_caps": M}, lambda: torch.topk(scores, M, dim=0), 1, M),
    }[kind]
    problem = al.Problem(scores, **limit)
    matrix = problem.matrix
    assert isinstance(matrix, DeviceScores)
    caps = np.full(1 if axis is None else scores.shape[axis], cap)

    def fixed() -> None:
        with matrix.scope():
            matrix.engine.padded_top(matrix, axis, caps)

    before = al.solve(problem).prices
    sides: dict[str, Callable[[], object]] = {
        "floor": scores.max,
        "solve": lambda: al.solve(problem),
        "warm": lambda: al.solve(problem, warm_start=before),
        "kernels": fixed,
        "torch.topk": topk,
    }
    # larger ones may not leave it the memory it needs
    if gpu.has_kernels and kind == "whole" and scores.dtype == torch.float32 and scores.numel() <= 1 << 28:
        import cupy

        array = cupy.from_dlpack(scores).reshape(-1)
        sides["cupy.partition"] = lambda: cupy.partition(array, array.size - budget)
    times = gpu.times(sides, repeats=5)
    measured = [times.get(name, float("nan")) for name in ("floor", "solve", "kernels", "torch.topk", "cupy.partition")]
    ratios = [times["solve"] / times["floor"], times["torch.topk"] / times["solve"], times["solve"] / times["warm"]]
    met = verdicts(kind, *ratios) if gpu.is_real else "not judged"
    return [kind, str(scores.dtype).removeprefix("torch."), scores.numel(), *measured, times["warm"], *ratios, met]


def verdicts(kind: str, reads: float, faster: float, warm: float) -> str:
    """Which targets of a selection are met, and which are missed."""
    said = []
    if kind in MOST_READS:
        said.append(f"{verdict(reads <= MOST_READS[kind])} {MOST_READS[kind]:g} reads")
    said.append(f"{verdict(faster >= LEAST_FASTER[kind])} {LEAST_FASTER[kind]:g} x topk")
    if kind in LEAST_WARM:
        said.append(f"{verdict(warm >= LEAST_WARM[kind])} {LEAST_WARM[kind]:g} x warm")
    return ", ".join(said)
