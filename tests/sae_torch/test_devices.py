"""Choices on tensors whose solutions come back as tensors: the way of a card without CuPy, walked on the processor."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

import sae_torch as st
from allocation import scores as score_types

CHOICES = {
    "token": lambda: st.TokenChoice(k=3),
    "mutual": lambda: st.MutualChoice(k=3),
    "feature": lambda: st.FeatureChoice(k=3, switch=0.5),
    "balanced": lambda: st.BalancedChoice(k=3, token_caps=5, feature_caps=0.5),
    "floors": lambda: st.BalancedChoice(k=3, token_floors=1, feature_floors=0.01),
}


@pytest.fixture
def as_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tensor counts as one on a card; that CuPy is missing and that scores are copied is known."""
    monkeypatch.setattr(score_types, "is_on_device", lambda array: hasattr(array, "detach"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CuPy is not installed|.* works in main memory", RuntimeWarning)
        yield


def trained(name: str) -> tuple[st.SparseAutoencoder, torch.Tensor]:
    """A few steps with both auxiliary losses' way through, calibration included."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(64, 8, generator=generator) for _ in range(6)]
    sae = st.SparseAutoencoder(8, 24, choice=CHOICES[name](), device="cpu")
    st.Trainer(sae, st.TrainConfig()).fit(batches)
    with torch.no_grad():
        return sae, sae.eval()(batches[0]).x_hat


@pytest.mark.parametrize("name", CHOICES)
def test_training_and_inference_are_the_same(name: str, request: pytest.FixtureRequest) -> None:
    """Weights, thresholds and reconstructions, to the last bit."""
    expected, expected_x = trained(name)
    request.getfixturevalue("as_device")
    found, found_x = trained(name)
    assert torch.equal(found_x, expected_x)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.usefixtures("as_device")
def test_soft_choice() -> None:
    """Shares and gradients come back as tensors."""
    scores = torch.randn(6, 9, requires_grad=True, generator=torch.Generator().manual_seed(0))
    shares = st.SoftChoice(k=2, temperature=0.5)(scores)
    shares.sum().backward()
    assert shares.sum().item() == pytest.approx(12.0)
    assert scores.grad is not None
