"""A process of a run is killed: the others end soon, and the same command goes on to the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.sae_torch.parallel.processes import children_of
from tests.sae_torch.parallel.runs import batches

# More than this many moments were tried by hand; each takes some seconds to start again.
KILLS = int(os.environ.get("KILLS", "4"))


def command(folder: Path, out: str, along: str) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sae_torch"]
    sae = ["--sae.choice", "feature", "--sae.n-features", "61", "--sae.k", "4", "--checkpoints.every", "20"]
    read = ["--activations", str(folder / "x.npy"), "--reader.batch-size", "130"]
    return [
        *launch,
        "train",
        "--out",
        str(folder / out),
        *read,
        *sae,
        f"--parallel.{along}",
        "2",
        "--metrics.every",
        "5",
    ]


def has_begun(folder: Path, after: float) -> bool:
    """Whether the processes have met and hold the folder."""
    return (folder / "config.toml").exists() and (folder / "config.toml").stat().st_mtime > after


def lines_of(log: Path) -> int:
    """How many records a log has; none where there is no log yet."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("along", ["data", "features"])
def test_a_run_whose_processes_are_killed_ends_in_the_same_bits(along: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", torch.cat(batches(400, torch.float32)).numpy())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run(command(tmp_path, "whole", along), env=environment, check=True, timeout=240, capture_output=True)
    whole = time.monotonic() - started
    draw = random.Random(KILLS)
    named = 0
    for number in range(KILLS):
        begun = time.time()
        run = subprocess.Popen(
            command(tmp_path, "killed", along), env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        while len(children := children_of(run.pid)) < 2 and run.poll() is None:
            time.sleep(0.01)
        # every other one after they have met, which takes most of the time
        while number % 2 and run.poll() is None and not has_begun(tmp_path / "killed", begun):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, whole if number % 2 == 0 else whole / 5))
        killed, victim = time.monotonic(), draw.choice(children)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:  # the run came to its end
            run.communicate()
            break
        said = run.communicate(timeout=60)[1].decode()
        assert time.monotonic() - killed < 60
        assert run.returncode != 0
        told = [line for line in said.splitlines() if line.startswith("sae-torch: ")]
        assert len(told) <= 1, said  # none where it died before the two had met
        named += sum("ended without a word" in line for line in told)
    assert named or KILLS < 4
    subprocess.run(command(tmp_path, "killed", along), env=environment, check=True, timeout=240, capture_output=True)
    weights = [(tmp_path / out / "feature-k4" / "sae_weights.safetensors").read_bytes() for out in ("whole", "killed")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_writes_one_checkpoint_and_goes_on(tmp_path: Path) -> None:
    """SIGTERM to torchrun, and Ctrl-C, which every process of the terminal gets."""
    np.save(tmp_path / "x.npy", torch.cat(batches(100, torch.float32)).numpy())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = tmp_path / "stopped" / "metrics.jsonl"
    for number in (signal.SIGTERM, signal.SIGINT):
        before = lines_of(log)
        run = subprocess.Popen(
            command(tmp_path, "stopped", "features"), env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        while run.poll() is None and lines_of(log) <= before:  # a run that goes on opens the log before it trains
            time.sleep(0.01)
        asked = time.monotonic()
        if number == signal.SIGTERM:
            run.send_signal(number)
        else:
            os.killpg(run.pid, number)
        said = run.communicate(timeout=60)[1].decode()
        assert time.monotonic() - asked < 60
        assert said.count("Interrupted after step") == 1, said
        assert "resume with: torchrun --nproc-per-node 2 -m sae_torch train" in said
        assert "ended without a word" not in said
    subprocess.run(command(tmp_path, "stopped", "features"), env=environment, check=True, timeout=240)
    subprocess.run(command(tmp_path, "whole", "features"), env=environment, check=True, timeout=240)
    weights = [(tmp_path / out / "feature-k4" / "sae_weights.safetensors").read_bytes() for out in ("whole", "stopped")]
    assert weights[0] == weights[1]
