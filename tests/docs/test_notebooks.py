"""Every notebook runs in a kernel of its own, and prints what it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from docs.hooks.notebooks import page
from docs.scripts.notebooks import printed
from docs.scripts.page_blocks import agrees

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# What is trained differs between processors in the last digits of its figures.
TRAINED = ("activation", "dashboard")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_it_runs_and_prints_what_it_shows(notebook: Path, tmp_path: Path) -> None:
    copy = tmp_path / notebook.name
    copy.write_bytes(notebook.read_bytes())
    # a process of its own: the client's threads and sockets warn when they are left to the collector
    run = [sys.executable, "-m", "docs.scripts.notebooks", str(copy)]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    shown, now = (printed(nbformat.read(file, as_version=4)) for file in (notebook, copy))
    assert len(shown) == len(now) > 4
    for number, (was, prints) in enumerate(zip(shown, now, strict=True)):
        assert agrees(prints, was, notebook.stem in TRAINED), f"cell of code {number} prints:\n{prints}"


def test_all_doors_have_one() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["activation", "constraint", "dashboard", "gallery"]
    for notebook in NOTEBOOKS:
        shown = printed(nbformat.read(notebook, as_version=4))
        assert any("image" in text or text for text in shown), f"{notebook.name} was not run"


def test_a_page_shows_code_then_what_it_gave_and_a_gallery_the_picture_first() -> None:
    svg = {"output_type": "display_data", "data": {"image/svg+xml": ["<?xml?>", "<svg>x</svg>"], "text/plain": ["f"]}}
    text = {"output_type": "stream", "name": "stdout", "text": ["1"]}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "raw", "source": ["unseen"]},
        {"cell_type": "code", "source": ["print(1)"], "outputs": [text, svg]},
    ]
    made = page({"cells": cells}, "constraint")
    assert made.startswith("# Title\ntext\n\nThe notebook, to run it yourself: [constraint.ipynb]")
    assert "(constraint.ipynb" in made
    parts = ("print(1)", '```text title="Output"\n1\n```', "data:image/svg+xml;base64,PHN2Zz54")
    places = [made.index(part) for part in parts]
    assert places == sorted(places)
    assert 'alt="Title"' in made
    assert "unseen" not in made
    gallery = page({"cells": cells}, "gallery")
    assert gallery.index("<img") < gallery.index("print(1)")
