"""Batches from main memory to a card, without waiting for what the card still does."""

from __future__ import annotations

import torch
from torch import Tensor


def uploaded(x: Tensor, device: torch.device | str) -> Tensor:
    """A batch on a device; by way of pinned memory, from which a card copies in its turn."""
    device = torch.device(device)
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
