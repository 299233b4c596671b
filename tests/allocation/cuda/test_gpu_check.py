"""`make gpu-check` walks through its stages without a GPU, and without what a machine with a GPU may lack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check, gpu_selection, gpu_training
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
    """Its process is ended, and its file says so."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(gpu_check.ALL, "ranks", gpu_check.Stage(0.5, {}))
    record = gpu_check.Record(tmp_path / "ranks.json", "ranks", Gpu("cpu"))
    record.note("done before", status="done")
    record.note("collectives", status="running")
    assert not gpu_check.in_own_process("ranks", ["--dry-run"], tmp_path)
    found = json.loads((tmp_path / "ranks.json").read_text())["parts"]
    assert [part["status"] for part in found.values()] == ["done", "cut off"]


def test_targets_are_judged() -> None:
    assert gpu_selection.verdicts("whole", 1.9, 8.5, 1.1) == "met 2 reads, met 8 x topk, missed 1.3 x warm"
    assert gpu_selection.verdicts("columns", 9.0, 3.0, 1.0) == "missed 4 x topk"
    times = {"encoder product": 10.0, "mutual choice": 12.0, "sparsify": 15.0}
    said = gpu_training.verdicts("mutual choice", torch.bfloat16, times)
    assert said == "met 1.25 x product, missed 1.3 x sparsify"
    assert gpu_training.verdicts("mutual choice", torch.float32, times) == ""
