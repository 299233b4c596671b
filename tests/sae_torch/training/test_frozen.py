"""Weights that are frozen stay as they are to the bit, whatever else is trained."""

from __future__ import annotations

import pytest
import torch

import sae_torch as st
from tests.sae_torch.training.activations import activations

WEIGHTS = ["W_dec", "encoder", "b_enc", "b_dec"]


@pytest.mark.parametrize(
    "frozen",
    [["W_dec"], ["encoder"], ["b_enc"], ["b_dec"], ["encoder", "b_enc"], ["W_dec", "b_dec"], WEIGHTS[:3]],
    ids="+".join,
)
@pytest.mark.parametrize("fresh", [True, False])
def test_frozen_weights_stay_and_the_others_learn(frozen: list[str], fresh: bool) -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4))
    if not fresh:
        with torch.no_grad():
            for parameter in sae.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    for name in frozen:
        getattr(sae, name).requires_grad_(False)
    before = {name: weight.detach().clone() for name, weight in sae.named_parameters()}
    log = st.Trainer(sae, st.TrainConfig(progress=False)).fit([3.7 * x for x in activations(20)])
    assert log.reconstruction[-1] < log.reconstruction[0]
    for name, weight in sae.named_parameters():
        assert torch.equal(weight, before[name]) == (name in frozen), name


def test_nothing_to_train_is_said() -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4)).requires_grad_(False)
    with pytest.raises(st.InputError, match="sae: expected at least one weight that is trained, found all frozen"):
        st.Trainer(sae, st.TrainConfig(progress=False)).fit(activations(3))
