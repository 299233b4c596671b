"""Codes whose number of matches only the device knows: what stands past the count changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st_
from torch import Tensor

import sae_torch as st
from sae_torch.autoencoder import Output
from sae_torch.codes import SparseCodes
from sae_torch.losses import matryoshka_loss, reconstruction
from sae_torch.ops import decode, selected_preactivations
from sae_torch.training.update import update

SEEDS = st_.integers(0, 2**31)


def drawn(tokens: int, features: int, share: float, seed: int) -> SparseCodes:
    generator = torch.Generator().manual_seed(seed)
    places = (torch.rand(tokens, features, generator=generator) < share).nonzero()
    values = torch.rand(len(places), generator=generator, dtype=torch.float64)
    return SparseCodes(places[:, 0], places[:, 1], values, (tokens, features))


def padded(codes: SparseCodes, spare: int) -> SparseCodes:
    """With entries past the count that would be seen: indices out of range, values that are no numbers."""
    ends = torch.tensor([7_000_000, -3, 0, codes.shape[0]]).repeat(spare)[:spare]
    return SparseCodes(
        torch.cat([codes.tokens, ends]),
        torch.cat([codes.features, ends.flip(0)]),
        torch.cat([codes.values, codes.values.new_full((spare,), torch.nan)]),
        codes.shape,
        count=torch.tensor(len(codes)),
    )


@given(st_.integers(1, 6), st_.integers(1, 7), st_.sampled_from([0.0, 0.3, 1.0]), st_.integers(0, 9), SEEDS)
@example(1, 1, 0.0, 5, 0)
def test_entries_past_the_count_are_ignored(tokens: int, features: int, share: float, spare: int, seed: int) -> None:
    """Counts, dense form, decoding, prefixes, and every gradient, against the same codes without them."""
    exact = drawn(tokens, features, share, seed)
    generator = torch.Generator().manual_seed(seed)
    sae = st.SparseAutoencoder(3, features, st.TokenChoice(1), dtype=torch.float64)
    x = torch.randn(tokens, 3, generator=generator, dtype=torch.float64)
    found = []
    for codes in (exact, padded(exact, spare)):
        for name in ("token_counts", "feature_counts"):
            assert torch.equal(getattr(codes, name), getattr(exact, name))
        assert codes.l0 == exact.l0
        assert torch.equal(codes.to_dense(), exact.to_dense())
        matches = codes.trim()
        assert matches.count is None
        for name in ("tokens", "features", "values"):
            assert torch.equal(getattr(matches, name), getattr(exact, name))
        half = codes.feature_range(0, max(1, features // 2))
        assert torch.equal(half.to_dense(), exact.feature_range(0, max(1, features // 2)).to_dense())
        assert torch.equal(half.feature_counts, exact.feature_range(0, max(1, features // 2)).feature_counts)
        inputs = [t.detach().clone().requires_grad_() for t in (x, sae.W_enc, sae.b_enc, sae.b_dec)]
        active = codes.with_values(selected_preactivations(codes, *inputs))
        x_hat = decode(active, sae.W_dec, sae.b_dec)
        prefixes = sorted({max(1, features // 2), features})
        loss = reconstruction(Output(x_hat, active), x) + matryoshka_loss(Output(x_hat, active), x, sae, prefixes)
        loss = loss + active.to_dense().pow(3).sum()
        weights: list[Tensor] = [*inputs, sae.W_dec, sae.b_dec]
        found.append([loss.detach(), x_hat.detach(), *torch.autograd.grad(loss, weights, allow_unused=True)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_capacity_count_and_words() -> None:
    codes = padded(drawn(3, 5, 0.5, 1), 4)
    assert len(codes) == len(codes.trim()) + 4
    assert codes.count is not None
    assert int(codes.detach().count) == len(codes.trim())
    assert repr(codes).startswith(f"SparseCodes(3 tokens x 5 features, at most {len(codes)} matches")
    exact = codes.trim()
    assert exact.trim() is exact


@pytest.mark.parametrize("prefixes", [None, [3, 12]])
def test_no_size_or_order_of_operations_depends_on_the_codes(prefixes: list[int] | None) -> None:
    """On torch's device without numbers every look at one is an error: forward, loss, backward, optimiser, norms."""
    sae = st.SparseAutoencoder(5, 12, st.TokenChoice(2)).to("meta")
    optimizer = torch.optim.Adam(sae.parameters(), fused=False, foreach=True, capturable=False)
    x = torch.empty(7, 5, device="meta")
    scores = sae.scores(x)
    ends = torch.empty(14, dtype=torch.int64, device="meta")
    codes = sae.codes_at(x, scores, ends, ends, count=torch.empty((), dtype=torch.int64, device="meta"))
    assert codes.count is not None
    out = Output(sae.decode(codes), codes)
    loss = reconstruction(out, x) if prefixes is None else matryoshka_loss(out, x, sae, prefixes)
    loss.backward()
    assert sae.encoder.grad is not None
    assert codes.feature_counts.shape == (12,)
    update(sae, optimizer, clip=1.0)
    with pytest.raises(RuntimeError, match=r"Tensor.item\(\) cannot be called on meta tensors"):
        codes.trim()
