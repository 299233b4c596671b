"""The answers of the explorer: three small score matrices, solved by `allocation` at every position of its sliders.

`python docs/scripts/explorer_answers.py FOLDER` writes one file for each matrix; the build of the site does the same.

A file holds each distinct answer once and, for each position, which answer it is.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import allocation as al
import numpy as np
from numpy.typing import NDArray

TOKENS, FEATURES = 8, 12
BUDGETS = range(TOKENS * FEATURES + 1)
TOKEN_CAPS: tuple[int | None, ...] = (1, 2, 3, 6, None)
FEATURE_CAPS: tuple[int | None, ...] = (1, 2, 3, 4, None)
FLOORS = (0, 1, 2)
TEMPERATURES = (0, 2, 6, 20)
# What the page shows of a soft price; exact prices are whole numbers or halves, and kept as they are.
DIGITS = 4
Answer = list[Any]
Row = list[Answer | str]
Rows = list[Row]


def presets() -> dict[str, NDArray[np.int64]]:
    """The three matrices: all scores different, five values only, and feature 4 the best of every token."""
    rng = np.random.default_rng(35)
    wishes = rng.normal(size=(TOKENS, FEATURES)) + rng.normal(scale=0.45, size=(TOKENS, 1))
    wishes += np.linspace(0.6, -0.6, FEATURES)
    generic = wishes.argsort(axis=None).argsort().reshape(wishes.shape) - 36
    wanted = generic.copy()
    wanted[:, 4] = 75 + 3 * rng.permutation(TOKENS)
    return {
        "generic": generic,
        "tied": generic // 20 * 20,
        "wanted": wanted,
    }


def problem(scores: NDArray[np.int64], budget: int, token_cap: Any, feature_cap: Any, floor: int) -> al.Problem:
    """The problem at one position of the sliders."""
    return al.Problem(scores, budget, token_cap, None, feature_cap, floor or None)


def exact_rows(matrices: list[NDArray[np.int64]], floor: int, token_cap: Any, feature_cap: Any) -> Rows:
    """For each matrix, for each budget, the exact answer, or why there is none, which no score can change."""
    failed: dict[int, str] = {}
    rows: Rows = []
    for scores in matrices:
        row: Row = []
        for budget in BUDGETS:
            if budget not in failed:
                asked = problem(scores, budget, token_cap, feature_cap, floor)
                solution = al.solve(asked, throw=False, workers=1)
                if solution.error is not None:
                    failed[budget] = str(solution.error)
            row.append(failed[budget] if budget in failed else _exact(solution))
        rows.append(row)
    return rows


def _exact(solution: al.Solution) -> Answer | str:
    if solution.error is not None:
        return str(solution.error)
    prices, bits = solution.prices, np.packbits(solution.mask()).tobytes().hex()
    budget = [_number(value) for value in (prices.budget.value, prices.budget.lower, prices.budget.upper)]
    sides = [[_number(value) for value in np.asarray(side.value)] for side in (prices.tokens, prices.features)]
    return [bits, _number(solution.objective), *budget, *sides, solution.stats["solver"]]


def soft_rows(matrices: list[NDArray[np.int64]], temperature: int, token_cap: Any, feature_cap: Any) -> Rows:
    """For each matrix, for each budget, the soft answer: its total and its prices, from which the shares follow.

    It is unique, so that above the first budget that does not bind all have the same.
    """
    rows: Rows = []
    for scores in matrices:
        row: Row = []
        binds = True
        for budget in BUDGETS:
            if binds:
                soft = al.soft_solve(problem(scores, budget, token_cap, feature_cap, 0), temperature)
                binds = soft.prices.budget.value > 0
            row.append(_soft(soft))
        rows.append(row)
    return rows


def _soft(soft: al.SoftSolution) -> Answer:
    tokens, features = ([_number(v, DIGITS) for v in p.value] for p in (soft.prices.tokens, soft.prices.features))
    return [_number(soft.objective, DIGITS), _number(soft.prices.budget.value, DIGITS), tokens, features]


def _number(value: Any, digits: int | None = None) -> float | int | None:
    """A JSON number, whole where it is whole; None stands for infinity."""
    number = float(value) if digits is None else round(float(value), digits)
    if not np.isfinite(number):
        return None
    return int(number) if number.is_integer() else number


def refusal(scores: NDArray[np.int64]) -> str:
    """What the soft solver says to floors."""
    try:
        al.soft_solve(problem(scores, 24, None, None, 1), 1.0)
    except al.UnsupportedProblemError as error:
        return str(error)
    raise AssertionError("soft_solve takes floors now: let the explorer show them")


def rows_of(task: tuple[Any, ...]) -> Rows:
    """The rows of all matrices at one setting of the limits."""
    kind, *limits = task
    return (exact_rows if kind == "exact" else soft_rows)(list(presets().values()), *limits)


def tasks() -> Iterator[tuple[Any, ...]]:
    """All settings but the budget; the page counts positions in the same order."""
    for limits in itertools.product(FLOORS, TOKEN_CAPS, FEATURE_CAPS):
        yield ("exact", *limits)
    for limits in itertools.product(TEMPERATURES[1:], TOKEN_CAPS, FEATURE_CAPS):
        yield ("soft", *limits)


def answers(name: str, scores: NDArray[np.int64], rows: Sequence[Row]) -> dict[str, Any]:
    """One file: the matrix, the sliders, the distinct answers, and the answer of every position."""
    exact = len(FLOORS) * len(TOKEN_CAPS) * len(FEATURE_CAPS)
    return {
        "name": name,
        "scores": scores.tolist(),
        "budgets": len(BUDGETS),
        "tokenCaps": TOKEN_CAPS,
        "featureCaps": FEATURE_CAPS,
        "floors": FLOORS,
        "temperatures": TEMPERATURES,
        "version": al.__version__,
        "exact": _distinct(rows[:exact]),
        "soft": _distinct(rows[exact:]),
        "softRefusal": refusal(scores),
    }


def _distinct(rows: Sequence[Row]) -> dict[str, Any]:
    seen: dict[str, int] = {}
    positions = [seen.setdefault(json.dumps(answer), len(seen)) for row in rows for answer in row]
    return {"answers": [json.loads(text) for text in seen], "positions": positions}


def write(folder: Path) -> list[Path]:
    """Solve everything, on all cores."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        solved = list(pool.map(rows_of, tasks(), chunksize=2))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for (name, scores), rows in zip(presets().items(), zip(*solved, strict=True), strict=True):
        text = json.dumps(answers(name, scores, rows), separators=(",", ":"))
        # a script, not JSON: a page opened from a folder, without a server, may load scripts only
        written.append(folder / f"{name}.js")
        written[-1].write_text(f"allocationExplorer.receive({text});\n", encoding="utf-8")
    return written


if __name__ == "__main__":
    for target in write(Path(sys.argv[1])):
        print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")
