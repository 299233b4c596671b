"""Grouping numbered things without moving those of one group past each other."""

from __future__ import annotations

import numpy as np

from allocation.scores import Indices


def stable_order(ends: Indices, number: int) -> Indices:
    """The order that groups things by these ends, numbers below `number`, and keeps it within each."""
    narrow = np.uint16 if number < 1 << 16 else np.int64  # NumPy's stable sort of 16 bits is a radix sort
    return np.asarray(np.argsort(ends.astype(narrow), kind="stable"))
