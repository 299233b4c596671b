"""Blocks of features where a GPU lacks the room for a batch of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae_torch as st
from sae_torch.training import memory
from sae_torch.training.run import Run
from sae_torch.training.run_config import ReaderOptions, RunConfig, SaeOptions
from tests.sae_torch.test_devices import as_device  # noqa: F401

ROOM = 10_000


@pytest.fixture
def small_card(as_device: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A GPU of little memory: what torch says of it."""
    monkeypatch.setattr(memory, "LEAST", 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (ROOM, 10 * ROOM))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2_000)


@pytest.mark.usefixtures("small_card")
def test_what_will_be_held_is_taken_off() -> None:
    """Gradients and two moments of each, and one scaled encoder."""
    trainers = [st.Trainer(st.SparseAutoencoder(4, 16, st.TokenChoice(2))) for _ in range(2)]
    weights = 4 * (4 * 16 * 2 + 16 + 4)
    assert memory.room_for_scores(trainers, torch.device("cpu")) == ROOM + 3_000 - 6 * weights - weights // 2


@pytest.mark.parametrize(
    ("room", "chunk"), [(80_000, None), (79_999, 512), (73_728, 512), (73_727, 256), (0, 256), (-(1 << 40), 256)]
)
def test_the_largest_power_of_two_that_fits(room: int, chunk: int | None) -> None:
    """Of a thousand features with eight tokens in float64: 80 bytes each, 144 in a block, which is weighted."""
    assert memory.fitting_chunk(tokens=8, n_features=1000, entry_bytes=8, room=room) == chunk


def test_a_small_dictionary_is_no_block() -> None:
    assert memory.fitting_chunk(tokens=8, n_features=256, entry_bytes=8, room=0) is None


@pytest.mark.usefixtures("small_card")
def test_only_what_can_be_and_what_was_not_given() -> None:
    """Two-sided limits read the whole matrix, a graph holds no blocks, and a given number stands."""
    choices: dict[str, Any] = {
        "token": st.TokenChoice(2),
        "given": st.TokenChoice(2),
        "graph": st.MutualChoice(2),
        "two-sided": st.BalancedChoice(2, token_caps=3),
    }
    trainers = {}
    for name, choice in choices.items():
        sae = st.SparseAutoencoder(4, 16, choice, feature_chunk=5 if name == "given" else None)
        trainers[name] = st.Trainer(sae, st.TrainConfig(graph=name == "graph"))
    assert memory.fit_to_gpu(trainers, tokens=10_000) == {"token": 1}
    chunks = {name: trainer.sae.feature_chunk for name, trainer in trainers.items()}
    assert chunks == {"token": 1, "given": 5, "graph": None, "two-sided": None}
    assert memory.fit_to_gpu({"token": st.Trainer(st.SparseAutoencoder(4, 16, st.TokenChoice(2)))}, tokens=2) == {}


def run_config(folder: Path, **options: Any) -> RunConfig:
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(640, 8)).astype(np.float32))
    sae = SaeOptions(choice="mutual", n_features=32, k=4, **options)
    return RunConfig(out=folder / "run", activations=folder / "x.npy", reader=ReaderOptions(batch_size=64), sae=sae)


@pytest.mark.usefixtures("small_card")
def test_a_run_says_that_it_takes_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And it trains in them."""
    (folder,) = Run(run_config(tmp_path)).execute()
    assert "mutual-k4: the scores of a batch do not fit cpu, so 8 features at a time" in capsys.readouterr().err
    assert st.load(folder).n_features == 32


def test_blocks_on_request(tmp_path: Path) -> None:
    """With a processor, too."""
    seen = []
    run = Run(run_config(tmp_path, feature_chunk=8), quiet=True)
    trainers = run._trainers
    run._trainers = lambda reader: seen.append(trainers(reader)) or seen[0]  # type: ignore[method-assign, assignment, func-returns-value]
    run.execute()
    assert [trainer.sae.feature_chunk for trainer in seen[0].values()] == [8]


@pytest.mark.parametrize(
    ("sae", "train", "message"),
    [
        ({"feature_chunk": 8}, {}, "feature_chunk: balanced choice reads the whole matrix of scores"),
        ({"k": 9000}, {}, "k: expected more than 0 and at most the 4608 features, found 9000"),
        (
            {},
            {"k_start": 9000.0},
            "k_start: expected at most the 4608 features, found 9000",
        ),
        ({"choice": "token"}, {"graph": True}, "graph: expected token or mutual choice on a CUDA device, found token"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_runs(sae: Any, train: Any, message: str) -> None:
    with pytest.raises(st.InputError, match=message):
        RunConfig(sae=SaeOptions(**sae), train=st.TrainConfig(**train))


def test_a_chunk_is_a_number_of_features() -> None:
    with pytest.raises(st.InputError, match="feature_chunk: expected at least 1, found 0"):
        SaeOptions(feature_chunk=0)
