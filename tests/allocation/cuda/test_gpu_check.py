"""`make gpu-check` walks through its parts without a card, and without what a machine with a card may lack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
# what a machine with a card need not have
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
