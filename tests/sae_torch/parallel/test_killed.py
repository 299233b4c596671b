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
KILLS = int(os.environ.get("KILLS", "5"))


def command(folder: Path, out: str) -> list[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sae_torch"]
    sae = ["--sae.choice", "feature", "--sae.n-features", "61", "--sae.k", "4", "--checkpoints.every", "20"]
    read = ["--activations", str(folder / "x.npy"), "--reader.batch-size", "130"]
    return [*launch, "train", "--out", str(folder / out), *read, *sae, "--parallel.data", "2"]


@pytest.mark.slow
def test_a_run_whose_processes_are_killed_ends_in_the_same_bits(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", torch.cat(batches(400, torch.float32)).numpy())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    subprocess.run(command(tmp_path, "whole"), env=environment, check=True, timeout=240, capture_output=True)
    whole = time.monotonic() - started
    draw = random.Random(KILLS)
    named = 0
    for _ in range(KILLS):
        run = subprocess.Popen(
            command(tmp_path, "killed"), env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        while len(children := children_of(run.pid)) < 2 and run.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, whole))
        if run.poll() is not None:
            run.communicate()
            break
        killed, victim = time.monotonic(), draw.choice(children)
        os.kill(victim, signal.SIGKILL)
        said = run.communicate(timeout=60)[1].decode()
        assert time.monotonic() - killed < 60
        assert run.returncode != 0
        told = [line for line in said.splitlines() if line.startswith("sae-torch: ")]
        assert len(told) <= 1, said  # none where it died before the two had met
        named += sum("ended without a word" in line for line in told)
    assert named or KILLS < 5
    subprocess.run(command(tmp_path, "killed"), env=environment, check=True, timeout=240, capture_output=True)
    weights = [(tmp_path / out / "feature-k4" / "sae_weights.safetensors").read_bytes() for out in ("whole", "killed")]
    assert weights[0] == weights[1]
