"""Runs notebooks and writes into them what they print and draw, with pictures as SVG.

`python -m docs.scripts.notebooks docs/notebooks/*.ipynb`; the tests run them, and compare what they print.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

# Pictures are the same bytes when they are drawn again, and stay small.
KERNEL = """c.InlineBackend.figure_formats = {"svg"}
c.InlineBackend.print_figure_kwargs = {"metadata": {"Date": None, "Creator": None}, "bbox_inches": "tight"}
c.InlineBackend.rc = {"svg.hashsalt": "notebooks", "svg.fonttype": "none", "font.size": 9}
"""
SECONDS_FOR_A_CELL = 900


def executed(notebook: Path, folder: Path) -> NotebookNode:
    """The notebook with its outputs, run in a kernel of its own whose working folder is given."""
    read = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as home:
        profile = Path(home) / "profile_default"
        profile.mkdir()
        (profile / "ipython_kernel_config.py").write_text(KERNEL, encoding="utf-8")
        with mock.patch.dict(os.environ, {"IPYTHONDIR": home}):
            client = NotebookClient(
                read, timeout=SECONDS_FOR_A_CELL, coalesce_streams=True, resources={"metadata": {"path": str(folder)}}
            )
            client.execute()
    for cell in read.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":  # warnings and progress are of this machine
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return read


def printed(notebook: NotebookNode) -> list[str]:
    """What each cell of code prints or ends with, as text; pictures and cards by their kind."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(_text(output) for output in cell.outputs) for cell in cells]


def _text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text)
    kinds = {"image/svg+xml": "image\n", "text/html": "card\n"}
    return next((name for kind, name in kinds.items() if kind in output.data), f"{output.data['text/plain']}\n")


def main() -> None:
    """Run those that are named, each in an empty folder."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            run = executed(Path(name), Path(folder))
        nbformat.write(run, name)
        print(name)


if __name__ == "__main__":
    main()
