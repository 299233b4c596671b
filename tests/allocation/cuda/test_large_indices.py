"""Positions that no 32-bit integer holds: only the last blocks run, on memory that is reserved but never touched."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from tests.allocation.cuda.host_device import HostDevice

COLUMNS = 1 << 16
ROWS = (1 << 16) + 3
SIZE = ROWS * COLUMNS
TILE = 32 << 5
# the smallest positive key of a 16-bit score, and the pattern of 1.0
LEAST, ONE = 0x8001, 0x3C00


def reserved(size: int, kind: str) -> np.ndarray:
    """Zeros that take no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    return np.frombuffer(mmap.mmap(-1, size * np.dtype(kind).itemsize, flags=flags), kind)


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    """More than 2^32 scores, all 0 but three of the last row."""
    matrix = reserved(SIZE, "uint16")
    matrix[[SIZE - 1, SIZE - 7, SIZE - 2000]] = ONE
    return matrix


def last_blocks(blocks: int, count: int = 3) -> int:
    return blocks - count


def test_survivors_of_the_whole(scores: np.ndarray) -> None:
    """Positions in the list are flat ones."""
    device = HostDevice()
    blocks = -(-SIZE // TILE)
    held, keys, positions = device.filled(1, "int64", 0), device.empty(9, "uint32"), device.empty(9, "int64")
    lower = device.filled(1, "uint32", LEAST)
    arguments = (scores, SIZE, lower, 9, held, keys, positions)
    device.launch("compact_whole", "float16", blocks, *arguments, first=last_blocks(blocks))
    assert held[0] == 3
    assert sorted(positions[:3]) == [SIZE - 2000, SIZE - 7, SIZE - 1]
    assert set(keys[:3]) == {ONE | 0x8000}


@pytest.mark.parametrize("axis", [0, 1])
def test_survivors_of_lines(scores: np.ndarray, axis: int) -> None:
    """Each in the list of its own row or column."""
    device = HostDevice()
    lines = (ROWS, COLUMNS)[axis]
    blocks = -(-SIZE // TILE)
    starts, held = device.put(4 * np.arange(lines + 1)), device.filled(lines, "int64", 0)
    keys, positions = device.empty(4 * lines, "uint32"), device.empty(4 * lines, "int64")
    lower = device.filled(lines, "uint32", LEAST)
    name = ("compact_rows", "compact_columns")[axis]
    arguments = (scores, SIZE, COLUMNS, lower, starts, held, keys, positions)
    device.launch(name, "float16", blocks, *arguments, first=last_blocks(blocks))
    expected = {ROWS - 1: 3} if axis == 0 else {COLUMNS - 1: 1, COLUMNS - 7: 1, COLUMNS - 2000: 1}
    assert dict(zip(np.flatnonzero(held).tolist(), held[held > 0].tolist(), strict=True)) == expected
    assert positions[4 * (lines - 1)] >= SIZE - 2000

    # from the list to bits, and from the matrix itself where a list is incomplete
    taken = reserved(-(-SIZE // 32), "uint32")
    last, refused = device.filled(lines, "uint32", 0), device.filled(lines, "uint32", 0)
    caps = device.filled(lines, "int64", 2)
    step, length = (1, COLUMNS) if axis == 0 else (COLUMNS, ROWS)
    if axis == 1:
        held[COLUMNS - 1] = 99
    arguments = (scores, length, step, keys, positions, held, starts, lower, caps, LEAST, 4 + 7, taken, last, refused)
    device.launch("finish_lines", "float16", lines, *arguments, first=lines - 1)
    words = -(-SIZE // 32)
    expected_bits = [SIZE - 2000, SIZE - 7] if axis == 0 else [SIZE - 1]
    assert last[lines - 1] == ONE | 0x8000

    blocks = -(-words // (8 << 5))
    counts, out = device.filled(blocks, "int64", 0), device.empty(2, "int64")
    device.launch("count_taken", "float16", blocks, taken, words, counts, first=last_blocks(blocks, 10))
    total = device.filled(1, "int64", 0)
    device.launch("sum_counts", "float16", 1, counts, blocks, total)
    device.launch("write_positions", "float16", blocks, taken, words, counts, out, first=last_blocks(blocks, 10))
    assert out[: total[0]].tolist() == expected_bits


def test_maxima(scores: np.ndarray) -> None:
    """Of the last row, and of the last columns over all rows."""
    device = HostDevice()
    maxima = device.filled(ROWS * 32, "uint32", 0)
    device.launch("row_maxima", "float16", ROWS, scores, COLUMNS, 32, maxima, first=ROWS - 1)
    assert maxima[(ROWS - 1) * 32 + (COLUMNS - 1) % 32] == ONE | 0x8000
    columns = device.filled(COLUMNS * 32, "uint32", 0)
    blocks = COLUMNS // 32
    device.launch("column_maxima", "float16", blocks, scores, ROWS, COLUMNS, 32, columns, first=blocks - 1)
    assert columns[(COLUMNS - 1) * 32 + (ROWS - 1) % 32] == ONE | 0x8000


def test_bad_entries(scores: np.ndarray) -> None:
    """The place of a NaN near the end."""
    device = HostDevice()
    scores[SIZE - 3] = 0x7E00
    found = device.put(np.array([0, SIZE, 0, SIZE]))
    blocks = -(-SIZE // TILE)
    device.launch("inspect", "float16", blocks, scores, SIZE, found, first=last_blocks(blocks))
    scores[SIZE - 3] = 0
    assert found.tolist() == [1, SIZE - 3, 0, SIZE]
