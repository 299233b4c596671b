"""Fair timing: the sides of a comparison in turn in one run, medians, and what machine it was."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "numpy",
    "scipy",
    "lap",
    "torch",
    "triton",
    "cupy",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "ortools",
    "sae-lens",
    "dictionary-learning",
    "eai-sparsify",
)


def machine() -> dict[str, Any]:
    """Processor, cores in use and versions of everything that is compared."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def alternating(sides: Mapping[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
    """Median seconds of every side, the sides taking turns after one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, aligned so that it reads in a terminal too."""
    text = [list(headings), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[column]) for row in text) for column in range(len(headings))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in text
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def report(name: str, headings: Sequence[str], rows: Sequence[Sequence[Any]], notes: str = "") -> None:
    """Print the table with the machine, and write both to `results/<name>.json`."""
    about = machine()
    print(f"\n## {name}\n\n{table(headings, rows)}\n\n{notes}\n{about}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": about, "headings": list(headings), "rows": [list(row) for row in rows], "notes": notes}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def kept_rows(name: str, notes: str) -> list[list[Any]]:
    """Rows that an earlier run of the same setting wrote: a benchmark made in pieces goes on from them."""
    file = RESULTS / f"{name}.json"
    if not file.exists():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    return list(content["rows"]) if content["notes"] == notes else []


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=7, help="timed turns of every side")
    return parser
