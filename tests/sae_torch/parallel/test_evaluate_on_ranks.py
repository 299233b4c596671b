"""`evaluate` on several processes: the file that one process writes, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import sae_torch as st
from sae_torch.activations import HarvestConfig, harvest, plan
from sae_torch.commands.evaluate import Evaluate
from tests.sae_torch.parallel.processes import Processes


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2)
    yield processes
    processes.close()


def text_of(rank: int, command: Evaluate) -> str:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        command.run()
    except (st.InputError, OSError) as error:
        return str(error)
    finally:
        torch.set_num_threads(threads)
    return "no error"


def test_processes_share_the_autoencoders_and_the_windows(
    two: Processes, tiny_harvest: HarvestConfig, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Three autoencoders on two processes, and the loss of 9 windows in two batches."""
    held_out = harvest(tiny_harvest, "test", 300, tmp_path / "cache")
    folders = []
    for name, choice in (
        ("token", st.TokenChoice(4)),
        ("mutual", st.MutualChoice(4)),
        ("feature", st.FeatureChoice(4)),
    ):
        sae = st.SparseAutoencoder(held_out.d_model, 24, choice)
        st.Trainer(sae, st.TrainConfig(progress=False)).fit([held_out.tensor(torch.float32)] * 3)
        folders.append(st.save(sae, tmp_path / name))
    activations = plan(tiny_harvest, "test", 1, tmp_path / "cache").folder

    def command(out: str) -> Evaluate:
        return Evaluate(
            tuple(folders), activations, out=tmp_path / out, model=str(tiny_model_folder), loss_windows=9,
            batch_sizes=(64,), pages=5,
        )  # fmt: skip

    assert text_of(0, command("one.json")) == "no error"
    assert two.run(text_of, command("two.json")) == ["no error"] * 2
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    refused = two.run(text_of, command("two.json"))  # it is there already, and stays
    assert refused[0] == refused[1]
    assert "exists already" in refused[0]


def text_there(rank: int, autoencoder: Path, activations: list[Path], out: Path) -> str:
    return text_of(rank, Evaluate((autoencoder,), activations[rank], out=out))


def test_processes_that_read_other_activations_are_named(two: Processes, tmp_path: Path) -> None:
    sae = st.SparseAutoencoder(4, 8, st.TokenChoice(2))
    for name, rows in (("x.npy", 50), ("y.npy", 60)):
        np.save(tmp_path / name, np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32))
    given = [tmp_path / "x.npy", tmp_path / "y.npy"]
    messages = two.run(text_there, st.save(sae, tmp_path / "sae"), given, tmp_path / "out.json")
    assert messages == ["activations: expected the same on every rank, found another on rank 1 than on rank 0"] * 2
    assert not (tmp_path / "out.json").exists()
    given[1] = tmp_path / "nowhere.npy"
    messages = two.run(text_there, tmp_path / "sae", given, tmp_path / "out.json")
    assert messages[0] == messages[1]
    assert "nowhere.npy" in messages[0]
