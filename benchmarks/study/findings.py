"""What the records say: runs of a method side by side, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.study.cell import Cell, Setting
from benchmarks.study.grid import Block, Plan
from benchmarks.study.ledger import FINISHED, Records


@dataclass(frozen=True)
class Runs:
    """The finished test runs of one method in one setting at one learning rate, by seed.

    Parameters
    ----------
    records
        Where their figures are.
    cells
        In the order of their seeds.
    planned
        How many seeds there should be.
    second
        Whether their rate is not the best, but the best without dead features.
    """

    records: Records
    cells: tuple[Cell, ...]
    planned: int
    second: bool = False

    @property
    def method(self) -> str:
        """What they have in common."""
        return self.cells[0].method

    @property
    def label(self) -> str:
        """Method and auxiliary loss, and whether the rate is the second one."""
        auxiliary = self.cells[0].auxiliary
        label = self.method if auxiliary == "none" else f"{self.method}, aux {auxiliary}"
        return f"{label} (rate without dead features)" if self.second else label

    @property
    def learning_rate(self) -> float:
        """Of all of them."""
        return self.cells[0].learning_rate

    @property
    def complete(self) -> bool:
        """Whether every seed has run."""
        return len(self.cells) == self.planned

    def all(self, figure: str) -> list[float]:
        """A figure of every seed that has it."""
        values = [self.records.figure(cell, figure) for cell in self.cells]
        return [value for value in values if value == value]

    def mean(self, figure: str) -> float:
        """Its mean over the seeds; NaN where there is none."""
        values = self.all(figure)
        return statistics.fmean(values) if values else float("nan")

    def by_seed(self, figure: str) -> dict[int, float]:
        """A figure by seed."""
        return {cell.seed: self.records.figure(cell, figure) for cell in self.cells}


@dataclass(frozen=True)
class Findings:
    """The finished part of a plan.

    Parameters
    ----------
    plan, records
        What was to be run, and what has been.
    """

    plan: Plan
    records: Records

    @property
    def settings(self) -> Sequence[Setting]:
        """Where runs are compared."""
        return self.plan.settings_by(self.records)

    def of(self, setting: Setting, method: str, auxiliary: str = "none") -> Runs | None:
        """The runs of a method at its best learning rate; None where none has finished."""
        return next(iter(self.all_of(setting, method, auxiliary)), None)

    def all_of(self, setting: Setting, method: str, auxiliary: str = "none") -> list[Runs]:
        """The same, and after it those at its best rate without dead features, where that is another."""
        cells = self.plan.test_cells(Block(setting, (method,), auxiliary), method, self.records)
        finished = [cell for cell in cells if self.records.status(cell) == FINISHED]
        best = self.plan.chosen_rate(setting, method, self.records)
        planned = self._seeds(setting, method, auxiliary)
        found = []
        for rate in dict.fromkeys(cell.learning_rate for cell in finished):
            same = tuple(cell for cell in finished if cell.learning_rate == rate)
            found.append(Runs(self.records, same, planned, second=rate != best))
        return found

    def _seeds(self, setting: Setting, method: str, auxiliary: str) -> int:
        """How many seeds a method has in a setting: a later block may ask for more of them."""
        seeds = [
            len(self.plan.seeds[: block.seeds])
            for block in self.plan.blocks_by(self.records)
            if (block.setting, block.auxiliary) == (setting, auxiliary) and method in block.methods
        ]
        return max(seeds, default=len(self.plan.seeds))

    def among(self, setting: Setting, methods: Sequence[str]) -> list[Runs]:
        """All finished runs of methods in a setting, with every auxiliary loss."""
        auxiliaries = dict.fromkeys(
            block.auxiliary for block in self.plan.blocks_by(self.records) if block.setting == setting
        )
        return [
            runs for method in methods for auxiliary in auxiliaries for runs in self.all_of(setting, method, auxiliary)
        ]

    @staticmethod
    def best(runs: Sequence[Runs], figure: str = "nmse_at_k") -> Runs | None:
        """The one with the least mean."""
        with_figure = [each for each in runs if each.all(figure)]
        return min(with_figure, key=lambda each: each.mean(figure)) if with_figure else None


def pairs(ours: Runs, theirs: Runs, figure: str, other: str | None = None) -> list[tuple[float, float]]:
    """A figure of both, or `other` of theirs, for every seed that both have."""
    left, right = ours.by_seed(figure), theirs.by_seed(other or figure)
    both = [(left[seed], right[seed]) for seed in left if seed in right]
    return [(a, b) for a, b in both if a == a and b == b]
