"""Which runs there are, and in which order: the most telling first, so that partial results mean something.

In each setting a method's learning rate is searched on the development split with one seed; then it is trained with
every seed and judged on the test split. What comes next therefore depends on what is finished.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.study.cell import Cell, Setting
from benchmarks.study.ledger import FAILED, FINISHED, Records
from benchmarks.study.methods import (
    BATCH_TOP_K,
    FLOORS,
    LARGER_FLOORS,
    LET_GO,
    LONGER,
    METHODS,
    MUTUAL,
    MUTUAL_THEN_FEATURE,
    PEERS,
    SPARSIFY,
    TOKEN,
    method_of,
)


@dataclass(frozen=True)
class Block:
    """Methods that run in one setting, with one auxiliary loss.

    Parameters
    ----------
    setting
        Where they run.
    methods
        In the order in which they run.
    auxiliary
        ``"none"``, ``"k"`` or ``"zipf"``.
    as_wide_as
        A method: the width is the number of features that it leaves alive in the setting, so that more live features
        cannot be what is gained.
    rates_of
        Where these methods' learning rates are searched, if not in the setting itself.
    seeds
        How many of the seeds run.
    """

    setting: Setting
    methods: tuple[str, ...]
    auxiliary: str = "none"
    as_wide_as: str | None = None
    rates_of: Setting | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class Plan:
    """All runs of a study.

    Parameters
    ----------
    blocks
        In the order in which they run.
    rates
        Learning rates that are tried first, in this order; the search goes on while the best is at an end.
    factor
        By which it goes on.
    seeds
        Of the runs on the test split; the first is that of the search.
    most_rates
        Where the search ends.
    """

    blocks: tuple[Block, ...]
    rates: tuple[float, ...] = (4e-3, 8e-3, 2e-3)
    factor: float = 2.0
    seeds: tuple[int, ...] = (0, 1, 2)
    most_rates: int = 6

    def pending(self, records: Records) -> Iterator[Cell]:
        """Runs that are known to be missing, each once, in order; a search shows only its next step."""
        shown: set[Cell] = set()
        for cell in self._pending(records):
            if cell not in shown:
                shown.add(cell)
                yield cell

    def blocks_by(self, records: Records) -> Iterator[Block]:
        """The blocks whose settings are known: a width that follows from runs needs those first."""
        for block in self.blocks:
            if block.as_wide_as is None:
                yield block
                continue
            cells = self.test_cells(Block(block.setting, ()), block.as_wide_as, records)
            silent = [records.figure(cell, "silent") for cell in cells if records.status(cell) == FINISHED]
            if len(silent) >= len(self.seeds):
                width = block.setting.n_features - round(sum(silent) / len(silent))
                yield replace(block, setting=replace(block.setting, n_features=width), as_wide_as=None)

    def settings_by(self, records: Records) -> Sequence[Setting]:
        """Their settings, each once, in order."""
        return tuple(dict.fromkeys(block.setting for block in self.blocks_by(records)))

    def _pending(self, records: Records) -> Iterator[Cell]:
        for block in self.blocks_by(records):
            # a rate, then a seed, of every method before the next: whenever it ends, methods can be compared
            searches = [self._search(self._searched_in(block.setting, m), m, records) for m in block.methods]
            yield from (cell for cell in _in_turn(searches) if cell not in records)
            tests = [self.test_cells(block, method, records) for method in block.methods]
            yield from (cell for cell in _in_turn(tests) if cell not in records)

    def chosen_rate(self, setting: Setting, method: str, records: Records) -> float | None:
        """The rate with the least error on the development split at equal L0; None while the search goes on."""
        searched = self._searched_in(setting, method)
        if any(cell not in records for cell in self._search(searched, method, records)):
            return None
        return self._best(self._tried(searched, method, records))

    def lively_rate(self, setting: Setting, method: str, records: Records) -> float | None:
        """The best rate among those that left no feature dead on the development split, if there is one."""
        tried = self._tried(setting, method, records)
        lively = {
            rate: error
            for rate, error in tried.items()
            if records.figure(self._searched(setting, method, rate), "silent") == 0
        }
        return self._best(lively) if lively else None

    def test_cells(self, block: Block, method: str, records: Records) -> list[Cell]:
        """Runs of a method on the test split, once its rate is known.

        Where the best rate leaves features dead, the best one that leaves none is run too.
        """
        best = self.chosen_rate(block.setting, method, records)
        if best is None:
            return []
        rates = [best]
        if method_of(method).peer is None and block.auxiliary == "none":
            lively = self.lively_rate(self._searched_in(block.setting, method), method, records)
            rates += [lively] if lively not in (None, best) else []
        return [
            Cell.of(
                block.setting, method=method, auxiliary=block.auxiliary, learning_rate=rate, split="test", seed=seed
            )
            for rate in rates
            if rate is not None
            for seed in self.seeds[: block.seeds]
        ]

    def _searched_in(self, setting: Setting, method: str) -> Setting:
        """Where a method's rate for a setting is searched."""
        transferred = [block.rates_of for block in self.blocks if block.setting == setting and method in block.methods]
        return next((other for other in transferred if other is not None), setting)

    def _search(self, setting: Setting, method: str, records: Records) -> list[Cell]:
        """The rates tried first; once all have run, the next one where the best is at an end."""
        cells = [self._searched(setting, method, rate) for rate in self.rates]
        tried = self._tried(setting, method, records)
        best = self._best(tried)
        if best is None or len(tried) >= self.most_rates or not all(cell in records for cell in cells):
            return cells
        beyond = best * self.factor if best == max(tried) else best / self.factor if best == min(tried) else None
        return cells if beyond is None else [*cells, self._searched(setting, method, float(f"{beyond:.6g}"))]

    def _searched(self, setting: Setting, method: str, rate: float) -> Cell:
        searched = method_of(method).rates_of or method
        return Cell.of(setting, method=searched, auxiliary="none", learning_rate=rate, split="dev", seed=self.seeds[0])

    def _tried(self, setting: Setting, method: str, records: Records) -> dict[float, float]:
        """Error by rate; infinite where training failed."""
        like = self._searched(setting, method, 0.0)
        return {
            cell.learning_rate: math.inf if records.status(cell) == FAILED else records.figure(cell, "nmse_at_k")
            for cell in records.cells()
            if replace(cell, learning_rate=0.0) == like
        }

    @staticmethod
    def _best(tried: dict[float, float]) -> float | None:
        finite = {rate: error for rate, error in tried.items() if math.isfinite(error)}
        return min(finite, key=lambda rate: (finite[rate], rate)) if finite else None


