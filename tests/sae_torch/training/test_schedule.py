"""What changes over the steps: rates and budgets, against their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st_

import sae_torch as st
from sae_torch.training.schedule import Annealing, Schedule
from tests.sae_torch.training.activations import activations


@given(
    steps=st_.integers(1, 200),
    warm_up=st_.floats(0, 0.5),
    decay=st_.floats(0, 0.5),
    cosine=st_.booleans(),
)
def test_the_rate_rises_stays_and_falls(steps: int, warm_up: float, decay: float, cosine: bool) -> None:
    schedule = Schedule(2.0, steps, warm_up, decay, cosine)
    rates = [schedule.rate(step) for step in range(steps)]
    assert all(0 < rate <= 2.0 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    last = len(rates) - 1 - rates[::-1].index(max(rates))
    assert rates[last:] == sorted(rates[last:], reverse=True)


def test_a_cosine_falls_slowly_at_both_ends() -> None:
    schedule = Schedule(1.0, steps=100, warm_up=0.0, decay=1.0, cosine=True)
    for step in (1, 25, 50, 75, 99):
        assert schedule.rate(step) == pytest.approx((1 + math.cos(math.pi * step / 100)) / 2)


@given(start=st_.floats(1, 64), k=st_.floats(1, 64), share=st_.floats(0, 1), steps=st_.integers(1, 100))
def test_the_budget_moves_one_way_and_arrives(start: float, k: float, share: float, steps: int) -> None:
    annealing = Annealing(start, k, steps, share)
    values = [annealing.at(step) for step in range(steps + 1)]
    assert values[0] == pytest.approx(start)
    assert all(value == k for value in values[math.ceil(max(share * steps, 1.0)) :])
    assert values == sorted(values, reverse=start > k) or start == pytest.approx(k)


@pytest.mark.parametrize(
    "choice", [st.TokenChoice(4), st.MutualChoice(4), st.FeatureChoice(4), st.BalancedChoice(4, feature_floors=0.01)]
)
def test_the_batches_follow_the_annealed_budget(choice: st.Choice) -> None:
    sae = st.SparseAutoencoder(16, 64, choice)
    config = st.TrainConfig(k_start=8, k_annealing=0.5, progress=False)
    log = st.Trainer(sae, config).fit(activations(20))
    assert log.l0[0] == pytest.approx(8, rel=0.05)
    assert log.l0[5] == pytest.approx(6, rel=0.05)
    assert log.l0[12] == pytest.approx(4, rel=0.05)
    assert choice.k == 4


def test_annealing_must_end_before_the_switch() -> None:
    sae = st.SparseAutoencoder(16, 64, st.FeatureChoice(4, switch=0.3))
    trainer = st.Trainer(sae, st.TrainConfig(k_start=8, k_annealing=0.5, progress=False))
    with pytest.raises(
        st.InputError, match=r"FeatureChoice fixes it at 0.3 of the steps, found one that moves until 0.5"
    ):
        trainer.fit(activations(4))


@pytest.mark.parametrize(("k", "k_start", "name"), [(65, None, "k"), (4, 65.0, "k_start")])
def test_the_features_must_hold_the_budget(k: float, k_start: float | None, name: str) -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(k))
    said = f"^{name}: expected at most the 64 features, found 65$"
    with pytest.raises(st.InputError, match=said):
        st.Trainer(sae, st.TrainConfig(k_start=k_start, progress=False)).fit(activations(4))
