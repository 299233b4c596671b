"""What `make gpu-check` compares with main memory, where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_check import STAGES
from benchmarks.gpu_device import Gpu

PARTS = STAGES["parity"].parts | STAGES["ranks"].parts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("part", PARTS)
def test_on_a_card(part: str) -> None:
    """The same answers as NumPy, and no waiting."""
    assert isinstance(PARTS[part](Gpu("cuda")), str)
