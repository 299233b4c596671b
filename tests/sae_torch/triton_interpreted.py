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


BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


def special(dtype: torch.dtype) -> Tensor:
    """Zeros, subnormal and extreme numbers, infinities and NaN of several payloads, each with both signs.

    No subnormal bfloat16, which the interpreter widens to other numbers; `test_triton.py` reads what is compiled.
    """
    info, kind = torch.finfo(dtype), BITS[dtype]
    infinity = torch.tensor(torch.inf, dtype=dtype).view(kind)
    step = torch.tensor(info.tiny, dtype=dtype).view(kind)  # the last bit of an exponent
    some = [step * 0, step, step + 1, infinity - 1, infinity]
    some += [step * 0 + 1, step - 1] if dtype != torch.bfloat16 else []
    some += [infinity + 1, infinity + step // 2, infinity + step // 2 + 3, infinity + step - 1]
    bits = torch.stack(some)
    return torch.cat([bits, bits | torch.iinfo(kind).min]).view(dtype)


@pytest.mark.parametrize("dtype", BITS)
def test_counts_of_special_numbers(dtype: torch.dtype) -> None:
    """NaN exceeds nothing and nothing exceeds it; subnormal numbers exceed 0, and -0.0 does not."""
    numbers = special(dtype)
    drawn = torch.randint(len(numbers), (60, 129), generator=torch.Generator().manual_seed(1))
    scores = numbers.view(BITS[dtype])[drawn].view(dtype)
    for theta in (scores[0], numbers[0].expand(129)):
        assert torch.equal(triton_kernels.count_above(scores, theta), (scores > theta).sum(dim=0))


def test_borders() -> None:
    """Rows, matches and columns one short of a tile and one beyond; strips of a count, one column and one row."""
    for tokens, d, features in ((1, 31, 2), (33, 1, 3), (3, 257, 31)):
        left, right, one, two, weights, offsets = drawn(d, torch.float64, tokens, d, features, 17)
        dense = torch.zeros(tokens, features, dtype=torch.float64).index_put((one, two), weights, accumulate=True)
        sums = triton_kernels.weighted_row_sums(right, two, weights, offsets)
        torch.testing.assert_close(sums, dense @ right, rtol=1e-12, atol=1e-12)
        dots = triton_kernels.sampled_dots(left, right, one, two)
        torch.testing.assert_close(dots, (left[one] * right[two]).sum(dim=1), rtol=1e-12, atol=1e-12)
    for rows, columns in ((257, 1), (1, 129), (255, 127), (256, 128)):
        scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
        assert torch.equal(triton_kernels.count_above(scores, scores[0]), (scores > scores[0]).sum(dim=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_special_numbers_in_sums(dtype: torch.dtype) -> None:
    """A subnormal number is added as it is, to the last bit; NaN and infinity stay in their own rows and columns."""
    numbers = special(dtype)
    one, nothing = torch.ones(len(numbers), dtype=dtype), torch.zeros(len(numbers), dtype=torch.int64)
    rows, each = numbers[:, None], torch.arange(len(numbers))
    sums = triton_kernels.weighted_row_sums(rows, each, one, torch.arange(len(numbers) + 1)).squeeze(1)
    dots = triton_kernels.sampled_dots(rows, one[:1, None], each, nothing)
    for found in (sums, dots):
        assert torch.equal(found.isnan(), numbers.isnan())
        assert torch.equal(found.nan_to_num(), numbers.nan_to_num())


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
