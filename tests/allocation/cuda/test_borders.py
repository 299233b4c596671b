"""Shapes and scores that break GPU code, on watched threads: warps, blocks and tiles one short, full and one beyond."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.cuda.kernels import TYPES
from allocation.cuda.scores import DeviceScores
from tests.allocation.cuda.host_device import HostDevice

# With five bits to a digit: a warp and a block are 32 threads, a tile 1024 entries, a block's words 8192.
BORDERS = (31, 32, 33, 1023, 1024, 1025)
SHAPES = [
    *((1, size) for size in (1, *BORDERS, 8191, 8192, 8193)),
    *((size, 1) for size in BORDERS),
    *((rows, columns) for rows in (31, 32, 33) for columns in (31, 32, 33)),
    *((rows, columns) for rows, columns in [(7, 1171), (3, 2731), (2731, 3), (129, 65), (65, 129)]),
    *((rows, columns) for rows, columns in [(0, 5), (5, 0), (0, 0)]),
]
KINDS = ("special", "any", "subnormal", "equal")


def bits_of(type_name: str) -> tuple[int, int, int]:
    """Width, the sign's bit, and the bits of +inf."""
    width, infinity = TYPES[type_name]
    return width, 1 << (width - 1), int(infinity.rstrip("ul"), 16) if infinity else 0


def special(type_name: str) -> np.ndarray:
    """Zeros, the least and largest numbers, infinities, and NaN quiet and signalling, of any payload; signed."""
    width, sign, inf = bits_of(type_name)
    if not inf:
        return np.array([0, 1, -1, 2**53, 1 - sign, sign - 1]).view("uint64")
    step = inf & -inf  # the least normal number, and of the exponent the last bit
    some = [0, 1, 2, step - 1, step, inf - 1, inf, inf + 1, inf + step // 2, inf + step // 2 + 1, inf + step - 1]
    return np.array([*some, *(sign + bits for bits in some)], f"uint{width}")


def drawn_bits(type_name: str, shape: tuple[int, int], kind: str, seed: int) -> np.ndarray:
    """Patterns of scores."""
    width, sign, inf = bits_of(type_name)
    rng = np.random.default_rng(seed)
    if kind == "equal":
        return np.full(shape, rng.choice(special(type_name)))
    if kind == "special":
        return rng.choice(special(type_name), shape)
    some = rng.integers(0, 1 << width, shape, dtype=np.uint64)
    if kind == "subnormal" and inf:
        some &= np.uint64(sign + (inf & -inf) - 1)
    return some.astype(f"uint{width}")


def rank_of(bits: np.ndarray, type_name: str) -> np.ndarray:
    """Integers in the order of the scores: by sign and magnitude, 0 for both zeros, NaN beyond infinity."""
    _, sign, inf = bits_of(type_name)
    if not inf:
        return bits.view(np.int64)
    magnitude = (bits & bits.dtype.type(sign - 1)).astype(np.int64)
    return np.where(bits >= sign, -magnitude, magnitude)


def as_float64(bits: np.ndarray, type_name: str) -> np.ndarray:
    """The scores of these patterns."""
    if type_name == "bfloat16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.view(type_name).astype(np.float64)


def by_numpy(bits: np.ndarray, type_name: str, axis: int | None, caps: np.ndarray, least: int) -> list[np.ndarray]:
    """Flat positions, of every group the last score taken and the best one refused, by sorting it."""
    rank, flat = rank_of(bits, type_name).reshape(-1), np.arange(bits.size).reshape(bits.shape)
    groups = [flat.reshape(-1)] if axis is None else list(flat if axis == 0 else flat.T)
    taken, last, refused = [np.zeros(0, np.int64)], np.full(len(groups), np.inf), np.zeros(len(groups))
    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        scores = as_float64(bits.reshape(-1), type_name)
    for number, (group, cap) in enumerate(zip(groups, caps, strict=True)):
        allowed = group[rank[group] >= least]
        best = allowed[np.lexsort((-allowed, rank[allowed]))[::-1]]
        taken.append(best[:cap])
        if len(best[:cap]):
            last[number] = scores[best[:cap][-1]]
        if len(best) > cap:
            refused[number] = scores[best[cap]]
    return [np.sort(np.concatenate(taken)), last, refused]


def assert_as_by_numpy(
    bits: np.ndarray, type_name: str, axis: int | None, caps: np.ndarray, device: HostDevice, only_positive: bool = True
) -> None:
    """The same positions and, to the last bit, the same ends."""
    least = 1 if only_positive else 1 - bits_of(type_name)[2] if bits_of(type_name)[2] else -(2**63)
    held = device.put(bits).view(type_name if type_name != "bfloat16" else "int16")
    with np.errstate(invalid="ignore"):
        anything = device.put(as_float64(np.resize(special(type_name), len(caps)), type_name))
    positions, last, refused = by_numpy(bits, type_name, axis, caps, least)
    for expected in (None, anything):  # what is expected of the prices changes nothing, whatever it is
        found = device.padded_top(DeviceScores(held, type_name, device), axis, caps, only_positive, expected)
        count = int(found.count[0])
        np.testing.assert_array_equal(found.positions[:count], positions)
        assert not found.positions[count:].any()
        for ours, theirs in ((found.last, last), (found.refused, refused)):
            np.testing.assert_array_equal(ours, theirs)
            np.testing.assert_array_equal(np.signbit(ours[theirs == 0]), False)  # both zeros are one score


@settings(max_examples=20)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(list(TYPES)),
    st.sampled_from(KINDS),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([0, 1, 31, 32, 33, 10**6]),
    st.booleans(),
    st.integers(0, 10**6),
)
@example((1, 1025), "bfloat16", "subnormal", None, 33, True, 1)
@example((33, 33), "float32", "special", 0, 31, True, 2)
@example((1024, 1), "float64", "special", 1, 33, False, 3)
def test_borders(
    shape: tuple[int, int], type_name: str, kind: str, axis: int | None, most: int, only_positive: bool, seed: int
) -> None:
    """Every type and side, with caps about a warp's size, of nothing, and of more than there is."""
    if axis is not None and shape[axis] > 200:  # a block each, which takes its time
        axis = 1 - axis
    bits = drawn_bits(type_name, shape, kind, seed)
    rng = np.random.default_rng(seed)
    caps = np.array([most]) if axis is None else rng.integers(0, min(most, shape[1 - axis]) + 2, shape[axis])
    device = HostDevice(seed=seed, watched=True, sample=int(rng.choice([64, 1024])))
    assert_as_by_numpy(bits, type_name, axis, caps, device, only_positive or axis is None)


