"""Activations of any size train; a quiet batch among others is no divergence."""

from __future__ import annotations

import pytest
import torch

import sae_torch as st
from tests.sae_torch.training.activations import activations

QUIET = st.TrainConfig(progress=False)


@pytest.mark.parametrize("at", [0, 9, 19])
@pytest.mark.parametrize("factor", [0.0, 1 / 30, 1e-6])
def test_a_quiet_batch_does_not_end_a_run(factor: float, at: int) -> None:
    batches = activations(20)
    batches[at] = factor * batches[at]
    log = st.Trainer(st.SparseAutoencoder(16, 64, st.MutualChoice(4)), QUIET).fit(batches)
    assert log.reconstruction[-2] < log.reconstruction[1]


@pytest.mark.parametrize("factor", [2.0**83, 2.0**-66])
def test_activations_far_from_one_train_as_others_do(factor: float) -> None:
    """1e25 and 1e-20, whose squares float32 does not hold."""
    held_out, errors = torch.cat(activations(5, seed=1)), []
    for unit in (1.0, factor):
        sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4))
        st.Trainer(sae, QUIET).fit([unit * x for x in activations(20)])
        x_hat = sae.eval()(unit * held_out).x_hat.detach() / unit
        errors.append(float((x_hat - held_out).pow(2).sum()))
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


def test_rounded_activations_whose_squares_overflow_train() -> None:
    """1e30 in bfloat16."""
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4), dtype=torch.bfloat16)
    log = st.Trainer(sae, QUIET).fit([(1e30 * x).bfloat16() for x in activations(10)])
    assert log.reconstruction[-1] < log.reconstruction[0]


def test_activations_that_no_unit_fits_are_refused() -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4))
    message = r"batches: expected activations that torch.float32 can bring to norm 4, found a mean norm of .*e-44"
    with pytest.raises(st.InputError, match=message):
        st.Trainer(sae, QUIET).fit([1e-44 * torch.ones(50, 16)] * 3)
