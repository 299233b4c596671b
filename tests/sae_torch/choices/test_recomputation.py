"""Activation checkpointing runs a forward again in the backward: the same gradients, and every batch counts once."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sae_torch as st

D, F, K = 16, 64, 4
CHOICES: dict[str, Callable[[], st.Choice]] = {
    "token": lambda: st.TokenChoice(K),
    "mutual": lambda: st.MutualChoice(K),
    "feature": lambda: st.FeatureChoice(K, switch=0),
    "feature, switching": lambda: st.FeatureChoice(K, switch_tokens=60),
    "balanced": lambda: st.BalancedChoice(K, feature_floors=0.013, feature_caps=0.11),
}


def inputs() -> Tensor:
    return torch.randn(96, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def autoencoder(name: str) -> st.SparseAutoencoder:
    return st.SparseAutoencoder(D, F, CHOICES[name](), dtype=torch.float64)


def scaled(sae: st.SparseAutoencoder, x: Tensor) -> Tensor:
    """What a model around the autoencoder does; its input is computed again too."""
    return sae(torch.tanh(x) * 3).x_hat


def alone(sae: st.SparseAutoencoder, x: Tensor) -> Tensor:
    return sae(x).x_hat


def chosen(sae: st.SparseAutoencoder, x: Tensor) -> Tensor:
    """A loop of one's own around the choice."""
    return sae.choice(x @ sae.W_enc).to_dense() @ sae.W_dec


def train(
    sae: st.SparseAutoencoder,
    part: Callable[[st.SparseAutoencoder, Tensor], Tensor],
    batches: list[Tensor],
    again: bool,
) -> list[Tensor]:
    """Gradients of several batches together."""
    leaves = [x.clone().requires_grad_() for x in batches]
    loss = torch.zeros((), dtype=torch.float64)
    for weight, x in enumerate(leaves, start=1):
        out = checkpoint(part, sae, x, use_reentrant=False) if again else part(sae, x)
        loss = loss + weight * (out - x).pow(2).sum()
    loss.backward()
    return [leaf.grad for leaf in (*leaves, *sae.parameters()) if leaf.grad is not None]


@pytest.mark.parametrize("batches", [[96], [40, 56], [32, 32, 32]], ids=str)
@pytest.mark.parametrize("part", [alone, scaled, chosen], ids=lambda part: part.__name__)
@pytest.mark.parametrize("name", CHOICES)
def test_checkpointing_changes_neither_gradients_nor_statistics(
    name: str, part: Callable[[st.SparseAutoencoder, Tensor], Tensor], batches: list[int]
) -> None:
    results = []
    for again in (False, True):
        sae = autoencoder(name)
        sae.choice.build(F)
        results.append((train(sae, part, list(inputs().split(batches)), again), sae.choice.state_dict()))
    (gradients, statistics), (again_gradients, again_statistics) = results
    for one, two in zip(gradients, again_gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    for key, value in statistics.items():
        torch.testing.assert_close(again_statistics[key], value, rtol=0, atol=0, equal_nan=True)


def test_the_same_batch_twice_has_the_matches_of_its_turn() -> None:
    """The ledger grants other tokens the second time."""
    x = inputs()[:48]
    plain, checkpointed = (train(autoencoder("feature"), alone, [x, x], again) for again in (False, True))
    for one, two in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_a_graph_kept_for_a_second_backward_gives_the_gradient_again() -> None:
    sae = autoencoder("feature")
    loss = checkpoint(alone, sae, inputs(), use_reentrant=False).pow(2).sum()
    first, second = (torch.autograd.grad(loss, sae.W_dec, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert int(sae.choice.tracker.steps) == 1


def test_matches_are_kept_no_longer_than_their_graph() -> None:
    sae = autoencoder("feature")
    outputs = [sae(x).x_hat for x in inputs().split(24)]
    memory = sae.choice.memory

    def alive() -> int:
        gc.collect()
        return sum(each() is not None for each in memory._forwards)

    assert alive() == 4
    assert copy.deepcopy(sae).choice.memory._forwards == []
    del outputs
    assert alive() == 1  # the last one, until the next comes
