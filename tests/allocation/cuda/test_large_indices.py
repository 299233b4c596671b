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


@pytest.mark.parametrize("groups", [32, None])
def test_maxima(scores: np.ndarray, groups: int | None) -> None:
    """Of the last row, and of the last columns over all rows; with every entry a group of its own, as many maxima."""
    device = HostDevice()
    of_row, of_column = groups or COLUMNS, groups or ROWS
    maxima = reserved(ROWS * of_row, "uint32")
    device.launch("row_maxima", "float16", ROWS, scores, COLUMNS, of_row, maxima, first=ROWS - 1)
    assert maxima[(ROWS - 1) * of_row + (COLUMNS - 1) % of_row] == ONE | 0x8000
    columns = reserved(COLUMNS * of_column, "uint32")
    blocks = COLUMNS // 32 * -(-of_column // 32)
    device.launch("column_maxima", "float16", blocks, scores, ROWS, COLUMNS, of_column, columns, first=blocks - 1)
    assert columns[(COLUMNS - 1) * of_column + (ROWS - 1) % of_column] == ONE | 0x8000


def test_words_beyond_32_bits() -> None:
    """Of a matrix with 2^37 entries."""
    device = HostDevice()
    words = (1 << 32) + 64
    taken = reserved(words, "uint32")
    taken[-1] = 5
    blocks = -(-words // (8 << 5))
    counts, out = reserved(blocks, "int64"), device.filled(2, "int64", 0)
    device.launch("count_taken", "float16", blocks, taken, words, counts, first=blocks - 1)
    assert counts[-1] == 2
    counts[-1] = 0
    device.launch("write_positions", "float16", blocks, taken, words, counts, out, first=blocks - 1)
    assert out.tolist() == [32 * words - 32, 32 * words - 30]


def test_bad_entries(scores: np.ndarray) -> None:
    """The place of a NaN near the end."""
    device = HostDevice()
    scores[SIZE - 3] = 0x7E00
    found = device.put(np.array([0, SIZE, 0, SIZE]))
    blocks = -(-SIZE // TILE)
    device.launch("inspect", "float16", blocks, scores, SIZE, found, first=last_blocks(blocks))
    scores[SIZE - 3] = 0
    assert found.tolist() == [1, SIZE - 3, 0, SIZE]


def test_the_rank_of_the_whole_and_its_bits(scores: np.ndarray) -> None:
    """Equals far apart, of which the price takes some: from a list, and from the matrix itself by its last block."""
    positions = np.array([5, SIZE - 2000, SIZE - 7, SIZE - 1])
    digits = 4 + 7
    for room, cap, expected in ((4, 3, [SIZE - 2000, SIZE - 7]), (3, 1, [SIZE - 7])):
        device = HostDevice()
        blocks = 1 if room == 4 else SIZE // 32
        line = (scores, SIZE, device.filled(4, "uint32", ONE | 0x8000), device.put(positions))
        line = (*line, device.filled(1, "int64", 4), room, device.filled(1, "uint32", LEAST), cap)
        bins, ended, rank = device.filled(32, "int64", 0), device.filled(1, "int64", 0), device.filled(4, "int64", 0)
        for digit in range(digits):
            ended[0] = blocks - 1  # the other blocks have met zeros alone
            device.launch("narrow", "float16", blocks, *line, digit, digits, bins, ended, rank, first=blocks - 1)
        taken = reserved(-(-SIZE // 32), "uint32")
        last, refused = device.filled(1, "uint32", 0), device.filled(1, "uint32", 0)
        device.launch("mark_whole", "float16", blocks, *line, rank, taken, last, refused, first=blocks - 1)
        assert [32 * (len(taken) - 100) + place for place in _bits(taken[-100:])] == expected


def _bits(words: np.ndarray) -> list[int]:
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


def test_the_sample_visits_all_of_it(scores: np.ndarray) -> None:
    """Steps of the golden ratio, the last of 2^33 of them."""
    device = HostDevice()
    count = 1 << 33
    keys = reserved(count, "uint32")
    place = ((count - 1) * 0x9E3779B97F4A7C15 % 2**64) * SIZE >> 64
    before, scores[place] = scores[place], ONE
    device.launch("sample", "float16", count // 32, scores, SIZE, count, keys, first=count // 32 - 1)
    scores[place] = before
    assert keys[-1] == ONE | 0x8000
    assert set(keys[-32:-1]) <= {0x8000, ONE | 0x8000}


def test_ends_of_lines_and_their_scores() -> None:
    """Maxima of more groups than a 32-bit integer counts, and as many keys."""
    device = HostDevice()
    lines, groups = 1 << 24, 257
    keys, wanted = reserved(lines * groups, "uint32"), reserved(lines, "int64")
    keys[-257:], wanted[-1] = 0x8000 + np.arange(257), 3
    lower = reserved(lines, "uint32")
    device.launch("bracket", "float16", lines, keys, groups, wanted, 100, LEAST, lower, first=lines - 1)
    assert lower[-1] == 0x8000 + 254
    size = lines * groups
    found = reserved(size, "int64")
    device.launch("scores_of_keys", "float16", -(-size // 32), keys, size, 7, found, first=-(-size // 32) - 1)
    score = found[-1:].view(np.float64)
    assert score[0] == np.array([256], np.uint16).view(np.float16)[0]
    device.launch("expect", "float16", -(-size // 32), found, size, LEAST, keys, first=-(-size // 32) - 1)
    assert keys[-1] == 0x8000 + 256


def test_a_stride_beyond_32_bits_of_bytes() -> None:
    """Columns of float64 whose entries lie more than 2^32 bytes apart: survivors, and one that reads the scores."""
    rows, columns = 3, (1 << 29) + 5
    size = rows * columns
    matrix = reserved(size, "uint64")
    one, least = 0x3FF << 52, (1 << 63) + 1
    matrix[[columns - 1, 2 * columns - 1, size - 1]] = one, one + 1, one + 2
    device = HostDevice()
    starts, held, lower = (reserved(columns + 1, "int64") for _ in range(3))
    starts[-2:], lower[-2] = (0, 9), 1
    keys, positions = device.empty(9, "uint64"), device.empty(9, "int64")
    lower = lower.view("uint64")
    arguments = (matrix, size, columns, lower, starts, held, keys, positions)
    for last_of_row in range(1, rows + 1):
        block = (last_of_row * columns - 1) // TILE
        lower[columns - 99 :] = least
        lower[: (block + 1) * TILE % columns] = least
        device.launch("compact_columns", "float64", block + 1, *arguments, first=block)
    assert held[columns - 1] == rows
    assert sorted(positions[:rows]) == [columns - 1, 2 * columns - 1, size - 1]
    for overflowed in (0, 99):
        held[columns - 1] += overflowed
        taken = reserved(-(-size // 32), "uint32")
        caps, last, refused = (reserved(columns, kind) for kind in ("int64", "uint64", "uint64"))
        caps[-1] = 2
        arguments = (
            matrix,
            rows,
            columns,
            keys,
            positions,
            held,
            starts,
            lower,
            caps,
            least,
            13 + 7,
            taken,
            last,
            refused,
        )
        device.launch("finish_lines", "float64", columns, *arguments, first=columns - 1)
        assert (last[-1], refused[-1]) == ((1 << 63) + one + 1, (1 << 63) + one)
        assert _bits(taken[-1:]) == [(size - 1) % 32]
        word = (2 * columns - 1) // 32
        assert _bits(taken[word : word + 1]) == [(2 * columns - 1) % 32]
    maxima = reserved(columns * 2, "uint64")
    blocks = -(-columns // 32)
    device.launch("column_maxima", "float64", blocks, matrix, rows, columns, 2, maxima, first=blocks - 1)
    assert (maxima[-2:] == (1 << 63) + one + np.array([2, 1], np.uint64)).all()
