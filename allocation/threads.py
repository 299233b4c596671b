"""Cache-sized blocks of rows, worked on by a few threads: NumPy releases the interpreter lock inside its loops."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

# A block must stay in cache between the passes made over it, and be large enough to outweigh the calls.
BLOCK_BYTES = 1 << 21
# Below this size starting threads costs more than it saves.
SERIAL_BYTES = 1 << 22


def map_blocks(
    work: Callable[[int, int], T],
    rows: int,
    nbytes: int,
    workers: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> list[T]:
    """`[work(start, stop), ...]` over consecutive blocks of `rows`, in order, `nbytes` in all."""
    if rows == 0:
        return []
    step = max(1, block_bytes * rows // max(nbytes, 1))
    bounds = [(start, min(start + step, rows)) for start in range(0, rows, step)]
    workers = available_cores() if workers is None else workers
    if workers <= 1 or len(bounds) == 1 or nbytes < SERIAL_BYTES:
        return [work(start, stop) for start, stop in bounds]
    # a few runs of consecutive blocks per thread: one task per block would spend its time handing over the lock
    share = -(-len(bounds) // (2 * workers))
    runs = [bounds[first : first + share] for first in range(0, len(bounds), share)]
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(lambda run: [work(start, stop) for start, stop in run], runs)
        return [result for part in parts for result in part]


def available_cores() -> int:
    """Cores this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
