"""`make gpu-check` walks through its parts without a GPU, and without what a machine with a GPU may lack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check, gpu_device, gpu_selection, harness

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
def test_every_part_runs_without_a_card() -> None:
    """The dry run, in a process of its own; nothing is written."""
    before = sorted((ROOT / "benchmarks" / "results").iterdir())
    script = (
        f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\n"
        "sys.argv = ['gpu_check', '--dry-run']\nfrom benchmarks.gpu_check import main\nmain()"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    for part in (
        "refusals",
        "small parity",
        "large parity",
        "nested parity",
        "two-sided parity",
        "exact steps",
        "training parity",
        "no waiting",
        "graph capture",
        "steps without waiting",
        "captured steps",
        "largest autoencoder",
        "beyond 32 bits",
        "sanitizer",
        "selections",
        "training steps",
    ):
        assert f"\n{part}: " in f"\n{run.stdout}", run.stdout
    assert sorted((ROOT / "benchmarks" / "results").iterdir()) == before


def test_without_a_card_it_says_so() -> None:
    """One sentence, no traceback."""
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.strip() == "gpu-check needs a CUDA device; --dry-run walks through it without one"


@pytest.mark.slow
def test_every_part_is_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come back from it; one that fails, or does not end, is named, and the others run."""
    run = subprocess.run

    def dry(command: list[str], timeout: float, **options: Any) -> Any:
        if "nested parity" in command:
            raise subprocess.TimeoutExpired(command, timeout)
        part = "--part" if "no waiting" not in command else "--no-such-option"
        command = [part if word == "--part" else word for word in command]
        return run([*command, "--dry-run"], timeout=timeout, cwd=ROOT, **options)

    names = ("refusals", "nested parity", "no waiting", "selections")
    monkeypatch.setattr(gpu_check, "PARTS", {name: gpu_check.PARTS[name] for name in names})
    monkeypatch.setattr(gpu_check.subprocess, "run", dry)
    monkeypatch.setattr(gpu_device.torch.cuda, "get_device_name", lambda: "A Gpu")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    assert gpu_check.check_gpu() == ["nested parity", "no waiting"]
    written = json.loads((tmp_path / "a_gpu.json").read_text())
    assert written["headings"] == gpu_selection.HEADINGS
    assert len(written["rows"]) == 8
