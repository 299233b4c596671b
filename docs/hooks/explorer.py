"""The answers of the explorer, solved when the site is built and kept until their sources change.

With EXPLORER=empty in the environment they are left out, where a test has no use for them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "scripts" / "explorer_answers.py"
PLACE = "assets/explorer"


def on_files(files: Files, config: Any) -> Files:
    """Add one file for each matrix."""
    if os.environ.get("EXPLORER") == "empty":
        return files
    for answers in sorted(solved().glob("*.js")):
        files.append(File.generated(config, f"{PLACE}/{answers.name}", abs_src_path=str(answers)))
    return files


def solved(cache: Path = ROOT / ".cache" / "explorer") -> Path:
    """The folder with the answers that the sources give now; the script solves them on all cores if it is missing."""
    folder = cache / source_hash()
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as unfinished:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, str(SCRIPT), unfinished], env=environment, check=True, stdout=sys.stderr)
            if not folder.is_dir():  # another build may have been faster
                Path(unfinished).rename(folder)
    return folder


def source_hash() -> str:
    """What the answers depend on: the script and the package."""
    digest = hashlib.sha256()
    for file in [SCRIPT, *sorted((ROOT / "allocation").rglob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
