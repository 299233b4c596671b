"""One run: train in a process of its own, measure, record."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import machine
from benchmarks.study.cell import Cell
from benchmarks.study.code_names import ROOT, code_names
from benchmarks.study.grid import Plan
from benchmarks.study.ledger import FAILED, FINISHED, Records, held, tried
from benchmarks.study.measures import Judged, Measure, lacking
from benchmarks.study.methods import method_of
from benchmarks.study.request import Request
from benchmarks.study.sources import Sources
from benchmarks.study.training import TRAINING, trained

LAST_LINES = 3
# Seconds between runs in which others who wait for the lock get it.
PAUSE = 2.0


def in_a_process(folder: Path, python: Path) -> None:
    """Train in a fresh process, so that its memory and its failure are its own."""
    command = [str(python), "-m", "benchmarks.study.training", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True)


@dataclass(frozen=True)
class Study:
    """Runs what a plan lacks.

    Parameters
    ----------
    plan
        Which runs, in which order.
    records
        What is finished.
    sources
        Activations.
    weights
        Folder for weights, kept for measures that are added later.
    peers
        Python of the environment that holds the peers; None leaves their runs out.
    lock
        A file that is held while a run works, for machines that are shared.
    train
        Trains what a folder asks for with a given Python.
    measures
        What is measured of every run; None for `MEASURES`.
    milestones
        Tokens after which the weights of a longer run are kept too.
    """

    plan: Plan
    records: Records
    sources: Sources
    weights: Path
    peers: Path | None = None
    lock: Path | None = None
    train: Callable[[Path, Path], None] = in_a_process
    measures: tuple[Measure, ...] | None = None
    milestones: tuple[int, ...] = ()

    def __call__(self, most: int | None = None) -> int:
        """Do what is missing, at most so many runs; how many were done."""
        done = 0
        while most is None or done < most:
            with held(self.lock) if self.lock else contextlib.nullcontext(), self._claimed() as cell:
                if cell is None:
                    break
                self.run(cell)
            done += 1
            if self.lock:
                time.sleep(PAUSE)
        return done

    def run(self, cell: Cell) -> None:
        """Train if there are no weights, take what measures lack, and record it; a failed training is recorded as one.

        An error of a measure ends the study: the weights are kept, and it goes on there. A training process that is
        killed ends it too, and its newest state is kept.
        """
        folder = self.weights / cell.folder
        print(f"{cell.name} ...", end=" ", flush=True)
        for split in ("train", cell.split):  # what is wrong with the activations is no failure of the run
            self.sources.folder(cell.source, split)
        error = None if (folder / TRAINING).exists() else self._train(cell, folder)
        if error is None:
            training = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
            line = {"status": FINISHED, "figures": self._figures(cell, folder), "training": training}
        else:
            line = {"status": FAILED, "figures": {}, "error": error}
        self.records.append(cell, {**line, "machine": machine(), "code": code_names(), "finished": _now()})
        if cell.split != "test" or error is not None:
            shutil.rmtree(folder, ignore_errors=True)
        said = error or ", ".join(
            f"{name} {value:.4g}" for name, value in line["figures"].items() if isinstance(value, int | float)
        )
        print(said, flush=True)

    def _figures(self, cell: Cell, folder: Path) -> dict[str, Any]:
        """What the records of a run lack."""
        judged = Judged(cell, trained(cell, folder), self.sources, folder)
        known = self.records.figures(cell) if cell in self.records else {}
        figures: dict[str, Any] = {}
        for measure in lacking(cell, known, self.measures):
            figures |= measure.of(judged)
        return figures

    @contextlib.contextmanager
    def _claimed(self) -> Iterator[Cell | None]:
        """The next run that no other process is at work on, kept from the others; None if there is none."""
        self.records.read()
        for cell in list(self._open()):
            with tried(self.weights / f"{cell.folder}.claim") as mine:
                if not mine:
                    continue
                self.records.read()  # whoever had it may have finished it since
                if cell in self._open():
                    yield cell
                    return
        yield None

    def _open(self) -> Iterator[Cell]:
        """Runs with measures to take, then those to train, in the plan's order."""
        for cell in self.records.cells():
            unmeasured = self.records.status(cell) == FINISHED and lacking(
                cell, self.records.figures(cell), self.measures
            )
            if unmeasured and (self.weights / cell.folder / TRAINING).exists():
                yield cell
        for cell in self.plan.pending(self.records):
            if method_of(cell.method).peer is None or self.peers is not None:
                yield cell

    def _train(self, cell: Cell, folder: Path) -> str | None:
        """Train; what went wrong, if something did."""
        sources, method = self.sources, method_of(cell.method)
        place = sources.folder(cell.source, "train", method.tokens)
        tokens = sources.tokens(cell.source, "train", method.tokens)
        kept = tuple(each for each in self.milestones if each < tokens)
        Request(cell, str(place), tokens, sources.scale.batch, kept).write(folder)
        python = self.peers if method.peer else Path(sys.executable)
        assert python is not None
        try:
            self.train(folder, python)
        except (subprocess.CalledProcessError, ArithmeticError) as error:
            if isinstance(error, subprocess.CalledProcessError) and error.returncode < 0:  # nothing that it did itself
                raise
            return _told(error)
        weights = trained(cell, folder)
        if all(bool(torch.isfinite(weight).all()) for weight in weights.parameters()):
            return None
        return "the weights are not finite after training"


def _told(error: Exception) -> str:
    """The error in a line; of a process, the end of what it said."""
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else f"{type(error).__name__}: {error}"
    return " ".join(" ".join(str(said).strip().splitlines()[-LAST_LINES:]).split())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
