"""The top of the whole matrix, of every row or of every column on a CUDA device, without a decision on the host.

The primitive of `solvers.top_selection.whole` as one sequence of launches: *bracket* (a sample, or maxima of groups,
gives a lower end), *compact* (one read keeps what reaches it), *finish* (radix selection among the survivors). The
*check* is made on the device: where a list does not hold what matters, the finishing kernels read the scores instead.

What is taken is described by a price and a position per group and drawn as one bit per entry, from which positions are
written in order. So nothing depends on how blocks are scheduled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arrays import Indices
from allocation.cuda.kernels import TYPES, Launcher, key_type
from allocation.cuda.scores import FixedTop

# Entries sampled to bracket the price of a whole matrix; smaller matrices survive entirely.
SAMPLE = 1 << 14
# Entries of a tile per thread, words of the bits per thread: as in the kernels.
ITEMS, WORDS = 32, 8
# Room for survivors, in multiples of what is expected (whole), taken (with an expected price) or wanted (lines).
WIDE, EXPECTED_WIDE = 2, 3
LINE_WIDE, LINE_MORE = 4, 64
# A list of more than this share of the matrix would cost more than it saves.
LISTED = 1 / 8
# Groups per line, in multiples of what is wanted, but at most; the share of them that may be wanted.
GROUPS, MOST_COLUMN_GROUPS, FILLED = 4, 256, 0.6
# Blocks that share the work where its size is known to the device alone.
MOST_BLOCKS = 1024


@dataclass(frozen=True, eq=False)
class Matrix:
    """Scores on a device as flat bit patterns of a number type."""

    bits: Any
    type: str
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]


def select_whole(device: Launcher, matrix: Matrix, cap: int, sample: int = SAMPLE, expected: Any = None) -> FixedTop:
    """The largest `cap` positive entries of the matrix; `expected` is a float64 a little below the price."""
    size, kind = matrix.size, key_type(matrix.type)
    cap = min(cap, size)
    taken, last, refused = (
        device.filled(_words(size), "uint32", 0),
        device.filled(1, kind, 0),
        device.filled(1, kind, 0),
    )
    survivor_counts = device.filled(1, "int64", 0)
    if size:
        room = EXPECTED_WIDE * cap + sample
        if expected is None or size <= sample or room > LISTED * size:
            lower, room = sampled_end(device, matrix, cap, sample)
        else:
            lower = expected_ends(device, matrix, expected, smallest_positive(matrix.type))
        rank_state = device.filled(4, "int64", 0)
        keys, positions = device.empty(room, kind), device.empty(room, "int64")
        tile = ITEMS << device.digit
        device.launch(
            "compact_whole",
            matrix.type,
            -(-size // tile),
            *(matrix.bits, size, lower, room, survivor_counts, keys, positions),
        )
        line = (matrix.bits, size, keys, positions, survivor_counts, room, lower, cap)
        bins, finished_blocks = device.filled(1 << device.digit, "int64", 0), device.filled(1, "int64", 0)
        blocks = min(MOST_BLOCKS, -(-size // tile))
        digits = _digits(device, matrix)
        for digit in range(digits):
            device.launch("narrow", matrix.type, blocks, *line, digit, digits, bins, finished_blocks, rank_state)
        device.launch("mark_whole", matrix.type, blocks, *line, rank_state, taken, last, refused)
    return _selection(device, matrix, taken, cap, last, refused, survivor_counts)


def sampled_end(device: Launcher, matrix: Matrix, cap: int, sample: int) -> tuple[Any, int]:
    """A key that a little more than `cap` entries very likely reach, and room for them."""
    size, kind = matrix.size, key_type(matrix.type)
    rank = (cap + 1) * sample / size
    wanted = math.ceil(rank + 4.0 * math.sqrt(rank * max(1.0 - rank / sample, 0.0)) + 8.0)
    if size <= sample or wanted >= sample:
        return device.filled(1, kind, smallest_positive(matrix.type)), size if size <= sample else 0
    keys, lower = device.empty(sample, kind), device.empty(1, kind)
    device.launch("sample", matrix.type, -(-sample >> device.digit), matrix.bits, size, sample, keys)
    wanted_here = device.filled(1, "int64", wanted)
    device.launch("bracket", matrix.type, 1, keys, sample, wanted_here, sample, smallest_positive(matrix.type), lower)
    room = math.ceil(WIDE * wanted * size / sample)
    return lower, room if room <= LISTED * size else 0


def select_lines(
    device: Launcher, matrix: Matrix, axis: int, caps: Indices, only_positive: bool = True, expected: Any = None
) -> FixedTop:
    """The largest `caps[l]` entries, positive or merely allowed, of every row (axis 0) or column (axis 1).

    `expected` are float64 a little below what each line refuses; then the scores are read once instead of twice.
    """
    lines, length = matrix.shape[axis], matrix.shape[1 - axis]
    kind = key_type(matrix.type)
    caps = np.minimum(caps, length)
    taken, last, refused = (
        device.filled(_words(matrix.size), "uint32", 0),
        device.filled(lines, kind, 0),
        device.filled(lines, kind, 0),
    )
    survivor_counts = device.filled(lines, "int64", 0)
    if matrix.size:
        room = np.minimum(LINE_WIDE * (caps + 1) + LINE_MORE, length)
        total = int(room.sum())
        if caps.min() == caps.max():  # the device writes it all: nothing is copied there
            limits, starts = device.filled(lines, "int64", int(caps[0])), device.ramp(lines + 1, int(room[0]))
        else:
            limits, starts = device.put(caps), device.put(np.concatenate([[0], np.cumsum(room)]))
        least = smallest_positive(matrix.type) if only_positive else smallest_allowed(matrix.type)
        if expected is None:
            lower = line_ends(device, matrix, axis, caps, limits, least)
        else:
            lower = expected_ends(device, matrix, expected, least)
        keys, positions = device.empty(total, kind), device.empty(total, "int64")
        device.launch(
            ("compact_rows", "compact_columns")[axis],
            matrix.type,
            -(-matrix.size // (ITEMS << device.digit)),
            *(matrix.bits, matrix.size, matrix.shape[1], lower, starts, survivor_counts, keys, positions),
        )
        step = 1 if axis == 0 else matrix.shape[1]
        device.launch(
            "finish_lines",
            matrix.type,
            lines,
            *(matrix.bits, length, step, keys, positions, survivor_counts, starts, lower, limits),
            *(least, _digits(device, matrix), taken, last, refused),
        )
    return _selection(device, matrix, taken, int(caps.sum()), last, refused, survivor_counts)


def expected_ends(device: Launcher, matrix: Matrix, expected: Any, least: int) -> Any:
    """Keys of expected scores, at least `least`; whether they serve is seen when they are used."""
    size = expected.shape[0]
    lower = device.empty(size, key_type(matrix.type))
    device.launch("expect", matrix.type, -(-size >> device.digit), expected, size, least, lower)
    return lower


def line_ends(device: Launcher, matrix: Matrix, axis: int, caps: Indices, limits: Any, least: int) -> Any:
    """A key per line that one more than its cap reach: from the maxima of groups, at least as many reach that."""
    lines, length = matrix.shape[axis], matrix.shape[1 - axis]
    kind = key_type(matrix.type)
    groups = min(GROUPS * (int(caps.max(initial=0)) + 1) + 28 & ~31, length)
    if axis == 1:
        groups = min(groups, MOST_COLUMN_GROUPS)
    # every entry a group of its own: the maxima are the line, and any number may be wanted
    most_wanted = length + 1 if groups == length else int(FILLED * groups)
    maxima, lower = device.empty(lines * groups, kind), device.empty(lines, kind)
    if axis == 0:
        device.launch("row_maxima", matrix.type, lines, matrix.bits, length, groups, maxima)
    else:
        blocks = -(-lines // 32) * -(-groups // 32)
        device.launch("column_maxima", matrix.type, blocks, matrix.bits, length, lines, groups, maxima)
    device.launch("bracket", matrix.type, lines, maxima, groups, limits + 1, most_wanted, least, lower)
    return lower


def _selection(
    device: Launcher, matrix: Matrix, taken: Any, most: int, last: Any, refused: Any, reaching: Any
) -> FixedTop:
    """Positions of the bits in `taken`, at most `most` of them; scores of the keys `last` and `refused`."""
    positions, count = device.filled(most, "int64", 0), device.filled(1, "int64", 0)
    words = _words(matrix.size)
    if words and most:
        blocks = -(-words // (WORDS << device.digit))
        starts = device.empty(blocks, "int64")
        device.launch("count_taken", matrix.type, blocks, taken, words, starts)
        device.launch("sum_counts", matrix.type, 1, starts, blocks, count)
        device.launch("write_positions", matrix.type, blocks, taken, words, starts, positions)
    last, refused = scores_of_keys(device, last, matrix.type, np.inf), scores_of_keys(device, refused, matrix.type, 0.0)
    return FixedTop(positions, count, last, refused, reaching=reaching)


def scores_of_keys(device: Launcher, keys: Any, type_name: str, absent: float) -> Any:
    """Keys back to scores in float64; `absent` where the key is 0."""
    size = keys.shape[0]
    scores = device.empty(size, "int64")
    if size:
        bits = int(np.float64(absent).view(np.int64))
        device.launch("scores_of_keys", type_name, -(-size >> device.digit), keys, size, bits, scores)
    return device.reals(scores)


def _digits(device: Launcher, matrix: Matrix) -> int:
    """Digits of a key and of a position."""
    bits = TYPES[matrix.type][0]
    return -(-bits // device.digit) + -(-max(matrix.size - 1, 1).bit_length() // device.digit)


def smallest_positive(type_name: str) -> int:
    """The key of the least positive score."""
    return (1 << (TYPES[type_name][0] - 1)) + 1


def smallest_allowed(type_name: str) -> int:
    """The key of the least score that is not -inf; the least of all for integers."""
    bits, infinity = TYPES[type_name]
    return 0 if infinity is None else ((1 << (bits - 1)) - 1 - int(infinity.rstrip("ul"), 16)) + 1


def _words(size: int) -> int:
    """Words of 32 bits for one bit per entry."""
    return -(-size // 32)
