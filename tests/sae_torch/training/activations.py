"""Activations with known structure, for tests of training."""

from __future__ import annotations

import torch
from torch import Tensor


def activations(batches: int, tokens: int = 256, d_model: int = 16, features: int = 48, seed: int = 0) -> list[Tensor]:
    """Sparse sums of known directions with Zipf-like firing, plus a mean and noise."""
    generator = torch.Generator().manual_seed(7)
    directions = torch.nn.functional.normalize(torch.randn(features, d_model, generator=generator), dim=1)
    density = 6.0 / (torch.arange(features) + 12.0)
    generator = torch.Generator().manual_seed(seed)
    firing = torch.rand(batches, tokens, features, generator=generator) < density
    strength = 1.0 + torch.rand(batches, tokens, features, generator=generator)
    x = (firing * strength) @ directions + 0.05 * torch.randn(batches, tokens, d_model, generator=generator)
    return list(2.0 * x + 1.5)
