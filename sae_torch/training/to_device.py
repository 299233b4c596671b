"""Batches from main memory to a GPU, without waiting for what the GPU still does."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A batch on a device; by way of pinned memory, from which a GPU copies in its turn."""
    device = torch.device(device)
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
