"""What is finished: a file with one JSON line per run, and what can be asked of it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout, lock_descriptor

from sae_torch.files import write_text

if TYPE_CHECKING:
    from benchmarks.study.cell import Cell

FINISHED, FAILED = "finished", "failed"


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder that exists; others who ask for it wait."""
    descriptor = os.open(path, os.O_RDONLY)  # a FileLock opens no folder
    try:
        lock_descriptor(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Hold the lock of a file, there only meanwhile, unless another process holds it: whether it is held here.

    Who gets the lock after another must look again at what that one did.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # whoever waits for it sees that it is gone, and makes another
        lock.release()


class Records:
    """The lines of a file. Later lines of a run add figures to it: measures that came after its training.

    Parameters
    ----------
    file
        Made when the first line is written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines: dict[Cell, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """Read the file again: others may have appended to it."""
        from benchmarks.study.cell import Cell

        self._lines = {}
        if not self.file.exists():
            return
        for number, text in enumerate(self.file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                line = json.loads(text)
                cell = Cell(**line["cell"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{self.file}, line {number}: not a record of the study ({error})") from error
            before = self._lines.get(cell)
            if before is None:
                self._lines[cell] = line
            else:
                before["figures"] = {**before["figures"], **line["figures"]}

    def append(self, cell: Cell, line: Mapping[str, Any]) -> None:
        """Add a line: the file afterwards holds all of it, or is as it was.

        Raises
        ------
        ValueError
            If the run is there and the line is not one of added figures: nothing is recorded twice.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with held(self.file.parent):
            self.read()
            if cell in self and set(line["figures"]) <= set(self._lines[cell]["figures"]):
                raise ValueError(f"{self.file}: {cell.name} is recorded already")
            whole = json.dumps({"cell": asdict(cell), **line}) + "\n"
            before = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
            write_text(self.file, before + whole)
        self.read()

    def __contains__(self, cell: object) -> bool:
        return cell in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def cells(self) -> Iterator[Cell]:
        """Every recorded run, in the order of the file."""
        return iter(tuple(self._lines))

    def status(self, cell: Cell) -> str | None:
        """``"finished"``, ``"failed"`` or None."""
        return self._lines[cell]["status"] if cell in self._lines else None

    def line(self, cell: Cell) -> Mapping[str, Any]:
        """All that is recorded of a run."""
        return self._lines[cell]

    def figures(self, cell: Cell) -> Mapping[str, Any]:
        """Its figures by name; none where it failed."""
        return self._lines[cell]["figures"]

    def figure(self, cell: Cell, name: str) -> float:
        """One figure; NaN where the run has none of that name."""
        value = self.figures(cell).get(name) if cell in self._lines else None
        return float("nan") if value is None else float(value)
