"""Numbers and tables as the page writes them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.study.findings import Runs

NOTHING = "No run of this has been finished yet."


def spread(runs: Runs, figure: str) -> str:
    """Mean, and least and greatest over the seeds."""
    values = runs.all(figure)
    if len(values) < 2:
        return f"{runs.mean(figure):.4f}, one seed"
    few = "" if runs.complete else f", {len(values)} seeds"
    return f"{runs.mean(figure):.4f} ({min(values):.4f} to {max(values):.4f}{few})"


def percent(runs: Runs, figure: str, digits: int) -> str:
    """A mean share in per cent, with least and greatest, or a dash."""
    values = [100 * value for value in runs.all(figure)]
    if len(values) < 2:
        return f"{values[0]:.{digits}f} %, one seed" if values else "–"
    return f"{fmean(values):.{digits}f} % ({min(values):.{digits}f} to {max(values):.{digits}f})"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table, all columns but the first to the right where they are numbers."""
    lines = ["| " + " | ".join(row) + " |" for row in (headings, *rows)]
    others = " ---: |" if numbers else " --- |"
    lines.insert(1, "| --- |" + others * (len(headings) - 1))
    return "\n".join(lines) + "\n"
