"""Thresholds suit activations that were never trained on, though no token is held aside."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

import pytest
import torch
from torch import Tensor

import sae_torch as st

D, F, K, STEPS, BATCH = 128, 1024, 16, 60, 512
CHOICES: dict[str, Callable[[], st.Choice]] = {
    "mutual": lambda: st.MutualChoice(K),
    "balanced": lambda: st.BalancedChoice(K, feature_floors=K / F / 4),
}
# At a high rate to the last fifth of the steps: what is memorised shows.
QUIET = st.TrainConfig(decay=0.2, progress=False)


def noise(seed: int, tokens: int) -> Tensor:
    """What can be memorised and not learnt."""
    return torch.randn(tokens, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CHOICES)
def test_unseen_tokens_have_k_features(name: str) -> None:
    realised, on_trained = [], []
    for seed in (0, 10, 20):
        batches, fresh = noise(seed, STEPS * BATCH).split(BATCH), noise(seed + 1, 8192)
        sae = st.SparseAutoencoder(D, F, CHOICES[name](), seed=seed)
        st.Trainer(sae, QUIET).fit(batches)
        realised.append(sae.eval()(fresh).codes.l0 / K)
        st.calibrate(sae, batches[-6:])
        on_trained.append(sae(fresh).codes.l0 / K)
    assert mean(on_trained) > 1.014
    assert mean(realised) == pytest.approx(1.0, abs=0.01)


def trained(steps: int, resumed_at: int | None = None, drop: bool = False) -> st.SparseAutoencoder:
    """A schedule by hand, with another trainer that takes over."""
    batches = noise(0, 20 * 256).split(256)

    def trainer() -> st.Trainer:
        return st.Trainer(st.SparseAutoencoder(D, 256, st.MutualChoice(8)), st.TrainConfig(calibration=0.3))

    one = trainer()
    one.begin(torch.cat(batches), steps, steps * 256)
    for step, x in enumerate(batches):
        if step == resumed_at:
            state = one.state_dict()
            if drop:
                del state["first_sight"]
            one = trainer()
            one.load_state_dict(state, steps * 256)
        one.step(x)
    assert one.schedule is not None
    first_sight = one.schedule.first_sight
    one.end()
    first_sight.calibrate(one.sae, dict(enumerate(batches[14:], start=14)))
    return one.sae


@pytest.mark.parametrize("at", [5, 14, 17, 19])
def test_a_schedule_that_another_trainer_takes_up_ends_with_the_same_thresholds(at: int) -> None:
    whole, taken_up = trained(20), trained(20, resumed_at=at)
    assert torch.equal(whole.choice.batch_free().theta, taken_up.choice.batch_free().theta)


def test_a_state_from_before_it_was_measured_goes_on() -> None:
    whole, older = trained(20), trained(20, resumed_at=17, drop=True)
    assert torch.equal(whole.W_dec, older.W_dec)
    assert float(older.choice.batch_free().theta) > 0


def test_token_choice_measures_nothing() -> None:
    trainer = st.Trainer(st.SparseAutoencoder(D, 256, st.TokenChoice(8)), QUIET)
    batches = noise(0, 1024).split(256)
    trainer.begin(torch.cat(batches), 4, 1024)
    for x in batches:
        trainer.step(x)
    assert trainer.schedule is not None
    assert trainer.schedule.first_sight.prices == {}


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_first_step_may_be_among_the_last(steps: int) -> None:
    """Then no threshold has been tracked yet."""
    sae = st.SparseAutoencoder(D, 256, st.FeatureChoice(8, switch=0))
    st.Trainer(sae, st.TrainConfig(calibration=1.0, progress=False)).fit(noise(0, steps * 256).split(256))
    assert sae.eval()(noise(1, 2048)).codes.l0 == pytest.approx(8, rel=0.25)
