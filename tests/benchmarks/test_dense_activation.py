"""The benchmark of activations compares the same matrices and gradients, at a size that says nothing about time."""

from __future__ import annotations

import torch

from benchmarks.dense_activation import PAIRS, activations, with_gradient


def test_both_sides_give_the_same_matrix_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(50, 80, generator=generator).requires_grad_()
    upstream = torch.randn(50, 80, generator=generator)
    sides = activations(scores, 4)
    for pair in PAIRS.values():
        matrices = [sides[name]() for name in pair]
        (ours,), (theirs,) = (with_gradient(sides[name], scores, upstream)() for name in pair)
        assert torch.equal(*matrices)
        assert torch.equal(ours, theirs)
