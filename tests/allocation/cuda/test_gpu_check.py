"""`make gpu-check` walks through its stages without a GPU, and without what a machine with a GPU may lack."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu_check, gpu_parity, gpu_selection, gpu_training
from benchmarks.gpu_device import Gpu

ROOT = Path(__file__).parents[3]
# what a machine with a GPU need not have
ABSENT = (
    "tyro",
    "ortools",
    "transformers",
    "gguf",
    "hypothesis",
    "pytest",
    "matplotlib",
    "safetensors",
    "tqdm",
    "cupy",
)


@pytest.mark.slow
def test_every_stage_runs_without_a_card(tmp_path: Path) -> None:
    """The dry run, in a process without what a machine with a GPU may lack; it writes where it is told."""
    before = sorted((ROOT / "benchmarks" / "results").rglob("*"))
    script = (
        f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\n"
        "from benchmarks import gpu_check\nfor stage in gpu_check.ALL:\n"
        f"    sys.argv = ['gpu_check', '--dry', '--stage', stage, '--out', {str(tmp_path)!r}]\n    gpu_check.main()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert {path.stem for path in tmp_path.iterdir()} == set(gpu_check.ALL)
    for name, stage in gpu_check.ALL.items():
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["machine"]["device"] == "dry run"
        assert list(found["parts"]) == list(stage.parts)
        for part, facts in found["parts"].items():
            assert facts["status"] == "done", (part, facts)
            assert "said" in facts or all(len(row) == len(facts["headings"]) for row in facts["rows"])
    assert sorted((ROOT / "benchmarks" / "results").rglob("*")) == before


def test_the_stages_together_take_at_most_seven_minutes() -> None:
    assert sum(stage.seconds for stage in gpu_check.STAGES.values()) <= 420


def test_without_a_card_it_says_so() -> None:
    """One sentence, no traceback."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.strip() == "gpu-check needs a CUDA device; --dry-run walks through it without one"


def test_a_part_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others found is in the file, and the rows of one that breaks off too."""

    def breaks(gpu: Gpu) -> Iterator[list[Any]]:
        yield ["a row", 1, 2.0, 0.5]
        raise ZeroDivisionError("here")

    parts: dict[str, gpu_check.Part] = {"first": lambda gpu: "fine", "profile": breaks, "last": lambda gpu: "fine"}
    monkeypatch.setitem(gpu_check.ALL, "made up", gpu_check.Stage(60, parts))
    assert gpu_check.run_stage("made up", Gpu("cpu"), tmp_path / "card") == ["profile"]
    found = json.loads((tmp_path / "card" / "made up.json").read_text())["parts"]
    assert [found[part]["status"] for part in parts] == ["done", "failed", "done"]
    assert found["profile"]["rows"] == [["a row", 1, 2.0, 0.5]]
    assert found["profile"]["error"] == "ZeroDivisionError: here"
    assert gpu_check.run_stage("made up", Gpu("cpu", seconds=0.0), tmp_path / "card") == list(parts)


def test_a_stage_that_does_not_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file says so, and has nothing of a run before."""

    def ended_by(command: list[str], seconds: float) -> None:
        assert 0 < seconds <= 20
        assert not (tmp_path / "ranks.json").exists()
        record = gpu_check.Record(tmp_path / "ranks.json", "ranks", Gpu("cpu"))
        record.note("done before", status="done")
        record.note("collectives", status="running")

    monkeypatch.setattr(gpu_check, "ended_by", ended_by)
    (tmp_path / "ranks.json").write_text("{}")
    assert not gpu_check.in_own_process("ranks", ["--dry-run"], tmp_path)
    found = json.loads((tmp_path / "ranks.json").read_text())["parts"]
    assert [part["status"] for part in found.values()] == ["done", "cut off"]


def test_what_is_cut_off_leaves_nothing_running(tmp_path: Path) -> None:
    """Its children neither: they would go on using the device that the next stage measures."""
    file = tmp_path / "child"
    assert gpu_check.ended_by(["sh", "-c", f"sleep 60 & echo $! > {file}; wait"], 2.0) is None
    status = Path(f"/proc/{int(file.read_text())}/status")
    for _ in range(100):  # what is killed takes a moment
        if not status.exists() or "zombie" in status.read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("it still runs")
    assert gpu_check.ended_by([sys.executable, "-c", "raise SystemExit(7)"], 30.0) == 7


