"""Training on pairs: every choice, any scale, the way there and back, checkpoints, bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.training.units import InputUnits, Units
from sae_torch.training.update import BIAS_RATE

CHOICES = [
    st.TokenChoice(3),
    st.MutualChoice(3),
    st.FeatureChoice(3, quotas="uniform", switch=0),
    st.FeatureChoice(3, switch=0.5),
    st.BalancedChoice(3, feature_floors=0.02),
]


def pairs(scale: float = 1.0, shift: float = 2.0, steps: int = 20, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Inputs away from 0, and what a random MLP makes of them."""
    generator = torch.Generator().manual_seed(7)
    into, out = torch.randn(10, 32, generator=generator), torch.randn(32, 6, generator=generator)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(steps):
        x = torch.randn(200, 10, generator=generator)
        made.append(((x + shift) * scale, torch.relu(x @ into) @ out + 3.0))
    return made


def error(transcoder: st.Transcoder, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Normalised error in eval mode."""
    x, y = (torch.cat(side) for side in zip(*batches, strict=True))
    with torch.no_grad():
        y_hat = transcoder.eval()(x).y_hat
    return float((y - y_hat).square().sum() / (y - y.mean(0)).square().sum())


@pytest.mark.parametrize(
    ("choice", "auxiliary"), [*((choice, "auto") for choice in CHOICES), (CHOICES[0], "k"), (CHOICES[4], "zipf")]
)
def test_every_choice_learns_from_pairs(choice: st.Choice, auxiliary: str) -> None:
    transcoder = st.Transcoder(10, 6, 48, copy.deepcopy(choice), skip=True)
    config = st.TrainConfig(progress=False, auxiliary=auxiliary, k_start=None)  # type: ignore[arg-type]
    log = st.Trainer(transcoder, config).fit(pairs(steps=30))
    assert log.loss[-1] < 0.6 * log.loss[0]
    assert error(transcoder, pairs(steps=2, seed=9)) < 0.55
    assert transcoder.training is False


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_inputs_changes_nothing(scale: float) -> None:
    found = []
    for factor in (1.0, scale):
        transcoder = st.Transcoder(10, 6, 48, st.MutualChoice(3), skip=True)
        log = st.Trainer(transcoder, st.TrainConfig(progress=False)).fit(pairs(factor))
        found.append(torch.tensor(log.loss))
        assert error(transcoder, pairs(factor, steps=2, seed=9)) < 0.6
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=0)


def test_the_mean_of_the_inputs_changes_little() -> None:
    found = []
    for shift in (0.0, 30.0):
        transcoder = st.Transcoder(10, 6, 48, st.MutualChoice(3))
        log = st.Trainer(transcoder, st.TrainConfig(progress=False)).fit(pairs(shift=shift))
        found.append(log.loss[-1])
    assert found[1] == pytest.approx(found[0], rel=0.02)


@pytest.mark.parametrize("skip", [False, True])
def test_training_units_are_the_same_function(skip: bool) -> None:
    transcoder = st.Transcoder(10, 6, 48, st.MutualChoice(3), skip=skip, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in transcoder.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    x = torch.randn(50, 10, generator=generator, dtype=torch.float64) * 5 + 2
    st.calibrate(transcoder, [x])
    transcoder.eval()
    before, weights = transcoder(x), copy.deepcopy(transcoder.state_dict())
    units = Units(2.5, InputUnits(0.3, torch.randn(10, generator=generator, dtype=torch.float64)))
    units.enter(transcoder)
    inside = transcoder(units.read(x))
    assert torch.equal(inside.codes.features, before.codes.features)
    torch.testing.assert_close(inside.y_hat, before.y_hat * 2.5)
    units.leave(transcoder)
    for name, value in transcoder.state_dict().items():
        torch.testing.assert_close(value, weights[name], equal_nan=True)


def test_an_encoder_starts_at_what_predicts_the_decoder() -> None:
    """With y = x it is the decoder's transpose, as an autoencoder's."""
    x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)) + 1.0
    transcoder = st.Transcoder(8, 8, 32, st.MutualChoice(3))
    trainer = st.Trainer(transcoder, st.TrainConfig(progress=False))
    trainer.begin((x, x), 10, 1000)
    assert float(torch.cosine_similarity(transcoder.encoder, transcoder.W_dec).detach().min()) > 0.999
    assert float(transcoder.b_dec.detach().abs().max()) > 0.5
    trainer.end()

    # twice the rotated input: the encoder reads the rotation, whatever the scale
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))
    turned = st.Transcoder(8, 8, 32, st.MutualChoice(3))
    trainer = st.Trainer(turned, st.TrainConfig(progress=False))
    trainer.begin([(x, 2.0 * x @ turn.T)], 10, 1000)
    assert float(torch.cosine_similarity(turned.encoder @ turn.T, turned.W_dec).detach().min()) > 0.99
    trainer.end()


def test_weights_of_the_users_own_are_kept() -> None:
    transcoder = st.Transcoder(10, 6, 48, st.MutualChoice(3))
    with torch.no_grad():
        transcoder.encoder.mul_(0.5)
    before = copy.deepcopy(transcoder.encoder.detach())
    trainer = st.Trainer(transcoder, st.TrainConfig(progress=False))
    trainer.begin(pairs(steps=2), 10, 1000)
    trainer.end()
    torch.testing.assert_close(transcoder.encoder.detach(), before)


def test_frozen_weights_stay_to_the_last_bit() -> None:
    transcoder = st.Transcoder(10, 6, 48, st.MutualChoice(3), skip=True)
    st.Trainer(transcoder, st.TrainConfig(progress=False)).fit(pairs(steps=5))
    for weight in (transcoder.encoder, transcoder.b_enc, transcoder.W_skip):
        assert weight is not None
        weight.requires_grad_(False)
    before = {name: value.clone() for name, value in transcoder.named_parameters()}
    st.Trainer(transcoder, st.TrainConfig(progress=False)).fit(pairs(steps=5, seed=1))
    for name, value in transcoder.named_parameters():
        assert torch.equal(value, before[name]) == (name in ("encoder", "b_enc", "W_skip")), name


@pytest.mark.parametrize("choice", [CHOICES[1], CHOICES[3]], ids=["mutual", "feature"])
def test_a_trainer_goes_on_to_the_same_bits(choice: st.Choice) -> None:
    batches = pairs(steps=12)

    def fresh() -> st.Trainer:
        transcoder = st.Transcoder(10, 6, 48, copy.deepcopy(choice), skip=True)
        return st.Trainer(transcoder, st.TrainConfig(progress=False, k_start=8.0, k_annealing=0.3))

    whole, first, second = fresh(), fresh(), fresh()
    for trainer in (whole, first):
        trainer.begin(batches[:2], 12, 2400)
    for batch in batches:
        whole.step(batch)
    for batch in batches[:7]:
        first.step(batch)
    second.load_state_dict(copy.deepcopy(first.state_dict()), 2400)
    for batch in batches[7:]:
        second.step(batch)
    for trainer in (whole, second):
        trainer.end()
    for name, value in whole.sae.state_dict().items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(second.sae.state_dict()[name])), name


def test_the_bias_of_the_encoder_takes_larger_steps() -> None:
    trainer = st.Trainer(st.Transcoder(10, 6, 48, st.MutualChoice(3)), st.TrainConfig(progress=False, warm_up=0))
    trainer.begin(pairs(steps=1), 10, 2000)
    trainer.step(pairs(steps=1)[0])
    rates = {
        name: group["lr"]
        for group in trainer.optimizer.param_groups
        for name, weight in trainer.sae.named_parameters()
        if any(weight is each for each in group["params"])
    }
    assert rates["b_enc"] == pytest.approx(BIAS_RATE * rates["encoder"])
    assert rates["W_dec"] == rates["b_dec"] == rates["encoder"] == pytest.approx(4e-3)
    trainer.end()


def test_prefixes_and_pairs_as_rows_beside_each_other() -> None:
    losses = []
    for given in (pairs(), [torch.cat(pair, dim=1) for pair in pairs()]):
        transcoder = st.Transcoder(10, 6, 48, st.MutualChoice(3), skip=True)
        config = st.TrainConfig(progress=False, prefixes=(8, 48))
        losses.append(st.Trainer(transcoder, config).fit(given).loss)
    assert losses[0] == losses[1]


def test_targets_that_do_not_vary_and_inputs_that_do_not() -> None:
    x, y = pairs(steps=1)[0]
    for batch in ((x, torch.zeros_like(y)), (torch.ones_like(x), y), (torch.zeros_like(x), y)):
        transcoder = st.Transcoder(10, 6, 48, st.MutualChoice(3), skip=True)
        st.Trainer(transcoder, st.TrainConfig(progress=False)).fit([batch] * 5)
        assert math.isfinite(float(transcoder(batch[0]).y_hat.detach().abs().max()))


X, Y = torch.ones(5, 10), torch.ones(5, 6)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, r"batch 0 must be a pair \(x, y\) of shapes \(tokens, 10\) and \(tokens, 6\), found one tensor .*5, 10\)"),
        ((X, Y, Y), r"found shapes \(5, 10\) and \(5, 6\) and \(5, 6\)"),
        ((Y, X), r"found shapes \(5, 6\) and \(5, 10\)"),
        ((X, Y[:4]), r"found shapes \(5, 10\) and \(4, 6\)"),
        ((X[:0], Y[:0]), r"found shapes \(0, 10\) and \(0, 6\)"),
        ((X, None), "found tuple"),
        ({"x": X, "y": Y}, "found dict"),
        ((X, Y * math.nan), "batch 0 holds NaN or infinite"),
        ((X * math.inf, Y), "batch 0 holds NaN or infinite"),
    ],
)
def test_what_is_no_pair_is_refused(batch: object, message: str) -> None:
    trainer = st.Trainer(st.Transcoder(10, 6, 48, st.MutualChoice(3)), st.TrainConfig(progress=False))
    before = copy.deepcopy(trainer.sae.state_dict())
    with pytest.raises(st.InputError, match=message):
        trainer.fit([batch])
    for name, value in trainer.sae.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_a_pair_is_no_batch_of_an_autoencoder() -> None:
    trainer = st.Trainer(st.SparseAutoencoder(10, 48, st.MutualChoice(3)), st.TrainConfig(progress=False))
    with pytest.raises(st.InputError, match=r"must have shape \(tokens, 10\), found tuple; pairs are for st\.Transcod"):
        trainer.fit([(X, Y)])
