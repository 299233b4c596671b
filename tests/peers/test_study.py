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
from benchmarks.study.snapshots import Snapshots
from benchmarks.study.sources import Scale, Sources
from benchmarks.study.synthetic import Truth

Train = Callable[[Request, Milestones, Snapshots], tuple[st.SparseAutoencoder, dict[str, Any]]]
# many more features than are needed, so that some are dead after a tenth of the run
WIDE = Setting("synthetic", k=4, n_features=192)
SCALE = Scale(train_tokens=8192, judged_tokens=1024, batch=256, truth=Truth(24, 48, 4.0, beta=3.0))


@pytest.mark.parametrize(("method", "train"), [(BATCH_TOP_K, dictionary_learning), (SPARSIFY, sparsify)])
def test_an_auxiliary_loss_acts_only_where_it_is_asked_for(tmp_path: Path, method: str, train: Train) -> None:
    sources = Sources(SCALE, tmp_path)
    folder = str(sources.folder("synthetic", "train"))

    def weights(auxiliary: str, kept: tuple[int, ...] = ()) -> torch.Tensor:
        cell = Cell.of(WIDE, method=method, auxiliary=auxiliary, learning_rate=8e-3, split="test", seed=0)
        request = Request(cell, folder, SCALE.train_tokens, SCALE.batch, kept)
        return train(request, Milestones(tmp_path, request), Snapshots(tmp_path, request))[0].W_dec.detach()

    without = weights("none")
    assert torch.equal(weights("none"), without)
    assert not torch.equal(weights("k"), without)
    # looking at it on the way changes nothing
    assert torch.equal(weights("none", kept=(2048, 4096)), without)
    assert milestone_file(tmp_path, 4096).exists()


@pytest.mark.parametrize(("method", "train"), [(BATCH_TOP_K, dictionary_learning), (SPARSIFY, sparsify)])
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path, method: str, train: Train) -> None:
    sources = Sources(SCALE, tmp_path)
    cell = Cell.of(WIDE, method=method, auxiliary="k", learning_rate=8e-3, split="test", seed=0)
    request = Request(cell, str(sources.folder("synthetic", "train")), SCALE.train_tokens, SCALE.batch)
    whole = train(request, Milestones(tmp_path, request), Snapshots(tmp_path, request))[0]
    (tmp_path / "begun").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(request, Milestones(tmp_path, request), StoppedAt(tmp_path / "begun", request, every=0.0))
    snapshots = Snapshots(tmp_path / "begun", request)
    kept = snapshots.begun
    assert kept is not None
    assert kept["step"] == StoppedAt.step
    again = train(request, Milestones(tmp_path, request), snapshots)[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.state_dict().items())


class StoppedAt(Snapshots):
    """Is interrupted after some steps."""

    step = 13

    def __call__(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        super().__call__(step, state)
        if step == self.step:
            raise KeyboardInterrupt
