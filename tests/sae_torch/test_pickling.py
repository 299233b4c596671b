"""What is in the middle of training can be pickled and copied, and goes on to the same bits."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st

CHOICES: dict[str, Callable[[], st.Choice]] = {
    "token": lambda: st.TokenChoice(4),
    "mutual": lambda: st.MutualChoice(4),
    "feature": lambda: st.FeatureChoice(4, switch_tokens=10**9),
    "balanced": lambda: st.BalancedChoice(4, feature_floors=0.01, feature_caps=0.3),
}


def pickled(it: Any) -> Any:
    return pickle.loads(pickle.dumps(it))


def batches(steps: int) -> list[Tensor]:
    return list(torch.randn(steps, 200, 16, generator=torch.Generator().manual_seed(0)))


def assert_same(one: st.SparseAutoencoder, two: st.SparseAutoencoder) -> None:
    for key, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[key], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
@pytest.mark.parametrize("name", CHOICES)
def test_a_module_in_training_goes_on_as_its_copy(name: str, copied: Callable[[Any], Any]) -> None:
    sae = st.SparseAutoencoder(16, 64, CHOICES[name]())
    first, *later = batches(4)
    out = sae(first)  # its graph lives on
    twin = copied(sae)
    for x in later:
        assert torch.equal(sae(x).x_hat, twin(x).x_hat)
    assert_same(sae, twin)
    assert out.x_hat.requires_grad
    pickled(sae.eval()), pickled(sae.choice.batch_free())


@pytest.mark.parametrize("name", CHOICES)
def test_a_trainer_in_its_schedule_goes_on_as_its_copy(name: str) -> None:
    given = batches(20)
    trainer = st.Trainer(st.SparseAutoencoder(16, 64, CHOICES[name]()), st.TrainConfig(progress=False))
    trainer.begin(given[0], 20, 4000)
    for x in given[:8]:
        trainer.step(x)
    twin = pickled(trainer)
    for each in (trainer, twin):
        for x in given[8:]:
            each.step(x)
        each.end()
    assert_same(trainer.sae, twin.sae)
    log = trainer.fit(given[:3])
    assert pickled(log).loss == log.loss
    pickled(trainer)
