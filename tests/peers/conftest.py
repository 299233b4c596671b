"""These tests run beside the real SAELens, dictionary_learning and sparsify: `make test-peers`."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import sae_torch as st

PEERS = ("sae_lens", "dictionary_learning", "sparsify")
D_MODEL, N_FEATURES, K = 12, 40, 4

# the main environment has none of them: there the fixtures that they wrote are read instead
collect_ignore_glob = [] if all(importlib.util.find_spec(name) for name in PEERS) else ["test_*.py"]


def activations(count: int, seed: int) -> torch.Tensor:
    """Something to find, away from 0."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.nn.functional.normalize(torch.randn(30, D_MODEL, generator=generator), dim=1)
    generator.manual_seed(seed)
    active = torch.rand(count, 30, generator=generator) < 0.12
    return (active * (0.5 + torch.rand(count, 30, generator=generator))) @ basis + 0.3


@pytest.fixture(scope="session")
def x() -> torch.Tensor:
    return activations(600, seed=9)


def trained(choice: st.Choice, seed: int = 0) -> st.SparseAutoencoder:
    """A short training; rows of other norms than 1, so that folding matters."""
    sae = st.SparseAutoencoder(D_MODEL, N_FEATURES, choice, seed=seed)
    st.Trainer(sae, st.TrainConfig(progress=False)).fit([activations(256, seed=100 + i) for i in range(25)])
    with torch.no_grad():
        norms = 0.5 + torch.rand(N_FEATURES, 1, generator=torch.Generator().manual_seed(seed))
        sae.W_dec.mul_(norms)
        sae.W_enc.div_(norms.T)
        sae.b_enc.div_(norms[:, 0])
    return sae.eval()
