"""Every op and every gradient against dense float64 autograd, on drawn shapes that include all the empty cases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st_
from torch import Tensor

import sae_torch as st
from sae_torch.codes import SparseCodes
from sae_torch.ops import count_above, decode, rounded_down, selected_preactivations
from tests.sae_torch.dense import dense_auxiliary, dense_forward

SHAPES = st_.tuples(st_.integers(1, 6), st_.integers(1, 5), st_.integers(1, 7))
SEEDS = st_.integers(0, 2**31)
CHOICES = st_.sampled_from(["token", "mutual", "feature", "floors"])


def make(shape: tuple[int, int, int], seed: int, kind: str, k: float) -> tuple[st.SparseAutoencoder, Tensor]:
    """A float64 autoencoder with rows that are not of unit norm, and a batch."""
    tokens, d_model, n_features = shape
    k = min(k, n_features)
    choice = {
        "token": lambda: st.TokenChoice(max(1, int(k))),
        "mutual": lambda: st.MutualChoice(k),
        "feature": lambda: st.FeatureChoice(k, quotas="uniform", switch=0),
        "floors": lambda: st.BalancedChoice(k, feature_floors=0.9 * k / n_features),
    }[kind]()
    sae = st.SparseAutoencoder(d_model, n_features, choice, dtype=torch.float64, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return sae, torch.randn(tokens, d_model, generator=generator, dtype=torch.float64)


def gradients(sae: st.SparseAutoencoder, loss: Tensor, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [x, *sae.parameters()], materialize_grads=True, allow_unused=True))


@given(SHAPES, SEEDS, CHOICES, st_.floats(0.2, 4), st_.sampled_from(["drawn", "ties", "negative"]))
@example((1, 1, 1), 0, "mutual", 0.2, "negative")
@example((6, 3, 4), 0, "floors", 2.0, "negative")
def test_a_step_has_the_gradients_of_the_dense_one(
    shape: tuple[int, int, int], seed: int, kind: str, k: float, inputs: str
) -> None:
    """Forward, reconstruction and the gradient of every parameter and of the input."""
    sae, x = make(shape, seed, kind, k)
    if inputs == "ties":
        x = x.round()
    if inputs == "negative":
        with torch.no_grad():
            sae.b_enc.fill_(-100.0)
    x.requires_grad_()
    out = sae(x, return_pre=True)
    mask = torch.zeros(out.codes.shape, dtype=torch.float64)
    mask[out.codes.tokens, out.codes.features] = 1.0
    x_hat, activations = dense_forward(sae, x, mask)
    torch.testing.assert_close(out.x_hat, x_hat)
    torch.testing.assert_close(out.codes.to_dense(), activations)
    if inputs == "negative":
        assert not bool(out.codes.values.any())
        assert len(out.codes) == 0 or kind == "floors"
    sparse = gradients(sae, st.losses.reconstruction(out, x), x)
    dense = gradients(sae, (x - x_hat).pow(2).sum(dim=1).mean(), x)
    for ours, reference in zip(sparse, dense, strict=True):
        torch.testing.assert_close(ours, reference)


@given(SHAPES, SEEDS, st_.integers(1, 4))
@settings(max_examples=60)
def test_auxiliary_losses_have_the_gradients_of_the_dense_ones(
    shape: tuple[int, int, int], seed: int, k_aux: int
) -> None:
    sae, x = make(shape, seed, "mutual", 1.0)
    x.requires_grad_()
    k_aux = min(k_aux, shape[2])
    weights = torch.rand(shape[2], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out = sae(x, return_pre=True)
    loss = st.losses.aux_zipf_loss(out, x, sae, weights, k_aux)
    reference = dense_auxiliary(sae, x, out.x_hat, weights, k_aux)
    torch.testing.assert_close(loss, reference)
    for ours, expected in zip(gradients(sae, loss, x), gradients(sae, reference, x), strict=True):
        torch.testing.assert_close(ours, expected)


def test_gradcheck() -> None:
    sae, x = make((4, 3, 6), 1, "token", 2)
    codes = sae.encode(x).detach()

    def encoder(x: Tensor, W_enc: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
        z = ((x - b_dec) @ W_enc + b_enc).detach()[codes.tokens, codes.features]
        return selected_preactivations(codes.with_values(z), x, W_enc, b_enc, b_dec)

    inputs = [t.detach().clone().requires_grad_() for t in (x, sae.W_enc, sae.b_enc, sae.b_dec)]
    torch.autograd.gradcheck(encoder, inputs)
    values, W_dec, b_dec = (t.detach().clone().requires_grad_() for t in (codes.values, sae.W_dec, sae.b_dec))
    torch.autograd.gradcheck(lambda v, W, b: decode(codes.with_values(v), W, b), (values, W_dec, b_dec))


def test_no_dense_matrix_outlives_the_forward() -> None:
    """After a step without auxiliary loss nothing of the size tokens x features is alive."""
    sae = st.SparseAutoencoder(8, 4096, st.MutualChoice(4))
    x = torch.randn(512, 8)
    shapes: list[tuple[int, ...]] = []

    def watch(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(watch, lambda tensor: tensor):
        loss = st.losses.reconstruction(sae(x), x)
    loss.backward()
    assert shapes
    assert (512, 4096) not in shapes


@given(st_.integers(1, 600), st_.integers(1, 40), SEEDS)
def test_counts_above_thresholds(rows: int, columns: int, seed: int) -> None:
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    theta = torch.randn(columns, generator=torch.Generator().manual_seed(seed + 1)).round(decimals=1)
    assert torch.equal(count_above(scores, theta), (scores > theta).sum(dim=0))
    assert int(count_above(scores, theta[0])) == int((scores > theta[0]).sum())
    for narrow in (torch.bfloat16, torch.float16):
        for limit in (theta, theta.abs()):
            expected = (scores.to(narrow).float() > limit).sum(dim=0)
            assert torch.equal(count_above(scores.to(narrow), limit), expected)


def test_codes_count_and_describe_themselves() -> None:
    codes = SparseCodes(torch.tensor([0, 0, 2]), torch.tensor([1, 3, 1]), torch.tensor([1.0, 0.0, 2.0]), (3, 4))
    assert codes.token_counts.tolist() == [2, 0, 1]
    assert codes.feature_counts.tolist() == [0, 2, 0, 1]
    assert codes.l0 == pytest.approx(2 / 3)
    assert codes.feature_order.tolist() == [0, 2, 1]
    assert repr(codes) == "SparseCodes(3 tokens x 4 features, 3 matches, torch.float32, cpu)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_threshold_rounded_down_decides_as_the_exact_one(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    theta = torch.cat([torch.rand(500, generator=generator) * 10, torch.tensor([0.0, 1e-9, 7e4, -1e-9, -0.3])])
    theta = theta.double() * (1 - 1e-12)
    down = rounded_down(theta, dtype)
    scores = torch.cat([theta.to(dtype), down])
    scores = torch.cat([scores, torch.nextafter(scores, torch.full_like(scores, 1e4))])
    scores = scores[torch.isfinite(scores)]
    assert down.dtype == dtype
    assert torch.equal(scores[:, None] > down, scores[:, None].double() > theta.double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_threshold_for_all_features_is_not_rounded_to_the_nearest(dtype: torch.dtype) -> None:
    scores, theta = torch.ones(1, 3, dtype=dtype), torch.tensor(0.9999)
    assert st.Threshold(theta).mask(scores).all()
    assert int(count_above(scores, theta)) == 3