def test_a_process_that_dies_costs_one_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one takes the parts after it; their facts come into the same file."""
    calls = []

    def good(gpu: Gpu) -> str:
        return "fine"

    def ended_by(command: list[str], seconds: float) -> int:
        calls.append(command)
        assert 0 < seconds <= 60
        parts = command[command.index("--parts") + 1].split(",") if "--parts" in command else None
        try:
            return 1 if gpu_check.run_stage("made up", Gpu("cpu"), tmp_path, parts) else 0
        except SystemExit as left:
            return int(str(left.code))

    monkeypatch.setattr(gpu_check, "ended_by", ended_by)
    parts: dict[str, gpu_check.Part] = dict.fromkeys(("first", "fatal", "third", "last"), good)
    monkeypatch.setitem(gpu_check.ALL, "made up", gpu_check.Stage(60, parts))
    answers = iter([True, False, True, True])
    monkeypatch.setattr(Gpu, "answers", lambda self: next(answers))
    assert not gpu_check.in_own_process("made up", [], tmp_path)
    assert [command[command.index("--parts") + 1] for command in calls[1:]] == ["third,last"]
    found = json.loads((tmp_path / "made up.json").read_text())["parts"]
    assert {part: facts["status"] for part, facts in found.items()} == dict.fromkeys(parts, "done")

    # one that dies without a word is marked, and the rest is still run
    monkeypatch.setattr(Gpu, "answers", lambda self: True)

    def dies(gpu: Gpu) -> str:
        raise SystemExit(-11)

    parts["fatal"] = dies
    calls.clear()
    assert not gpu_check.in_own_process("made up", [], tmp_path)
    found = json.loads((tmp_path / "made up.json").read_text())["parts"]
    assert [facts["status"] for facts in found.values()] == ["done", "the process ended with -11", "done", "done"]
    assert len(calls) == 2


@pytest.mark.slow
def test_a_stage_counts_its_start(tmp_path: Path) -> None:
    """A slow import takes from the time of its parts, not from that of the next stage: none begins that cannot end."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--dry", "--stage", "ranks", "--out", str(tmp_path)]
    run = subprocess.run(
        [*command, "--deadline", str(time.time() + 5)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert json.loads((tmp_path / "ranks.json").read_text())["parts"]["collectives"]["status"] == "no time left"


def test_the_sparse_ops_run_once() -> None:
    gpu_parity.ops_once("cpu")


def test_a_peer_that_fails_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sentence is the result; where it runs, both types are timed."""
    monkeypatch.setattr(gpu_selection.util, "find_spec", lambda name: object())
    calls: list[Any] = []

    def top_k(scores: torch.Tensor, k: int, deterministic: bool = False) -> Any:
        calls.append((scores.dtype, k, deterministic))
        return torch.topk(scores, k)

    monkeypatch.setitem(sys.modules, "flashinfer", SimpleNamespace(top_k=top_k))
    rows = gpu_selection.flashinfer_rows(Gpu("cpu"))
    assert not isinstance(rows, str)
    assert [len(row) for row in rows] == [len(gpu_selection.FLASHINFER_HEADINGS)] * 2
    assert {call[1:] for call in calls} == {(32, True)}
    monkeypatch.setitem(sys.modules, "flashinfer", SimpleNamespace(top_k=None))
    assert "not run: TypeError" in str(gpu_selection.flashinfer_rows(Gpu("cpu")))


def test_a_summary_says_what_is_missing(tmp_path: Path) -> None:
    """Stages without a word, parts that did not end, and targets."""
    folder = tmp_path
    record = gpu_check.Record(folder / "selection.json", "selection", Gpu("cpu"))
    record.note("selections", status="done", rows=[["rows", "float32", 9, 1.0, "missed 1 x topk"], ["a", "b", 3, ""]])
    record.note("flashinfer", status="done", said="not run: flashinfer is missing")
    record.note("other", status="failed", error="ZeroDivisionError: here")
    lines = list(gpu_check.summary(folder))
    assert lines[:3] == [
        "parity: nothing was written",
        "races: nothing was written",
        "selections, rows, float32, 9: missed 1 x topk",
    ]
    assert lines[3:5] == ["flashinfer: done not run: flashinfer is missing", "other: failed ZeroDivisionError: here"]


def test_targets_are_judged() -> None:
    assert gpu_selection.verdicts("whole", 1.9, 8.5, 1.1) == "met 2 reads, met 8 x topk, missed 1.3 x warm"
    assert gpu_selection.verdicts("columns", 9.0, 3.0, 1.0) == "missed 4 x topk"
    times = {"encoder product": 10.0, "mutual choice": 12.0, "sparsify": 15.0}
    said = gpu_training.verdicts("mutual choice", torch.bfloat16, times)
    assert said == "met 1.25 x product, missed 1.3 x sparsify"
    assert gpu_training.verdicts("mutual choice", torch.float32, times) == ""
