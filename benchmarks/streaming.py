"""Streaming selection from a memory-mapped file, against one read of it and the selection in memory."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np

import allocation as al
from benchmarks.harness import alternating, arguments, report
from benchmarks.selection import BUDGET, SHAPE, K, M, generic

ROWS = 512


def main() -> None:
    """A budget, feature caps, both; blocks of 512 rows, 32 MiB each."""
    options = arguments(__doc__ or "").parse_args()
    scores = generic()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "scores.npy", scores)
        mapped = np.load(Path(folder) / "scores.npy", mmap_mode="r")
        blocks = [mapped[start : start + ROWS] for start in range(0, SHAPE[0], ROWS)]
        cases = {
            f"budget {BUDGET}": {"budget": BUDGET},
            f"budget {8 * BUDGET}": {"budget": 8 * BUDGET},
            f"{M} per feature": {"feature_caps": M},
            f"{K} per feature, budget {BUDGET}": {"feature_caps": K, "budget": BUDGET},
        }
        rows = []
        for name, limits in cases.items():
            times = alternating(
                {
                    "floor": lambda: max(block.max() for block in blocks),
                    "stream": lambda limits=limits: al.select_stream(blocks, **limits),
                    "memory": lambda limits=limits: al.solve(al.Problem(scores, **limits)),
                },
                options.repeats,
            )
            tracemalloc.start()
            streamed = al.select_stream(blocks, **limits)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert al.verify(al.Problem(scores, **limits), streamed).optimal
            answer = streamed.tokens.nbytes + streamed.features.nbytes + streamed.values.nbytes
            beyond = (peak - answer) / 2**20
            milliseconds = [1e3 * times[side] for side in ("floor", "stream", "memory")]
            rows.append([name, *milliseconds, times["stream"] / times["floor"], answer / 2**20, beyond, 1])
    headings = [
        "limits",
        "floor ms",
        "stream ms",
        "in memory ms",
        "stream / floor",
        "answer MiB",
        "MiB beyond it",
        "reads",
    ]
    notes = (
        f"float32 {SHAPE[0]} x {SHAPE[1]} in a .npy file in the page cache, blocks of {ROWS} rows; floor: the maximum "
    )
    notes += "of every block; in memory: Problem and solve on the array; beyond: peak memory beyond the answer."
    report("streaming", headings, rows, notes)


if __name__ == "__main__":
    main()
