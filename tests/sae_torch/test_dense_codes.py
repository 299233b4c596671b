"""Scores in, a dense matrix out: the same bits and gradients as torch's own indexing, in whatever memory they lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st_
from torch import Tensor

import sae_torch as st
from sae_torch import dense

CHOICES = (
    lambda k: st.TokenChoice(k),
    lambda k: st.MutualChoice(k),
    lambda k: st.BalancedChoice(k, feature_floors=0.1),  # forces matches with negative scores
)


@pytest.fixture(autouse=True, params=[0, dense.LARGE], ids=["large pages", "torch's zeros"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "LARGE", request.param)


def by_indexing(choice: st.Choice, scores: Tensor) -> Tensor:
    """What forward and `to_dense` say, in torch's words."""
    mask = choice.mask(scores)
    tokens, features = mask.nonzero(as_tuple=True)
    values = scores[tokens, features]
    values = values + (values.clamp_min(0.0) - values).detach()
    return values.new_zeros(scores.shape).index_put((tokens, features), values)


TYPES = st_.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@given(st_.integers(1, 9), st_.integers(1, 12), st_.sampled_from(CHOICES), TYPES, st_.integers(0, 2**31))
def test_the_same_bits_and_gradients(tokens: int, features: int, make: object, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(tokens, features, generator=generator).round(decimals=1).to(dtype)  # with ties, and with -0.0
    upstream = torch.randn(tokens, features, generator=generator).to(dtype)
    results = []
    for spreads in (True, False):
        scores = drawn.clone().requires_grad_()
        read = 2 * scores  # in a loop scores are computed
        choice = make(min(2, features))  # type: ignore[operator]
        matrix = choice(read).to_dense() if spreads else by_indexing(choice, read)
        (matrix * upstream).sum().backward()
        results.append((matrix.detach(), scores.grad))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, expected)
        assert torch.equal(found.signbit(), expected.signbit())


@pytest.mark.parametrize("make", CHOICES[:2])  # floors have a ledger, which makes every call another function
def test_first_and_second_derivatives(make: object) -> None:
    scores = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).abs().requires_grad_()
    choice = make(3)  # type: ignore[operator]
    assert torch.autograd.gradcheck(lambda s: choice(s).to_dense(), scores)
    assert torch.autograd.gradgradcheck(lambda s: choice(s).to_dense() ** 3, scores)


def test_the_matrix_is_the_users_own() -> None:
    """To be changed in place, with the gradient of that, and starting where torch's own matrices start."""
    scores = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    matrix = st.TokenChoice(3)(scores).to_dense()
    assert matrix.data_ptr() % dense.BOUNDARY == 0
    matrix[0] = 0.0
    matrix.mul_(2.0)
    matrix.sum().backward()
    expected = 2.0 * st.TokenChoice(3).mask(scores)
    expected[0] = 0.0
    assert scores.grad is not None
    assert torch.equal(scores.grad, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, at its first forward mode
def test_batched_and_forward_derivatives_are_those_of_the_plain_matrix() -> None:
    """Above and below the size from which memory comes in large pages."""
    for shape in ((40, 60), (2000, 600)):
        scores = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        choice = st.TokenChoice(3)
        matrix = choice(scores).to_dense()
        upstream = torch.stack([torch.ones_like(matrix), 2 * torch.ones_like(matrix)])
        (batched,) = torch.autograd.grad(matrix, scores, upstream, is_grads_batched=True, retain_graph=True)
        taken = (matrix > 0).double()
        assert torch.equal(batched, torch.stack([taken, 2 * taken]))
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(scores, torch.full(shape, 3.0, dtype=torch.float64))
            tangent = torch.autograd.forward_ad.unpack_dual(choice(dual).values).tangent
        assert torch.equal(tangent, torch.full((3 * shape[0],), 3.0, dtype=torch.float64))
