"""What we write loads with the loaders of others and gives the same activations and reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.interop import dictionary_learning, sparsify

from .conftest import D_MODEL, N_FEATURES, K, trained

CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}
CHOICES: dict[str, Any] = {
    "token": lambda: st.TokenChoice(K),
    "mutual": lambda: st.MutualChoice(K),
    "feature": lambda: st.FeatureChoice(K),
    "balanced": lambda: st.BalancedChoice(K, feature_floors=0.06),
}


def ours(sae: st.SparseAutoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations in units where decoder rows have norm 1, and the reconstruction."""
    with torch.no_grad():
        out = sae(x)
        return out.codes.to_dense() * sae.W_dec.norm(dim=1), out.x_hat


@pytest.mark.parametrize("name", CHOICES)
def test_saelens_loads_our_folder(name: str, x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    sae = trained(CHOICES[name]())
    st.save(sae, tmp_path, metadata={"model_name": "m", "hook_name": "blocks.3.hook_resid_post"})
    theirs = SAE.load_from_disk(tmp_path)
    assert theirs.cfg.architecture() == ("topk" if name == "token" else "jumprelu")
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    assert theirs.cfg.metadata.allocation["k"] == K
    acts, x_hat = ours(sae, x)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(x), acts, **CLOSE)
        torch.testing.assert_close(theirs(x), x_hat, **CLOSE)
    assert 0.5 * K < float((acts > 0).sum(1).float().mean()) <= 1.5 * K


def test_saelens_finds_the_same_matches_in_bfloat16(x: Tensor, tmp_path: Path) -> None:
    """Thresholds just below scores that the type holds: nearest, they would be these scores."""
    from sae_lens import SAE

    sae = st.SparseAutoencoder(D_MODEL, D_MODEL, st.FeatureChoice(K), dtype=torch.bfloat16)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D_MODEL))
        sae.W_dec.copy_(torch.eye(D_MODEL))
    x = x.bfloat16()
    sae.choice.build(D_MODEL)
    sae.choice.set_thresholds(x.float().quantile(0.8, dim=0, interpolation="nearest") * (1 - 1e-6))
    st.save(sae.eval(), tmp_path)
    with torch.no_grad():
        assert torch.equal(SAE.load_from_disk(tmp_path).encode(x), sae(x).codes.to_dense())


@pytest.mark.parametrize("name", CHOICES)
def test_dictionary_learning_loads_our_folder(name: str, x: Tensor, tmp_path: Path) -> None:
    from dictionary_learning.utils import load_dictionary

    sae = trained(CHOICES[name]())
    dictionary_learning.save(sae, tmp_path, metadata={"model_name": "m", "hook_name": "blocks.3.hook_resid_post"})
    theirs, config = load_dictionary(str(tmp_path), "cpu")
    expected = {"token": "AutoEncoderTopK", "mutual": "BatchTopKSAE"}.get(name, "JumpReluAutoEncoder")
    assert type(theirs).__name__ == expected
    assert config["trainer"]["layer"] == 3
    acts, x_hat = ours(sae, x)
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(x), acts, **CLOSE)
        torch.testing.assert_close(theirs(x), x_hat, **CLOSE)


def test_a_row_that_is_zeroed_in_saelens_spoils_no_other(x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    theirs = SAE.load_from_disk(st.save(trained(st.TokenChoice(K)), tmp_path))
    with torch.no_grad():
        theirs.W_dec[1] = 0.0
        assert bool(theirs(x).isfinite().all())


def test_sparsify_loads_our_folder(x: Tensor, tmp_path: Path) -> None:
    from sparsify import SparseCoder

    sae = trained(st.TokenChoice(K))
    sparsify.save(sae, tmp_path / "layers.3")
    theirs = SparseCoder.load_many(str(tmp_path), local=True)["layers.3"]
    acts, x_hat = ours(sae, x)
    with torch.no_grad():
        encoded = theirs.encode(x)
        dense = torch.zeros(len(x), N_FEATURES).scatter(1, encoded.top_indices, encoded.top_acts)
        torch.testing.assert_close(dense, acts, **CLOSE)
        torch.testing.assert_close(theirs(x).sae_out, x_hat, **CLOSE)
