"""The transcoder: one module with the autoencoder underneath, with another target and an optional linear map."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import sae_torch as st

CHOICES = [
    st.TokenChoice(3),
    st.MutualChoice(3),
    st.FeatureChoice(3, quotas="uniform", switch=0),
    st.BalancedChoice(3, feature_floors=0.05),
]


def drawn(choice: st.Choice, skip: bool, seed: int = 0, **options: object) -> tuple[st.Transcoder, Tensor, Tensor]:
    """A float64 transcoder with rows that are not of unit norm, and a pair."""
    generator = torch.Generator().manual_seed(seed)
    transcoder = st.Transcoder(6, 5, 24, copy.deepcopy(choice), skip, dtype=torch.float64, seed=seed, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in transcoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    x, y = (torch.randn(30, width, generator=generator, dtype=torch.float64) for width in (6, 5))
    return transcoder, x + 0.5, y


def dense(transcoder: st.Transcoder, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and pre-activations with dense matrices and plain autograd."""
    z = x @ transcoder.encoder.T + transcoder.b_enc
    a = (z + (z.clamp_min(0.0) - z).detach()) * mask
    y_hat = a @ transcoder.W_dec + transcoder.b_dec
    return (y_hat if transcoder.W_skip is None else y_hat + x @ transcoder.W_skip.T), z


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: type(choice).__name__)
def test_losses_and_gradients_are_those_of_dense_matrices(choice: st.Choice, skip: bool) -> None:
    transcoder, x, y = drawn(choice, skip)
    x.requires_grad_()
    dead = torch.arange(24) % 2 == 0
    out = transcoder(x, return_pre=True)
    loss = st.losses.reconstruction(out, y) + st.losses.aux_k_loss(out, x, transcoder, dead, 2, y=y)
    loss = loss + st.losses.matryoshka_loss(out, x, transcoder, [7, 24], y)
    loss.backward()
    found = {name: weight.grad for name, weight in transcoder.named_parameters()} | {"x": x.grad}
    assert ("W_skip" in found) == skip

    other = copy.deepcopy(transcoder)
    other.zero_grad()
    x2 = x.detach().clone().requires_grad_()
    mask = torch.zeros(30, 24, dtype=torch.float64)
    mask[out.codes.tokens, out.codes.features] = 1.0
    y_hat, z = dense(other, x2, mask)
    torch.testing.assert_close(out.y_hat, y_hat)
    squared = (y - y_hat).square().sum(1).mean()
    value = dead * torch.relu(z)
    ranked = (value * other.W_dec.norm(dim=1)).detach()
    top = torch.zeros_like(ranked).scatter_(1, ranked.topk(2, dim=1).indices, 1.0)
    auxiliary = ((y - y_hat).detach() - (value * top) @ other.W_dec).square().sum(1).mean()
    prefix, _ = dense(other, x2, mask * (torch.arange(24) < 7))
    (squared + auxiliary + (squared + (y - prefix).square().sum(1).mean()) / 2).backward()
    expected = {name: weight.grad for name, weight in other.named_parameters()} | {"x": x2.grad}
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("score_dtype", [None, "auto", torch.bfloat16])
def test_an_autoencoder_is_the_case_of_equal_sides(score_dtype: torch.dtype | str | None) -> None:
    sae = st.SparseAutoencoder(8, 32, st.MutualChoice(3), score_dtype=score_dtype)  # type: ignore[arg-type]
    transcoder = st.Transcoder(8, 8, 32, st.MutualChoice(3), score_dtype=score_dtype)  # type: ignore[arg-type]
    with torch.no_grad():
        sae.b_dec.copy_(torch.randn(8, generator=torch.Generator().manual_seed(1)))
        for name in ("encoder", "W_dec", "b_dec"):
            getattr(transcoder, name).copy_(getattr(sae, name))
        transcoder.b_enc.copy_(-sae.b_dec @ sae.W_enc)
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(transcoder(x).y_hat, sae(x).x_hat)


def test_blocks_of_features_change_nothing() -> None:
    whole, x, y = drawn(st.MutualChoice(3), skip=True)
    blocks, _, _ = drawn(st.MutualChoice(3), skip=True, feature_chunk=5)
    losses = []
    for transcoder in (whole, blocks):
        out = transcoder(x, return_pre=True)
        loss = st.losses.reconstruction(out, y) + st.losses.aux_zipf_loss(out, x, transcoder, torch.ones(24), 2, y=y)
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_skip_connection_is_decoded_with_its_inputs() -> None:
    transcoder, x, _ = drawn(st.TokenChoice(3), skip=True)
    codes = transcoder.encode(x)
    assert torch.equal(transcoder.decode(codes, x), transcoder(x).y_hat)
    with pytest.raises(st.InputError, match="skip connection decodes codes of given inputs"):
        transcoder.decode(codes)


def test_a_view_of_other_rows_is_read_as_its_copy() -> None:
    transcoder, x, _ = drawn(st.MutualChoice(3), skip=True)
    beside = torch.cat([x, x], dim=1)[:, :6]
    expected = transcoder(x)
    for read in (beside, x.T.contiguous().T):
        out = transcoder(read)
        out.y_hat.sum().backward()
        assert torch.equal(out.codes.features, expected.codes.features)
        # a product may add up in another order where rows lie apart, as it does on some processors
        torch.testing.assert_close(out.y_hat, expected.y_hat, rtol=1e-12, atol=1e-12)


def test_losses_ask_for_the_target() -> None:
    transcoder = st.Transcoder(4, 4, 8, st.TokenChoice(2))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    out = transcoder(x, return_pre=True)
    with pytest.raises(st.InputError, match="y: expected the target of a transcoder"):
        st.losses.aux_k_loss(out, x, transcoder, torch.ones(8, dtype=torch.bool), 2)
    with pytest.raises(st.InputError, match="y: expected the target of a transcoder"):
        st.losses.matryoshka_loss(out, x, transcoder, [8])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_in": 0}, "d_in: expected a positive integer, found 0"),
        ({"d_out": 2.5}, "d_out: expected a positive integer, found 2.5"),
        ({"n_features": True}, "n_features: expected a positive integer, found True"),
        ({"skip": 1}, "skip: expected True or False, found 1"),
        ({"choice": 3}, "choice: expected a choice"),
    ],
)
def test_bad_sizes_are_refused(options: dict[str, object], message: str) -> None:
    given = {"d_in": 4, "d_out": 3, "n_features": 8, "choice": st.TokenChoice(2)} | options
    with pytest.raises(st.InputError, match=message):
        st.Transcoder(**given)  # type: ignore[arg-type]


def test_calibration_takes_pairs_or_inputs_alone() -> None:
    transcoder, x, y = drawn(st.MutualChoice(3), skip=False)
    thresholds = []
    for batch in ((x, y), x, torch.cat([x, y], dim=1)):
        st.calibrate(transcoder, [batch])
        thresholds.append(transcoder.choice.batch_free().theta.clone())
        assert transcoder.eval()(x).codes.l0 == pytest.approx(3.0, abs=0.05)
    assert torch.equal(thresholds[0], thresholds[1])
    assert torch.equal(thresholds[0], thresholds[2])
    with pytest.raises(st.InputError, match=r"a batch must be a pair \(x, y\) of shapes \(tokens, 6\)"):
        st.calibrate(transcoder, [y])
    sae = st.SparseAutoencoder(6, 8, st.MutualChoice(2))
    with pytest.raises(
        st.InputError, match=r"expected tensors of shape \(tokens, 6\), found tuple; pairs are for st\.Transcoder"
    ):
        st.calibrate(sae, [(x, y)])
