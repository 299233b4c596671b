"""Features a block at a time: the same training as with the whole matrix, which is never held."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sae_torch as st
from sae_torch.score_blocks import ChunkedScores

TOKENS, D, FEATURES = 48, 6, 40
CHOICES: dict[str, Any] = {
    "token": lambda: st.TokenChoice(k=3),
    "mutual": lambda: st.MutualChoice(k=3),
    "feature": lambda: st.FeatureChoice(k=3, quotas="uniform", switch=0),
    "both": lambda: st.FeatureChoice(k=3, switch_tokens=10**9),
}


def whole_numbers(seed: int, *shape: int) -> Tensor:
    """So small that every product is exact, in whatever order a library sums."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def autoencoder(choice: st.Choice, chunk: int | None) -> st.SparseAutoencoder:
    sae = st.SparseAutoencoder(D, FEATURES, copy.deepcopy(choice), feature_chunk=chunk)
    with torch.no_grad():
        sae.W_enc.copy_(whole_numbers(1, D, FEATURES))
        sae.W_dec.copy_(torch.eye(D)[torch.arange(FEATURES) % D] * 2.0 ** (torch.arange(FEATURES) % 3)[:, None])
    return sae


@pytest.mark.parametrize("chunk", [1, 7, 16, FEATURES, 99])
@pytest.mark.parametrize("name", CHOICES)
def test_codes_gradients_and_statistics_to_the_last_bit(name: str, chunk: int) -> None:
    """With ties, in both modes, and with the auxiliary loss."""
    results = []
    for size in (None, chunk):
        sae = autoencoder(CHOICES[name](), size)
        for seed in (2, 3):
            x = whole_numbers(seed, TOKENS, D)
            out = sae(x, return_pre=True)
            loss = st.losses.reconstruction(out, x)
            loss = loss + st.losses.aux_k_loss(out, x, sae, torch.arange(FEATURES) % 5 == 0, 2)
            loss = loss + st.losses.aux_zipf_loss(out, x, sae, (torch.arange(FEATURES) % 4) / 4, 3, every=2)
        loss.backward()
        found = [loss.detach(), out.codes.tokens, out.codes.features, out.codes.values.detach(), out.x_hat.detach()]
        found += [p.grad for p in sae.parameters()]
        found += [value for key, value in sae.state_dict().items()]
        served = sae.eval().encode(x)
        found += [served.tokens, served.features, served.values.detach()]
        results.append(found)
    for whole, blocks in zip(*results, strict=True):
        assert whole is not None
        torch.testing.assert_close(blocks, whole, rtol=0, atol=0, equal_nan=True)


class Largest(TorchDispatchMode):
    """The most entries that any floating-point result of an operation has."""

    entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor) and part.is_floating_point():
                self.entries = max(self.entries, part.numel())
        return result


@pytest.mark.parametrize("name", CHOICES)
def test_training_never_holds_the_matrix(name: str) -> None:
    """The default training, calibration and inference, with generic numbers: close to the whole, block by block."""
    batches = [torch.randn(512, D, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
    seen = []
    for chunk in (None, 8):
        sae = st.SparseAutoencoder(D, 64, CHOICES[name](), feature_chunk=chunk)
        with Largest() as largest:
            log = st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
        assert (largest.entries >= 512 * 64) == (chunk is None)
        seen.append((log.loss[-1], sae.eval()(batches[0]).codes.l0))
    assert seen[1] == pytest.approx(seen[0], rel=1e-3)


def test_saved_and_loaded_weights_know_nothing_of_it(tmp_path: Any) -> None:
    """How a batch is encoded is no part of an autoencoder."""
    sae = autoencoder(st.TokenChoice(k=2), 8)
    loaded = st.load(st.save(sae, tmp_path / "sae"))
    assert loaded.feature_chunk is None
    x = whole_numbers(5, 9, D)
    assert torch.equal(loaded(x).x_hat, sae.eval()(x).x_hat)


def test_what_does_not_fit_is_said() -> None:
    """Sizes that are none, and choices that compare all scores."""
    with pytest.raises(st.errors.InputError, match="feature_chunk: expected a positive number of features, found 0"):
        st.SparseAutoencoder(4, 8, st.TokenChoice(k=2), feature_chunk=0)
    with pytest.raises(st.errors.InputError, match="BalancedChoice reads the whole matrix"):
        st.SparseAutoencoder(4, 8, st.BalancedChoice(k=2, token_caps=3), feature_chunk=4)
    scores = ChunkedScores(torch.ones(2, 1), lambda x, a, b: x.expand(2, b - a), 3, 2, torch.float32)
    with pytest.raises(st.errors.InputError, match="only those of the last selection"):
        scores[torch.tensor([0]), torch.tensor([1])]
    assert repr(scores).startswith("ChunkedScores(")
