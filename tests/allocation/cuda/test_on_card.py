"""The short parts of `make gpu-check`, where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_check import PARTS
from benchmarks.gpu_device import Gpu

SHORT = (
    "refusals", "small parity", "nested parity", "two-sided parity", "exact steps", "training parity",
    "no waiting", "graph capture",
    "steps without waiting", "captured steps",
)  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("part", SHORT)
def test_on_a_card(part: str) -> None:
    """The same answers as NumPy, and no waiting."""
    assert isinstance(PARTS[part][0](Gpu("cuda")), str)
