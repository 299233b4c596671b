"""A cache that the real runner of SAELens wrote, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_torch.activations import open_activations

from .conftest import D_MODEL
from .test_saebench import CONTEXT, HOOK, model


def test_a_shuffled_cache_of_saelens_runner_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig, cache_activations_runner

    monkeypatch.setattr(cache_activations_runner, "load_model", lambda **_: model())
    tokens = torch.randint(3, 50, (40, CONTEXT), generator=torch.Generator().manual_seed(0))
    text = datasets.Dataset.from_dict({"tokens": tokens.tolist()})
    config = CacheActivationsRunnerConfig(
        dataset_path="at-hand", model_name="tiny", model_batch_size=4, hook_name=HOOK, d_in=D_MODEL,
        training_tokens=32 * CONTEXT, context_size=CONTEXT, device="cpu", prepend_bos=False, streaming=False,
        new_cached_activations_path=str(tmp_path / "cache"), buffer_size_gb=8 * CONTEXT * D_MODEL * 4 / 1e9,
    )  # fmt: skip
    CacheActivationsRunner(config, override_dataset=text).run()
    assert list((tmp_path / "cache").glob("cache-*.arrow")), "the row numbers of the shuffle"
    expected = datasets.load_from_disk(str(tmp_path / "cache")).with_format("numpy")
    found = open_activations(tmp_path / "cache")
    assert len(found) == 32 * CONTEXT
    rows = np.asarray(expected[HOOK]).reshape(-1, D_MODEL)
    assert torch.equal(found.gather(torch.arange(len(found))), torch.from_numpy(rows))
    assert found.header["site"] == HOOK
