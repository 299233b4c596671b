"""Auxiliary losses: they reach encoder and decoder, agree with each other, and vanish where nothing lacks use."""

from __future__ import annotations

import pytest
import torch

import sae_torch as st
from sae_torch import losses
from sae_torch.autoencoder import Output
from sae_torch.losses import shortfall
from tests.sae_torch.dense import dense_forward


def make() -> tuple[st.SparseAutoencoder, torch.Tensor]:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4))
    return sae, torch.randn(32, 16, generator=torch.Generator().manual_seed(0))


def test_aux_zipf_with_the_dead_indicator_is_aux_k_to_the_last_bit() -> None:
    sae, x = make()
    dead = torch.rand(64, generator=torch.Generator().manual_seed(1)) < 0.4
    results = []
    for loss_of in (
        lambda out: st.losses.aux_k_loss(out, x, sae, dead, 8),
        lambda out: st.losses.aux_zipf_loss(out, x, sae, dead.float(), 8),
    ):
        sae.zero_grad()
        loss = loss_of(sae(x, return_pre=True))
        loss.backward()
        results.append([loss.detach(), *[p.grad.clone() for p in sae.parameters() if p.grad is not None]])
    assert len(results[0]) == len(results[1]) > 1
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", ["reconstruction", "aux_k", "aux_zipf"])
def test_every_loss_reaches_encoder_and_decoder(kind: str) -> None:
    sae, x = make()
    out = sae(x, return_pre=True)
    dead = torch.ones(64, dtype=torch.bool)
    loss = {
        "reconstruction": lambda: st.losses.reconstruction(out, x),
        "aux_k": lambda: st.losses.aux_k_loss(out, x, sae, dead, 8),
        "aux_zipf": lambda: st.losses.aux_zipf_loss(out, x, sae, torch.full((64,), 0.5), 8),
    }[kind]()
    loss.backward()
    for name in ("encoder", "b_enc", "W_dec"):
        gradient = getattr(sae, name).grad
        assert gradient is not None, name
        assert bool(gradient.any()), name


def test_the_auxiliary_loss_reads_no_decoder_bias_and_stops_at_the_error() -> None:
    """The residual is a target, not a path: features outside the weights get no gradient."""
    sae, x = make()
    weights = torch.zeros(64)
    weights[10:20] = 1.0
    st.losses.aux_zipf_loss(sae(x, return_pre=True), x, sae, weights, 4).backward()
    assert sae.W_dec.grad is not None
    rows = sae.W_dec.grad.abs().sum(dim=1).nonzero().squeeze(1)
    assert rows.numel()
    assert set(rows.tolist()) <= set(range(10, 20))


@pytest.mark.parametrize("every", [1, 3, 5, 50])
def test_a_part_of_the_tokens_is_the_loss_on_those_alone(every: int) -> None:
    sae, x = make()
    weights = torch.rand(64, generator=torch.Generator().manual_seed(1))
    part = st.losses.aux_zipf_loss(sae(x, return_pre=True), x, sae, weights, 8, every)
    out = sae(x, return_pre=True)
    assert out.pre is not None
    alone = Output(out.x_hat[::every], out.codes, out.pre[::every])
    assert torch.equal(part, st.losses.aux_zipf_loss(alone, x[::every], sae, weights, 8))
    with pytest.raises(st.InputError, match="every: expected 1 or more, found 0"):
        st.losses.aux_zipf_loss(out, x, sae, weights, 8, every=0)


def test_nothing_dead_means_zero() -> None:
    sae, x = make()
    loss = st.losses.aux_k_loss(sae(x, return_pre=True), x, sae, torch.zeros(64, dtype=torch.bool), 8)
    assert float(loss) == 0.0


def test_shortfall_is_clipped_between_zero_and_one() -> None:
    curve = torch.tensor([0.4, 0.4, 0.4, 0.0])
    assert shortfall(torch.tensor([0.0, 0.1, 0.8, 0.1]), curve).tolist() == pytest.approx([1.0, 0.75, 0.0, 0.0])


def test_reconstruction_is_summed_over_d_model_and_averaged_over_tokens() -> None:
    sae, x = make()
    out = sae(x)
    expected = (out.x_hat - x).square().sum() / 32
    torch.testing.assert_close(st.losses.reconstruction(out, x), expected)


@pytest.mark.parametrize("prefixes", [[64], [1, 64], [8, 9, 40, 64]])
def test_prefix_losses_are_those_of_dense_prefixes(prefixes: list[int]) -> None:
    sae, x = make()
    sae, x = sae.double(), x.double()
    loss = st.losses.matryoshka_loss(sae(x), x, sae, prefixes)
    loss.backward()
    found = [p.grad.clone() for p in sae.parameters() if p.grad is not None]
    sae.zero_grad()
    _, a = dense_forward(sae, x, sae.choice.mask(sae.scores(x)))
    dense = sum(
        ((a[:, :m] @ sae.W_dec[:m] + sae.b_dec - x).pow(2).sum(dim=1).mean() for m in prefixes), x.new_zeros(())
    )
    dense = dense / len(prefixes)
    dense.backward()
    torch.testing.assert_close(loss, dense)
    expected = [p.grad for p in sae.parameters() if p.grad is not None]
    assert len(found) == len(expected) == 4
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("prefixes", [[], [8], [8, 8, 64], [0, 64], [8, 65]])
def test_wrong_prefixes_are_named(prefixes: list[int]) -> None:
    sae, x = make()
    with pytest.raises(st.InputError, match="prefixes: expected increasing positive sizes that end with all 64"):
        st.losses.matryoshka_loss(sae(x), x, sae, prefixes)


def test_missing_scores_and_wrong_weights_are_named() -> None:
    sae, x = make()
    with pytest.raises(st.InputError, match=r"pass sae\(x, return_pre=True\)"):
        st.losses.aux_k_loss(sae(x), x, sae, torch.ones(64, dtype=torch.bool), 8)
    with pytest.raises(st.InputError, match=r"weights: expected 64 numbers, found shape \(3,\)"):
        st.losses.aux_zipf_loss(sae(x, return_pre=True), x, sae, torch.ones(3), 8)


def test_weighted_scores_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a GPU takes them, a few tokens at a time: the same loss and gradients."""
    found = []
    for rows in (64, 5):
        monkeypatch.setattr(losses, "_row_blocks", lambda s, n=rows: ((i, s[i : i + n]) for i in range(0, len(s), n)))
        sae = st.SparseAutoencoder(6, 20, st.TokenChoice(k=3))
        x = torch.randn(23, 6, generator=torch.Generator().manual_seed(0))
        for weights in (torch.arange(20) / 20, torch.arange(1, 21) / 20):
            loss = losses.aux_zipf_loss(sae(x, return_pre=True), x, sae, weights, k_aux=4)
            loss.backward()
            found.append([loss.detach(), *(p.grad.clone() for p in sae.parameters())])
    for whole, blocks in zip(found[:2], found[2:], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(whole, blocks, strict=True))
