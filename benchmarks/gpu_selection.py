"""Selections on a GPU beside one read of the scores, `torch.topk` and `cupy.partition`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import allocation as al
from allocation.cuda.scores import DeviceScores
from benchmarks.gpu_device import Gpu
from benchmarks.gpu_parity import K, M, normal

HEADINGS = ["selection", "type", "entries", "floor ms", "solve ms", "kernels ms", "torch.topk ms", "cupy.partition ms"]
HEADINGS += ["solve / floor", "topk / solve"]


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

    sides: dict[str, Callable[[], object]] = {
        "floor": scores.max,
        "solve": lambda: al.solve(problem),
        "kernels": fixed,
        "torch.topk": topk,
    }
    if gpu.has_kernels and kind == "whole" and scores.dtype == torch.float32:
        import cupy

        array = cupy.from_dlpack(scores).reshape(-1)
        sides["cupy.partition"] = lambda: cupy.partition(array, array.size - budget)
    times = gpu.times(sides, repeats=5)
    measured = [times.get(name, float("nan")) for name in ("floor", "solve", "kernels", "torch.topk", "cupy.partition")]
    ratios = [times["solve"] / times["floor"], times["torch.topk"] / times["solve"]]
    row = [kind, str(scores.dtype).removeprefix("torch."), scores.numel(), *measured, *ratios]
    print(dict(zip(HEADINGS, row, strict=True)), flush=True)
    return row
