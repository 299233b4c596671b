"""A trainer taken up from its state goes on to the same bits."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from tests.sae_torch.training.activations import activations

STEPS = 12


def choices() -> list[st.Choice]:
    return [
        st.TokenChoice(4),
        st.MutualChoice(4),
        st.FeatureChoice(4, switch=0.5),
        st.FeatureChoice(0.25, switch=0),  # quotas below one token per batch: the ledger matters
        st.BalancedChoice(4, token_caps=8, feature_caps=0.3, feature_floors=0.01),
        st.BalancedChoice(4, feature_floors=0.03, floors_in_eval=False),
    ]


def begun(choice: st.Choice, **options: Any) -> st.Trainer:
    trainer = st.Trainer(st.SparseAutoencoder(16, 64, choice), st.TrainConfig(progress=False, **options))
    return trainer


def tensors(state: Any, name: str = "") -> dict[str, Tensor]:
    """Every tensor in a state, by the path to it."""
    if isinstance(state, Tensor):
        return {name: state}
    inner = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {path: tensor for key, value in inner for path, tensor in tensors(value, f"{name}/{key}").items()}


@pytest.mark.parametrize("stop", [1, 5, 6, 11])
@pytest.mark.parametrize("number", range(len(choices())))
def test_any_step_can_be_the_last_one_before_an_interruption(number: int, stop: int) -> None:
    batches = activations(STEPS, tokens=128)
    options = {"k_start": 6, "k_annealing": 0.25} if number == 1 else {}
    whole = begun(choices()[number], **options)
    whole.begin(batches[0], STEPS, STEPS * 128)
    for step, x in enumerate(batches):
        if step == stop:
            file = io.BytesIO()
            torch.save(whole.state_dict(), file)
        whole.step(x)

    resumed = begun(choices()[number], **options)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True), STEPS * 128)
    for x in batches[stop:]:
        resumed.step(x)

    expected, found = tensors(whole.state_dict()), tensors(resumed.state_dict())
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]) or bool((value.isnan() & found[name].isnan()).all()), name
    assert len(expected) > 12
    for trainer in (whole, resumed):
        trainer.end()
    assert torch.equal(whole.sae.b_dec, resumed.sae.b_dec)


def test_a_state_needs_a_schedule() -> None:
    trainer = begun(st.TokenChoice(4))
    with pytest.raises(st.InputError, match="state_dict: no schedule has begun"):
        trainer.state_dict()
    with pytest.raises(st.InputError, match="step: no schedule has begun"):
        trainer.step(torch.zeros(4, 16))


def test_a_schedule_begins_once_and_ends() -> None:
    batches = activations(2, tokens=128)
    trainer = begun(st.MutualChoice(4))
    trainer.begin(batches[0], 2, 256)
    trainer.step(batches[0])
    before = trainer.sae.b_dec.clone()
    for again in (lambda: trainer.begin(batches[0], 2, 256), lambda: trainer.fit(batches)):
        with pytest.raises(st.InputError, match=r"a schedule has begun already, 1 of 2 steps are done; call end\(\)"):
            again()
    assert torch.equal(trainer.sae.b_dec, before)
    trainer.step(batches[1])
    before = trainer.sae.b_dec.clone()
    with pytest.raises(st.InputError, match=r"step: all 2 steps of the schedule are done; call end\(\) first"):
        trainer.step(batches[0])
    assert torch.equal(trainer.sae.b_dec, before)


def test_steps_by_hand_are_those_of_fit() -> None:
    batches = activations(STEPS, tokens=900)  # more than the probe takes
    fitted = begun(st.MutualChoice(4))
    log = fitted.fit(copy.deepcopy(batches))
    by_hand = begun(st.MutualChoice(4))
    by_hand.begin(torch.cat(batches[:10]), STEPS, STEPS * 900)
    losses = [by_hand.step(x).loss for x in batches]
    by_hand.end()
    assert losses == log.loss
    assert torch.equal(by_hand.sae.W_enc, fitted.sae.W_enc)


@pytest.mark.parametrize("features", [64, 16])
@pytest.mark.parametrize("transposed", [True, False])
def test_a_checkpoint_with_the_encoder_either_way_goes_on_to_the_same_bits(features: int, transposed: bool) -> None:
    """Transposed as before it was a parameter with one feature a row; with as many features as width no shape tells."""
    whole, halved, other = (
        st.Trainer(st.SparseAutoencoder(16, features, st.MutualChoice(4)), st.TrainConfig(progress=False))
        for _ in range(3)
    )
    batches = activations(6)
    for trainer in (whole, halved):
        trainer.begin(torch.cat(batches), 6, 6 * len(batches[0]))
    for x in batches:
        whole.step(x)
    for x in batches[:3]:
        halved.step(x)
    state = copy.deepcopy(halved.state_dict())
    if transposed:
        state["sae"]["W_enc"] = state["sae"].pop("encoder").T
        order = [name for name, _ in halved.sae.named_parameters()]
        moments = state["optimizer"]["state"][order.index("encoder")]
        moments |= {name: value.T for name, value in moments.items() if value.ndim == 2}
    other.load_state_dict(state, 6 * len(batches[0]))
    for x in batches[3:]:
        other.step(x)
    for (name, one), two in zip(whole.sae.named_parameters(), other.sae.parameters(), strict=True):
        assert torch.equal(one, two), name
        assert two.is_contiguous(), name
