"""Units that every token makes of its own activations: read by the encoder, undone to the reconstruction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn

import sae_torch as st
from sae_torch.activations import open_activations
from sae_torch.evaluation.metrics import measure
from sae_torch.input_transform import TRANSFORMS, ConstantNorm, InputTransform, LayerNorm
from sae_torch.interop import dictionary_learning, sparsify
from sae_torch.interop.saebench import BenchmarkAutoencoder

EACH = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())


def activations(tokens: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tokens of many scales, away from 0."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** (4 * torch.rand(tokens, 1, generator=generator) - 2)
    return (scale * (torch.randn(tokens, 6, generator=generator) + 0.7)).to(dtype)


def autoencoder(transform: InputTransform | None, choice: st.Choice | None = None) -> st.SparseAutoencoder:
    sae = st.SparseAutoencoder(6, 20, choice or st.TokenChoice(3), input_transform=transform)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        sae.b_dec.add_(torch.randn(6, generator=generator))
        sae.b_enc.add_(0.3 * torch.randn(20, generator=generator))
    return sae.eval()


@EACH
@given(seed=some.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_going_back_is_the_inverse(transform: InputTransform, seed: int) -> None:
    x = activations(30, seed, torch.float64)
    t = transform(x)
    lost = 3e-5 if transform == LayerNorm() else 0.0  # its eps, which no token of these exceeds threefold
    torch.testing.assert_close(transform.back(t, x), x, rtol=1e-9, atol=lost)
    difference = transform.back(2 * t, x) - transform.back(t, x)
    torch.testing.assert_close(transform.scaled_back(t, x), difference)


def test_units_are_what_they_are_called() -> None:
    x = activations(30, dtype=torch.float64)
    normed = LayerNorm(eps=0.0)(x)
    torch.testing.assert_close(normed.mean(1), torch.zeros(30, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(normed.square().sum(1), torch.full((30,), 5.0, dtype=torch.float64))
    torch.testing.assert_close(ConstantNorm()(x).norm(dim=1), torch.full((30,), 6**0.5, dtype=torch.float64))
    zero = torch.zeros(2, 6)
    for transform in TRANSFORMS.values():
        assert torch.equal(transform(zero), zero)
        assert torch.equal(transform.back(zero, zero), zero)


@EACH
def test_the_module_encodes_in_its_units_and_reconstructs_in_those_of_the_inputs(transform: InputTransform) -> None:
    sae, plain, x = autoencoder(transform), autoencoder(None), activations(50)
    out, inside = sae(x), plain(transform(x))
    assert torch.equal(out.codes.to_dense(), inside.codes.to_dense())
    assert torch.equal(out.x_hat, transform.back(inside.x_hat, x))
    assert torch.equal(sae.decode(sae.encode(x), x), out.x_hat)
    assert torch.equal(sae.added(out.codes, x), transform.scaled_back(plain.contribution(inside.codes), x))
    with pytest.raises(st.InputError, match=r"needs its inputs: pass decode\(codes, x\)"):
        sae.decode(out.codes)
    assert repr(transform) in repr(sae)


def test_without_one_nothing_changes() -> None:
    sae, x = autoencoder(None), activations(50)
    assert sae.read(x) is x
    assert torch.equal(sae.decode(sae.encode(x)), sae(x).x_hat)
    assert torch.equal(sae.added(sae.encode(x)), sae.contribution(sae.encode(x)))


@EACH
@pytest.mark.parametrize("score_dtype", [None, "auto"])
def test_gradients_reach_the_inputs_and_the_weights(transform: InputTransform, score_dtype: Any) -> None:
    """As those of the same function written with dense tensors."""
    sae = autoencoder(transform).double()
    x = activations(10, dtype=torch.float64).requires_grad_()
    out = sae(x)
    out.x_hat.square().sum().backward()
    found = [x.grad.clone(), *(weight.grad.clone() for weight in sae.parameters())]
    x.grad = None
    sae.zero_grad()
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[out.codes.tokens, out.codes.features] = True
    pre = (transform(x) - sae.b_dec) @ sae.encoder.T + sae.b_enc
    transform.back((pre.relu() * mask) @ sae.W_dec + sae.b_dec, x).square().sum().backward()
    for one, weight in zip(found, [x, *sae.parameters()], strict=True):
        torch.testing.assert_close(one, weight.grad)


@EACH
@pytest.mark.parametrize("choice", [st.TokenChoice, st.MutualChoice], ids=lambda kind: kind.__name__)
def test_it_is_calibrated_saved_and_read(transform: InputTransform, choice: Any, tmp_path: Path) -> None:
    sae, x = autoencoder(transform, choice(3)), activations(400)
    st.calibrate(sae, [x])
    again = st.load(st.save(sae, tmp_path))
    assert again.input_transform == transform
    assert json.loads((tmp_path / "cfg.json").read_text())["normalize_activations"] == transform.name
    torch.testing.assert_close(again(x).x_hat, sae(x).x_hat)
    assert sae(x).codes.l0 == pytest.approx(3, abs=0.3)


def test_it_is_not_trained_and_other_formats_do_not_hold_it(tmp_path: Path) -> None:
    sae = autoencoder(LayerNorm())
    with pytest.raises(st.InputError, match=r"reads activations as they are, found LayerNorm\(eps=1e-05\); train one"):
        st.Trainer(sae)
    for module in (dictionary_learning, sparsify):
        with pytest.raises(st.InputError, match=r"format has them, found LayerNorm\(eps=1e-05\); export to saelens"):
            module.save(sae, tmp_path / "out")
    with pytest.raises(st.InputError, match="as the SAEBench format has them"):
        BenchmarkAutoencoder(sae, "toy", "blocks.2.hook_resid_post")
    with pytest.raises(st.InputError, match=r"expected one of sae_torch\.input_transform.*, found 'layer_norm'"):
        st.SparseAutoencoder(4, 8, st.TokenChoice(2), input_transform="layer_norm")  # type: ignore[arg-type]


@EACH
@pytest.mark.parametrize("error_term", [True, False])
def test_spliced_it_changes_activations_in_their_own_units(transform: InputTransform, error_term: bool) -> None:
    """Ablated, scaled and added features, of tokens of many scales."""
    sae, plain = autoencoder(transform), autoencoder(None)
    model = nn.Sequential(nn.Identity(), nn.Identity())
    x = activations(40).view(2, 20, 6)
    flat = x.reshape(-1, 6)
    t = transform(flat)
    acts = plain.encode(t).to_dense()
    first = int((acts > 0).sum(0).argmax())
    with st.splice(model, "0", sae, error_term=error_term, ablate=[first], add={3: 2.0}, skip_first=False):
        changed = model(x).reshape(-1, 6)
    edited = acts.clone()
    edited[:, first] = 0
    edited[:, 3] += 2.0
    expected = transform.back(edited @ sae.W_dec + sae.b_dec, flat)
    if error_term:
        expected = flat + expected - sae(flat).x_hat
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-5)


@EACH
def test_an_evaluation_judges_it_in_units_of_the_activations(transform: InputTransform, tmp_path: Path) -> None:
    sae, x = autoencoder(transform), activations(600)
    np.save(tmp_path / "x.npy", x.numpy())
    rows = open_activations(tmp_path)
    quality = measure(sae, rows)
    x_hat = sae(x).x_hat.detach().double()
    wide = x.double()
    expected = float((wide - x_hat).square().sum() / (wide - wide.mean(0)).square().sum())
    assert quality.nmse == pytest.approx(expected, rel=1e-4)


def test_a_transform_that_a_folder_has_no_words_for_is_refused(tmp_path: Path) -> None:
    """What is saved is what is loaded: another `eps` would be lost without a word."""

    class Own(ConstantNorm):
        name = "mine"

    for transform in (LayerNorm(eps=0.1), Own()):
        sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(2), input_transform=transform)
        with pytest.raises(
            st.InputError, match=r"input_transform: expected LayerNorm\(eps=1e-05\) or ConstantNorm\(\)"
        ):
            st.save(sae, tmp_path / "sae")
        assert not (tmp_path / "sae").exists()
