"""Sums without rounding, against fractions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocation import exact_sums
from allocation.exact_sums import rounded_sum

KINDS = ("float16", "float32", "float64", "int8", "int32", "int64", "uint64", "bool")


@given(st.sampled_from(KINDS), st.integers(0, 3), st.integers(0, 60), st.booleans(), st.integers(0, 10**6))
def test_the_sum_is_the_rounded_sum_of_fractions(
    kind: str, blocks: int, orders: int, positive: bool, seed: int
) -> None:
    """Numbers of any spread, whose leading parts may cancel."""
    rng = np.random.default_rng(seed)
    size = 32 * blocks + int(rng.integers(0, 32))
    if kind.startswith("float"):
        wide = rng.standard_normal(size) * 2.0 ** rng.integers(-orders, orders + 1, size)
        wide = np.clip(np.abs(wide) if positive else wide, -60000, 60000)
        values: np.ndarray[Any, Any] = np.concatenate([wide, -wide[: size // 2]]).astype(kind)
    elif kind == "bool":
        values = rng.random(size) < 0.5
    else:
        ends = np.iinfo(kind)
        values = rng.integers(ends.min, ends.max, size, dtype=kind, endpoint=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_sums, "FEW", 1)
        patch.setattr(exact_sums, "BLOCK_BITS", 5)
        patch.setattr(exact_sums, "ROW_BITS", 2)
        found = rounded_sum(values)
    assert found == float(sum((Fraction(number) for number in values.tolist()), Fraction(0)))


@pytest.mark.parametrize("scale", [1e290, 5e-324, 1e-300])
def test_sums_near_the_ends_of_the_range(scale: float) -> None:
    values = np.random.default_rng(0).integers(-50, 90, 100_000) * scale
    assert rounded_sum(values) == math.fsum(values.tolist())
