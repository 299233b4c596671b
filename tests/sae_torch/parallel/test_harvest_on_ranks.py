"""Processes that share a harvest write the files of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sae_torch as st
from sae_torch.activations import HarvestConfig, LiveReader, StateOfTheUnion, StreamedText, harvest, harvest_sites
from sae_torch.errors import InputError
from tests.sae_torch.parallel.processes import Processes, children_of


@pytest.fixture(scope="module")
def three() -> Iterator[Processes]:
    processes = Processes(3)
    yield processes
    processes.close()


def files_of(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in sorted(cache.rglob("*")) if path.is_file()}


def harvest_there(rank: int, config: HarvestConfig, sites: tuple[str, ...], tokens: int, cache: Path) -> list[float]:
    mesh = st.parallel.mesh(data=3)
    found = harvest_sites(config, sites, "train", tokens, cache, mesh=mesh)
    return [float(each.tensor().double().sum()) for each in found.values()]


# a shard holds about 120 rows; of three processes the last wave makes none too many, or one
@pytest.mark.parametrize("tokens", [300, 500])
def test_the_shards_are_those_of_one_process(
    three: Processes, tiny_harvest: HarvestConfig, tmp_path: Path, tokens: int
) -> None:
    sites = ("hidden_states[2]", "model.layers.0.mlp")
    alone = harvest_sites(tiny_harvest, sites, "train", tokens, tmp_path / "alone")
    found = three.run(harvest_there, tiny_harvest, sites, tokens, tmp_path / "shared")
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")
    assert found == [[float(each.tensor().double().sum()) for each in alone.values()]] * 3


def test_sites_that_have_some_shards_already(three: Processes, tiny_harvest: HarvestConfig, tmp_path: Path) -> None:
    sites = ("hidden_states[2]", "model.layers.0.mlp")
    for cache in (tmp_path / "alone", tmp_path / "shared"):
        harvest(tiny_harvest, "train", 200, cache)
    harvest_sites(tiny_harvest, sites, "train", 420, tmp_path / "alone")
    three.run(harvest_there, tiny_harvest, sites, 420, tmp_path / "shared")
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")


@pytest.fixture
def stream_harvest(tiny_harvest: HarvestConfig, tiny_text: StateOfTheUnion) -> HarvestConfig:
    """Blocks of two shards, of which three processes make three at once."""
    return replace(tiny_harvest, text=StreamedText((str(tiny_text.folder),), held_out=0.0, shuffle=16))


def test_processes_share_a_text_that_streams(three: Processes, stream_harvest: HarvestConfig, tmp_path: Path) -> None:
    sites = ("hidden_states[2]", "model.layers.0.mlp")
    harvest_sites(stream_harvest, sites, "train", 500, tmp_path / "alone")
    three.run(harvest_there, stream_harvest, sites, 300, tmp_path / "shared")
    three.run(harvest_there, stream_harvest, sites, 500, tmp_path / "shared")
    written = [
        {name: data for name, data in files_of(tmp_path / cache).items() if name.endswith(".safetensors")}
        for cache in ("alone", "shared")
    ]
    assert written[0] == written[1]
    reader = LiveReader(stream_harvest, 700, batch_size=50, pool_tokens=150)
    expected = [*reader.from_step(0), *reader.from_step(5), reader.batch(1)]
    for found in three.run(live_there, stream_harvest, 700):
        assert all(map(torch.equal, found, expected))


def live_there(rank: int, config: HarvestConfig, tokens: int) -> list[torch.Tensor]:
    reader = LiveReader(config, tokens, batch_size=50, pool_tokens=150, mesh=st.parallel.mesh(data=3))
    # from the middle, and one that is gone from memory
    return [*reader.from_step(0), *reader.from_step(5), reader.batch(1)]


@pytest.mark.parametrize("tokens", [300, 700])
def test_live_batches_are_those_of_one_process(three: Processes, tiny_harvest: HarvestConfig, tokens: int) -> None:
    """A pool takes one shard or two, of the three that are made at once."""
    alone = LiveReader(tiny_harvest, tokens, batch_size=50, pool_tokens=150)
    expected = [*alone.from_step(0), *alone.from_step(5), alone.batch(1)]
    for found in three.run(live_there, tiny_harvest, tokens):
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


def error_live(rank: int, config: HarvestConfig) -> str:
    reader = LiveReader(config, 10**6, batch_size=50, mesh=st.parallel.mesh(data=3))
    with pytest.raises(InputError) as error:
        next(reader.from_step(0))
    return str(error.value)


def test_more_than_the_text_holds_is_said_by_all_live(three: Processes, tiny_harvest: HarvestConfig) -> None:
    messages = three.run(error_live, tiny_harvest)
    assert len(set(messages)) == 1
    assert messages[0].startswith("tokens: expected at most what the train split holds")


def error_there(rank: int, config: HarvestConfig, tokens: list[int], caches: list[Path]) -> str:
    with pytest.raises(InputError) as error:
        harvest(config, "train", tokens[rank], caches[rank], mesh=st.parallel.mesh(data=3))
    return str(error.value)


def test_what_one_process_cannot_do_is_said_by_all(
    three: Processes, tiny_harvest: HarvestConfig, tmp_path: Path
) -> None:
    shared = [tmp_path / "cache"] * 3
    messages = three.run(error_there, tiny_harvest, [10**6] * 3, shared)
    assert len(set(messages)) == 1
    assert messages[0].startswith("tokens: expected at most what the train split holds")
    other = replace(tiny_harvest, window=9)
    assert (
        three.run(error_there, other, [50, 60, 50], shared)
        == ["harvest: expected the same on every rank, found another on rank 1 than on rank 0"] * 3
    )
    harvest(other, "train", 50, tmp_path / "elsewhere")
    lonely = [tmp_path / "cache", tmp_path / "elsewhere", tmp_path / "cache"]
    assert (
        three.run(error_there, other, [50] * 3, lonely) == ["cache: expected the same on every rank, found 0, 1, 0"] * 3
    )


def command(folder: Path, cache: Path, processes: int) -> list[str | Path]:
    start: list[str | Path] = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    words = ["--tokens", "3000", "--model", folder, "--site", "hidden_states[2]", "--window", "16", "--cache", cache]
    return [*start, "sae_torch", "harvest", *words, "--windows-per-shard", "4"]


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_same_command_goes_on(tiny_model_folder: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tiny_model_folder, tmp_path / "alone", 1), env=environment, check=True, timeout=120)
    for attempt in range(4):
        run = subprocess.Popen(
            command(tiny_model_folder, tmp_path / "shared", 2), env=environment, stderr=subprocess.PIPE
        )
        while len(children := children_of(run.pid)) < 2 and run.poll() is None:
            time.sleep(0.01)
        # while it starts, while it reads the model, while it writes
        time.sleep(2.5 * attempt)
        victim = children[attempt % 2]
        killed = time.monotonic()
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # the run came to its end
            run.communicate()
            break
        said = run.communicate(timeout=60)[1].decode()
        if run.returncode == 0:  # it had done its work by then
            break
        assert said.count("ended without a word") <= 1  # a process that was not waiting for another says nothing
        assert time.monotonic() - killed < 60
    done = subprocess.run(
        command(tiny_model_folder, tmp_path / "shared", 2), env=environment, check=True, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.count("activations of width") == 1
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")


@pytest.mark.slow
def test_the_command_says_an_error_once(tiny_model_folder: Path, tmp_path: Path) -> None:
    words = command(tiny_model_folder, tmp_path, 2)
    words[words.index("hidden_states[2]")] = "hidden_states[9]"
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert done.stderr.count("sae-torch: ") == 1, done.stderr


LOST = """
import os, signal, sys, time
import numpy as np
import sae_torch as st
from sae_torch import cli

st.parallel.mesh(data=3)
ranks = st.parallel.ranks()

class Waiting:
    def run(self):
        if ranks.index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        ranks.gather(np.arange(3))

cli.parse = lambda words: Waiting()
sys.exit(cli.main([]))
"""


@pytest.mark.slow
def test_those_that_are_left_say_who_is_gone_once(tmp_path: Path) -> None:
    script = tmp_path / "lost.py"
    script.write_text(LOST, encoding="utf-8")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", script]
    done = subprocess.run(start, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if "ended without a word" in line]
    assert len(said) == 1, done.stderr
    assert said[0].startswith("sae-torch: rank 1 of 3 ended without a word")
