"""No two threads meet without an order: every access of every kernel is watched, and the watch sees what is missing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from allocation.cuda.kernels import source
from allocation.cuda.scores import DeviceScores
from tests.allocation.cuda.host_device import HostDevice
from tests.allocation.cuda.matrices import drawn, typed

SOURCE = source()
KERNELS = set(re.findall(r"__global__ void (\w+)", SOURCE))
SYNCHRONISE, FENCE = "__syncthreads();", "__threadfence();"
ORDERS = [match.span() for match in re.finditer(re.escape(SYNCHRONISE) + "|" + re.escape(FENCE), SOURCE)]
# One edit each that leaves an order, a bound or a type: where it is, what stands there instead, and what is said of it.
EDITS = {
    "one block takes another's bits": (
        "atomicOr(&taken[position >> 5], ",
        "(taken[position >> 5] |= ",
        "race in global",
    ),
    "the best is written by all": ("atomicMax(&refused, best);", "refused = best;", "race in shared"),
    "bins are added up plainly": (
        "atomicAdd(&bins[threadIdx.x], (Count)own[",
        "(bins[threadIdx.x] += own[",
        "race in gl",
    ),
    "one too far": ("if (i < size) scores[i]", "if (i <= size) scores[i]", "beside all arrays"),
    "a vector past the end": ("at + RUN <= size", "at < size", "beside all arrays"),
    "a vector between two": ("((Count)(scores + at) & 15) == 0", "true", "misaligned"),
    "a shift of a whole word": ("rank.price >> shift >> DIGIT", "rank.price >> (shift + DIGIT)", "shift beyond a word"),
    "a product of 32 bits": (
        "blockIdx.x * TILE +",
        "((int)blockIdx.x + 1) * 0x7fffffff % 2 * TILE +",
        "overflow of a product",
    ),
}


def launches(text: str | None) -> set[str]:
    """The kernels that ran, on lists and on the scores themselves, from a bracket that is right and one that is not."""
    seen = set()
    for kind in ("generic", "tied", "equal"):
        held, _ = typed(drawn((3, 401), kind, 1), "float32")
        for axis, caps in ((None, [60]), (0, [3, 30, 4]), (1, [1] * 401)):
            device = HostDevice(watched=True, sample=256, text=text)
            held_there = device.put(held)  # of the whole, a view that starts between two vectors
            view = held_there.reshape(1, -1)[:, 1:] if axis is None else held_there
            matrix = DeviceScores(view, "float32", device)
            device.inspect(matrix)
            device.padded_top(matrix, axis, np.array(caps))
            device.padded_top(matrix, axis, np.array(caps), expected=device.put(np.full(len(caps), 0.9)))
            if axis is not None:
                device.padded_top(matrix, axis, np.array(caps), only_positive=False)
            seen |= set(device.launched)
    return seen


def test_every_kernel_is_watched() -> None:
    assert launches(None) == KERNELS


def test_a_barrier_that_is_missing_is_seen() -> None:
    """The last one of all; the others in the test below, which takes longer."""
    (start, stop) = [span for span in ORDERS if SOURCE[slice(*span)] == SYNCHRONISE][-1]
    with pytest.raises(AssertionError, match="narrow: race in shared memory"):
        launches(SOURCE[:start] + SOURCE[stop:])


@pytest.mark.slow
@pytest.mark.parametrize("span", ORDERS, ids=[f"line {SOURCE[:start].count(chr(10)) + 1}" for start, _ in ORDERS])
def test_no_barrier_and_no_fence_is_idle(span: tuple[int, int]) -> None:
    """Without any one of them the watch sees a race, or threads that wait at different barriers."""
    with pytest.raises(AssertionError, match=r"race in (shared|global) memory|barriers differ"):
        launches(SOURCE[: span[0]] + SOURCE[span[1] :])


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_what_else_the_watch_sees(edit: str) -> None:
    """Plain writes where others write, reads past an end, loads between two vectors, shifts and products too large."""
    before, after, said = EDITS[edit]
    assert SOURCE.count(before) == 1
    with pytest.raises(AssertionError, match=said):
        launches(SOURCE.replace(before, after))