@pytest.mark.parametrize("size", [8191, 8192, 8193])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_borders_of_a_cards_blocks(size: int, axis: int | None) -> None:
    """256 threads, a tile of 8192 entries: one short, full, one beyond."""
    bits = drawn_bits("bfloat16", (1, size) if axis == 0 else (size, 1), "special", size)
    assert_as_by_numpy(bits, "bfloat16", axis, np.full(1, 257), HostDevice(digit=8, watched=True, sample=512))


@pytest.mark.parametrize("offset", [1, 3, 7])
@pytest.mark.parametrize("type_name", ["bfloat16", "float32", "float64"])
def test_no_load_is_misaligned(type_name: str, offset: int) -> None:
    """A view that begins between two vector loads is read entry by entry; the watch refuses any other."""
    bits = drawn_bits(type_name, (1, 2100), "any", offset)
    device = HostDevice(watched=True, sample=256)
    held = device.put(bits).view("int16" if type_name == "bfloat16" else type_name)[:, offset:]
    found = device.padded_top(DeviceScores(held, type_name, device), None, np.array([40]))
    np.testing.assert_array_equal(found.positions, by_numpy(bits[:, offset:], type_name, None, np.array([40]), 1)[0])


@pytest.mark.parametrize("type_name", ["float16", "bfloat16", "float32", "float64"])
def test_every_nan_is_counted_and_the_first_is_placed(type_name: str) -> None:
    """Of either sign and any payload, quiet or signalling; no subnormal number or -inf is among them."""
    for shape in ((1, 31), (33, 32), (1, 1025)):
        bits = drawn_bits(type_name, shape, "special", shape[1])
        device = HostDevice(watched=True)
        held = device.put(bits).view("int16" if type_name == "bfloat16" else type_name)
        found = device.inspect(DeviceScores(held, type_name, device))
        with np.errstate(invalid="ignore"):
            scores = as_float64(bits.reshape(-1), type_name)
        expected: list[Any] = []
        for bad in (np.isnan(scores), np.isposinf(scores)):
            expected += [bad.sum(), np.flatnonzero(bad)[0] if bad.any() else bits.size]
        assert found.tolist() == expected


def test_lines_that_no_counter_holds_are_refused() -> None:
    """Counts of a line's entries have 32 bits, blocks of a launch 31: what has more is refused, not launched."""
    entry = np.zeros(1, np.float16)
    device = HostDevice()
    for shape, axis, caps in (((1, 2**32), 0, 1), ((2**32, 1), 1, 1), ((2**31, 0), 0, 2**31)):
        matrix = DeviceScores(np.broadcast_to(entry[:, None], shape), "float16", device)
        with pytest.raises(al.InvalidProblemError, match=r"scores: expected .* on CUDA, found \d+"):
            device.padded_top(matrix, axis, np.broadcast_to(np.int64(1), caps))
    assert device.launched == []
