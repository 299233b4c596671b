"""``kill -9`` at any moment, then the same command: real processes, whole process groups, and the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sae_torch.training.same_bits import assert_same_bits

KILLS = 4
SHARDS, STEPS, SWITCH = 12, 90, 45
pytestmark = pytest.mark.slow


class Command:
    """A training by the command line, in a folder of its own, with a harvest of its own."""

    def __init__(self, folder: Path, model: Path, text: Path) -> None:
        self.out, self.cache = folder / "run", folder / "cache"
        # 16 windows of 15 tokens a shard, each window a pass of its own so that shards take their time
        self.words = [sys.executable, "-m", "sae_torch", "train", "--out", str(self.out)]
        self.words += ["--harvest.cache", str(self.cache), "--harvest.model", str(model), "--harvest.text", str(text)]
        self.words += ["--harvest.site", "hidden_states[2]", "--harvest.window", "16", "--harvest.dtype", "float32"]
        self.words += ["--harvest.windows-per-shard", "16", "--harvest.windows-per-batch", "1"]
        self.words += ["--harvest.tokens", str(SHARDS * 240)]
        self.words += ["--reader.batch-size", "64", "--reader.passes", "2", "--sae.n-features", "2048", "--sae.k", "4"]
        self.words += ["--sweep.choice", "mutual", "feature", "--sae.switch", "0.5", "--checkpoints.every", "5"]
        self.words += ["--train.calibration", "1.0", "--train.k-start", "8", "--train.dead-after", "200"]

    def start(self) -> subprocess.Popen[str]:
        """The process, leader of a group of its own; one thread each, since others wait for the same cores."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_MININTERVAL": "0"}
        with (self.out.parent / "stderr").open("a") as said:
            return subprocess.Popen(
                self.words, start_new_session=True, text=True, env=environment, stdout=subprocess.DEVNULL, stderr=said
            )

    def finish(self) -> None:
        """Run to the end."""
        assert self.start().wait(timeout=300) == 0, self.said()[-2000:]

    def said(self) -> str:
        """All that its processes wrote."""
        path = self.out.parent / "stderr"
        # a bar's character may be half there: one being written, or one whose writer was killed
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def shards(self) -> int:
        """Finished shards."""
        return len(list(self.cache.rglob("[0-9]*.safetensors")))

    def step(self) -> int:
        """Step of the newest checkpoint."""
        names = [path.name for path in (self.out / "checkpoints").glob("step-*")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def is_writing(self) -> bool:
        """Whether a checkpoint is half written."""
        return any((self.out / "checkpoints").glob(".step-*.tmp"))

    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return (self.out / "checkpoints" / "finished").exists()

    def resumptions(self) -> int:
        """How often a process has loaded a checkpoint."""
        return self.said().count("going on from")

    def kill_when(self, due: Callable[[], bool], delay: float = 0.0) -> bool:
        """Start, kill the whole group as soon as `due`; False if the process ended by itself.

        Never before the process has loaded the checkpoint there is: what the last kill left looks `due` at once.
        """
        loaded = self.resumptions() + (self.step() > 0)
        process = self.start()
        while self.resumptions() < loaded or not due():
            if process.poll() is not None:
                assert process.returncode == 0, self.said()[-2000:]
                return False
            time.sleep(0.0005)
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def test_killed_in_every_phase_the_result_is_that_of_a_run_in_peace(tiny_model_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    draw = random.Random(3)
    words = [f"w{number}" for number in range(60)]  # those the tiny model knows
    for index in range(40):
        (text / f"{index:02d}.txt").write_text(" ".join(draw.choices(words, k=200)))
    peace, war = (Command(tmp_path / name, tiny_model_folder, text) for name in ("peace", "war"))
    for command in (peace, war):
        command.out.parent.mkdir()
    peace.finish()

    kills = dict.fromkeys(("harvest", "before the switch", "after the switch", "checkpoint write", "calibration"), 0)

    def strike(phase: str, due: Callable[[], bool], inside: Callable[[], bool], delay: float = 0.0) -> None:
        """Kill once in a phase; what it left shows whether it was there."""
        for _ in range(6):
            if war.kill_when(due, delay) and inside():
                kills[phase] += 1
                return
        raise AssertionError(f"no kill found the process in: {phase}")

    for number in range(KILLS):
        want = 1 + 2 * number
        strike("harvest", lambda want=want: war.shards() >= want, lambda: war.shards() < SHARDS and war.step() == 0)
    for number in range(KILLS):
        want = 5 * (number + 1)
        delay = draw.random() / 20
        strike("before the switch", lambda want=want: war.step() >= want, lambda: 0 < war.step() < SWITCH, delay)
    for _ in range(KILLS):
        strike("checkpoint write", war.is_writing, war.is_writing)
    for number in range(KILLS):
        want = SWITCH + 5 + 5 * number
        delay = draw.random() / 20
        strike("after the switch", lambda want=want: war.step() >= want, lambda: SWITCH < war.step() < STEPS, delay)
    for _ in range(KILLS):
        seen = war.said().count("calibrating")
        strike(
            "calibration",
            lambda seen=seen: war.said().count("calibrating") > seen,
            lambda: war.step() == STEPS and not war.is_finished(),
            draw.random() / 50,
        )
    war.finish()
    assert set(kills.values()) == {KILLS}
    assert sum(kills.values()) >= 20
    assert war.resumptions() >= 4 * KILLS  # the four phases of training, less the first kill, and the run to the end
    assert_same_bits(peace.out, war.out)
