"""Casts change the weights' type; what a choice has measured keeps its own, and training goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sae_torch as st

CHOICES: dict[str, Callable[[], st.Choice]] = {
    "mutual": lambda: st.MutualChoice(4),
    "feature": lambda: st.FeatureChoice(4, switch_tokens=400),
    "floors": lambda: st.BalancedChoice(4, feature_floors=0.01),
    "limits": lambda: st.BalancedChoice(4, token_caps=9, feature_caps=0.5),
}


def inputs() -> Tensor:
    return torch.randn(300, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CHOICES)
def test_a_cast_module_trains_and_decides(name: str, dtype: torch.dtype) -> None:
    sae = st.SparseAutoencoder(16, 64, CHOICES[name]()).to(dtype)
    types = {key: value.dtype for key, value in sae.choice.state_dict().items()}
    for cast in (dtype, torch.float32, dtype):
        sae.to(cast)
        sae(inputs().to(cast)).x_hat.pow(2).mean().backward()
        for parameter in sae.parameters():
            parameter.grad = None
    assert sae.W_dec.dtype == dtype
    assert {key: value.dtype for key, value in sae.choice.state_dict().items()} == types
    assert sae.eval()(inputs().to(dtype)).codes.l0 == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("name", CHOICES)
def test_casts_there_and_back_leave_the_statistics_to_the_bit(name: str) -> None:
    sae = st.SparseAutoencoder(16, 64, CHOICES[name]())
    for _ in range(3):
        sae(inputs())
    before = {key: value.clone() for key, value in sae.choice.state_dict().items()}
    sae.half().bfloat16().double().float()
    for key, value in sae.choice.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


def test_statistics_follow_the_device() -> None:
    sae = st.SparseAutoencoder(16, 64, CHOICES["floors"]())
    sae.to("meta", torch.bfloat16)
    on_host = {f"choice.{name}" for name in sae.choice.on_host}
    assert {b.device.type for name, b in sae.named_buffers() if name not in on_host} == {"meta"}
    sae.to_empty(device="cpu")
    assert {buffer.device.type for buffer in sae.buffers()} == {"cpu"}
    assert sae.choice.tracker.theta.dtype == torch.float32


def test_weights_of_a_choice_of_ones_own_are_cast_with_the_others() -> None:
    choice = st.MutualChoice(4)
    choice.bias = nn.Parameter(torch.ones(3))
    choice.bias.grad = torch.ones(3)
    st.SparseAutoencoder(16, 64, choice).half()
    assert choice.bias.dtype == choice.bias.grad.dtype == torch.float16


def test_a_default_type_leaves_them_in_theirs() -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        choice = st.MutualChoice(4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert choice.tracker.theta.dtype == torch.float32


def test_a_common_threshold_is_not_rounded_to_the_scores() -> None:
    """2.9 lies below the bfloat16 number 2.90625, to which it would be rounded."""
    scores = torch.tensor([[2.90625, 1.0]], dtype=torch.bfloat16)
    assert st.Threshold(2.9).mask(scores).tolist() == [[True, False]]
