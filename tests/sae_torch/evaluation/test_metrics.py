from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sae_torch as st
from sae_torch.activations import Activations, ArrayRows, Pairs
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.evaluation import Quality, batch_free, measure

from .plain import PlainAutoencoder, make_activations


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_figure_is_that_of_the_dense_definition(batch_size: int) -> None:
    sae, activations = PlainAutoencoder(6, 11), make_activations(3, 5)
    found = measure(sae, activations, batch_size=batch_size, top=4)
    with torch.no_grad():
        x = activations.tensor(torch.float32)
        dense = sae.dense(x)
        error = (x.double() - (dense @ sae.W_dec + sae.b_dec).double()).square().sum()
    variation = (x.double() - x.double().mean(0)).square().sum()
    assert found.nmse == pytest.approx(float(error / variation), rel=1e-6)
    assert found.n_tokens == 32
    assert torch.equal(found.counts, (dense > 0).sum(0))
    assert found.l0 == float((dense > 0).sum()) / 32
    assert found.dead == int((dense == 0).all(0).sum())
    assert torch.equal(found.densities, (dense > 0).double().mean(0))
    per_token = (dense > 0).sum(1)
    assert found.histogram.tolist() == [int((per_token == n).sum()) for n in range(int(per_token.max()) + 1)]
    for feature in range(11):
        firing = [(-float(dense[row, feature]), row) for row in range(32) if dense[row, feature] > 0]
        expected = [row for _, row in sorted(firing)][:4]
        assert found.top_rows[feature].tolist() == expected + [-1] * (4 - len(expected))
        assert found.top_values[feature, : len(expected)].tolist() == [float(dense[row, feature]) for row in expected]


def test_the_reconstruction_by_the_mean_has_nmse_1() -> None:
    activations = make_activations(8)

    class MeanOnly(PlainAutoencoder):
        def decode(self, codes: SparseCodes) -> Tensor:
            return activations.tensor(torch.float64).mean(0).expand(codes.shape[0], -1)

    assert measure(MeanOnly(6, 11), activations).nmse == pytest.approx(1.0, rel=1e-9)


def test_ties_go_to_the_smaller_row() -> None:
    class Constant(PlainAutoencoder):
        def dense(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 2)

    found = measure(Constant(6, 2), make_activations(6), batch_size=5, top=3)
    assert found.top_rows.tolist() == [[0, 1, 2], [0, 1, 2]]


def test_a_code_of_value_0_is_no_firing_feature() -> None:
    class Forced(PlainAutoencoder):
        def encode(self, x: Tensor) -> SparseCodes:
            n = len(x)
            values = torch.tensor([0.0, 2.0]).repeat(n)
            return SparseCodes(torch.arange(n).repeat_interleave(2), torch.tensor([0, 1]).repeat(n), values, (n, 2))

    found = measure(Forced(6, 2), make_activations(4))
    assert found.counts.tolist() == [0, 16]
    assert found.l0 == 1.0
    assert found.dead == 1
    assert found.histogram.tolist() == [0, 16]


def test_an_autoencoder_that_never_fires_is_measured() -> None:
    found = measure(PlainAutoencoder(6, 3, threshold=1e9), make_activations(4))
    assert (found.l0, found.dead, found.histogram.tolist()) == (0.0, 3, [16])
    assert (found.top_rows == -1).all()


def test_it_runs_in_evaluation_mode_without_gradients_and_restores_the_mode() -> None:
    seen = []

    class Watched(PlainAutoencoder):
        def encode(self, x: Tensor) -> SparseCodes:
            seen.append((self.training, torch.is_grad_enabled()))
            return super().encode(x)

    sae = Watched(6, 3)
    for mode in (True, False):
        sae.train(mode)
        measure(sae, make_activations(4))
        assert sae.training is mode
    assert seen == [(False, False)] * 2
    with pytest.raises(KeyboardInterrupt), batch_free(sae.train()):
        raise KeyboardInterrupt
    assert sae.training


def test_activations_that_do_not_vary_are_refused() -> None:
    activations = make_activations(4)
    shard: Any = activations.shards[0]
    shard.activations.fill_(1.0)
    with pytest.raises(InputError, match="activations: expected rows that vary, found 16 that are all equal"):
        measure(PlainAutoencoder(6, 3), activations)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", ["activations", "targets"])
def test_the_first_row_that_is_not_finite_is_named(name: str, value: str) -> None:
    """In a later batch, and not in the first column."""
    sides = {
        side: np.random.default_rng(3).normal(size=(16, 6)).astype(np.float32) for side in ("activations", "targets")
    }
    sides[name][[9, 12], 4] = float(value)
    pairs = Pairs(*(ArrayRows((side,)) for side in sides.values()))
    with pytest.raises(InputError, match=f"^{name}: expected finite values, found {value} in row 9$"):
        measure(st.Transcoder(6, 6, 12, st.TokenChoice(2)), pairs, batch_size=4)
    if name == "activations":
        with pytest.raises(InputError, match=f"^activations: expected finite values, found {value} in row 9$"):
            measure(PlainAutoencoder(6, 3), pairs.inputs, batch_size=4)


def test_targets_that_do_not_vary_are_refused_by_their_name() -> None:
    varied = np.random.default_rng(3).normal(size=(16, 6)).astype(np.float32)
    pairs = Pairs(ArrayRows((varied,)), ArrayRows((np.ones((16, 6), np.float32),)))
    with pytest.raises(InputError, match="targets: expected rows that vary, found 16 that are all equal"):
        measure(st.Transcoder(6, 6, 12, st.TokenChoice(2)), pairs)


def test_another_width_is_named() -> None:
    sae: nn.Module = PlainAutoencoder(6, 3)
    with pytest.raises(InputError, match="activations: expected the autoencoder's width of 6, found 5"):
        measure(sae, make_activations(4, d_model=5))


def test_quality_is_comparable() -> None:
    found: Quality = measure(PlainAutoencoder(6, 3), make_activations(4))
    again: Quality = measure(PlainAutoencoder(6, 3), Activations(make_activations(4).shards, 16))
    assert found.nmse == again.nmse
