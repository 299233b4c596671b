"""Run by `test_triton.py` in a process with TRITON_INTERPRET=1, which Triton reads when it is first imported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.ops import counting, segments, triton_kernels


def drawn(seed: int, dtype: torch.dtype, tokens: int, d: int, features: int, matches: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(tokens, d, generator=generator).to(dtype)
    right = torch.randn(features, d, generator=generator).to(dtype)
    one = torch.randint(tokens, (matches,), generator=generator).sort().values
    two = torch.randint(features, (matches,), generator=generator)
    weights = torch.randn(matches, generator=generator).to(dtype)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(one, minlength=tokens).cumsum(0)])
    return left, right, one, two, weights, offsets


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_row_sums_and_dots(dtype: torch.dtype) -> None:
    """Against dense float64, on shapes with one row, rows wider than a tile, empty segments, nothing matched."""
    exact = dtype == torch.float64
    for seed, (tokens, d, features, matches) in enumerate(
        [(1, 1, 1, 1), (3, 5, 7, 0), (4, 300, 2, 40), (9, 256, 30, 100), (2, 17, 3, 33)]
    ):
        left, right, one, two, weights, offsets = drawn(seed, dtype, tokens, d, features, matches)
        sums = triton_kernels.weighted_row_sums(right, two, weights, offsets)
        dense = torch.zeros(tokens, features, dtype=torch.float64).index_put(
            (one, two), weights.double(), accumulate=True
        )
        near = {"rtol": 1e-12, "atol": 1e-12} if exact else {"rtol": 1e-2, "atol": 1e-4 if d == 1 else 5e-2}
        if dtype == torch.float32:
            near = {"rtol": 1e-5, "atol": 1e-4}
        assert sums.dtype == dtype
        torch.testing.assert_close(sums.double(), dense @ right.double(), **near)
        dots = triton_kernels.sampled_dots(left, right, one, two)
        expected = (left.double()[one] * right.double()[two]).sum(dim=1)
        assert dots.dtype == dtype
        torch.testing.assert_close(dots.double(), expected, **(near | ({} if exact else {"atol": 0.2})))
        assert torch.equal(sums, triton_kernels.weighted_row_sums(right, two, weights, offsets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counts(dtype: torch.dtype) -> None:
    for rows, columns in ((1, 1), (300, 130), (257, 5)):
        scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)).to(dtype)
        theta = scores[0].clone()
        assert torch.equal(triton_kernels.count_above(scores, theta), (scores > theta).sum(dim=0))


@pytest.mark.parametrize("kind", ["token", "mutual", "feature"])
@pytest.mark.parametrize("auxiliary", [False, True])
def test_a_step_is_that_of_the_cpu_path(kind: str, auxiliary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, every gradient and every buffer, with the whole layer on the Triton ops."""
    results = []
    for triton in (False, True):
        monkeypatch.setattr(segments, "runs_triton", lambda tensor, on=triton: on)
        monkeypatch.setattr(counting, "runs_triton", lambda tensor, on=triton: on)
        choice = {
            "token": lambda: st.TokenChoice(3),
            "mutual": lambda: st.MutualChoice(3),
            "feature": lambda: st.FeatureChoice(3, quotas="uniform", switch=0),
        }[kind]()
        sae = st.SparseAutoencoder(5, 12, choice, dtype=torch.float64)
        x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        out = sae(x, return_pre=True)
        loss = st.losses.reconstruction(out, x)
        if auxiliary:
            loss = loss + st.losses.aux_k_loss(out, x, sae, torch.arange(12) < 6, 2)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in sae.parameters()), *sae.state_dict().values()])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, equal_nan=True)
