"""The evidence study's peers, in their own libraries: their auxiliary losses act where they are said to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_torch as st
from benchmarks.study.cell import Cell, Setting
from benchmarks.study.methods import BATCH_TOP_K, SPARSIFY
from benchmarks.study.milestones import Milestones, milestone_file
from benchmarks.study.peers import dictionary_learning, sparsify
from benchmarks.study.request import Request
from benchmarks.study.sources import Scale, Sources
from benchmarks.study.synthetic import Truth

# many more features than are needed, so that some are dead after a tenth of the run
WIDE = Setting("synthetic", k=4, n_features=192)
SCALE = Scale(train_tokens=8192, judged_tokens=1024, batch=256, truth=Truth(24, 48, 4.0, beta=3.0))


@pytest.mark.parametrize(("method", "train"), [(BATCH_TOP_K, dictionary_learning), (SPARSIFY, sparsify)])
def test_an_auxiliary_loss_acts_only_where_it_is_asked_for(
    tmp_path: Path, method: str, train: Callable[[Request, Milestones], tuple[st.SparseAutoencoder, dict[str, Any]]]
) -> None:
    sources = Sources(SCALE, tmp_path)
    folder = str(sources.folder("synthetic", "train"))

    def weights(auxiliary: str, kept: tuple[int, ...] = ()) -> torch.Tensor:
        cell = Cell.of(WIDE, method=method, auxiliary=auxiliary, learning_rate=8e-3, split="test", seed=0)
        request = Request(cell, folder, SCALE.train_tokens, SCALE.batch, kept)
        return train(request, Milestones(tmp_path, request))[0].W_dec.detach()

    without = weights("none")
    assert torch.equal(weights("none"), without)
    assert not torch.equal(weights("k"), without)
    # looking at it on the way changes nothing
    assert torch.equal(weights("none", kept=(2048, 4096)), without)
    assert milestone_file(tmp_path, 4096).exists()
