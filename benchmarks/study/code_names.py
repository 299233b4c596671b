"""Which code a run was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Where the code lies that a run depends on.
PACKAGES = ("allocation", "sae_torch", "benchmarks/study")


def code_names() -> dict[str, str]:
    """Git's names of the trees that hold the code, with a plus sign where files differ from them."""
    found = {}
    for package in PACKAGES:
        name = _git("rev-parse", "--short=12", f"HEAD:{package}") or "unknown"
        found[package] = name + ("+" if _git("status", "--porcelain", "--", package) else "")
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