def _in_turn(lists: Sequence[Sequence[Cell]]) -> Iterator[Cell]:
    """The first of every list, then the second of every list, and so on."""
    for turn in itertools.zip_longest(*lists):
        yield from (cell for cell in turn if cell is not None)


MAIN = Setting("hidden_states[11]", k=32, n_features=4608)
AGAINST_PEERS = (FLOORS, LARGER_FLOORS, BATCH_TOP_K, SPARSIFY)
ONE_TRAINER = (MUTUAL, TOKEN, MUTUAL_THEN_FEATURE)
FEW = AGAINST_PEERS + ONE_TRAINER
SYNTHETIC = Setting("synthetic", k=16, n_features=2048)
# A site, a number of features per token and a width that no other run has, fixed when the method was.
CONFIRMATION = Setting("hidden_states[20]", k=24, n_features=6144)


def _full() -> Plan:
    by_k = [replace(MAIN, k=k) for k in (16, 64)]
    elsewhere = [replace(MAIN, n_features=9216), replace(MAIN, source="hidden_states[6]")]
    rest = tuple(method for method in METHODS if method not in (*FEW, *LONGER, LET_GO))
    return Plan(
        (
            Block(MAIN, AGAINST_PEERS),
            *[Block(setting, AGAINST_PEERS) for setting in by_k],
            Block(MAIN, ONE_TRAINER),
            Block(MAIN, (FLOORS,), as_wide_as=TOKEN),
            *[Block(setting, (*AGAINST_PEERS, TOKEN)) for setting in elsewhere],
            Block(SYNTHETIC, FEW),
            Block(MAIN, (FLOORS, *ONE_TRAINER), "zipf"),
            Block(MAIN, rest),
            Block(MAIN, (FLOORS, *ONE_TRAINER), "k"),
            # in these settings every search chose the main setting's rate, so the others are not searched again
            Block(replace(MAIN, k=16), ONE_TRAINER, rates_of=MAIN),
            *[Block(setting, (MUTUAL, MUTUAL_THEN_FEATURE), rates_of=MAIN) for setting in elsewhere],
            # with floors auxiliary losses change nothing, and quotas show what they do in the variants above
            *[Block(MAIN, (LARGER_FLOORS, *rest), auxiliary, seeds=1) for auxiliary in ("zipf", "k")],
            Block(replace(MAIN, k=64), ONE_TRAINER),
            Block(CONFIRMATION, (LARGER_FLOORS, BATCH_TOP_K, SPARSIFY)),
            Block(MAIN, LONGER),
            Block(MAIN, PEERS, "k"),
            # they change little there, so elsewhere only the best peer has one
            *[Block(setting, (BATCH_TOP_K,), "k", seeds=1) for setting in (*elsewhere, *by_k)],
            *[Block(setting, (SPARSIFY,), "k", seeds=1) for setting in (CONFIRMATION, SYNTHETIC)],
            Block(MAIN, (LET_GO,), seeds=1),
        )
    )


PLAN = _full()
