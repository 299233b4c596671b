"""The parts of `docs/evidence.md` that come from the records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.study.findings import Findings
from benchmarks.study.grid import PLAN, Plan
from benchmarks.study.ledger import Records
from benchmarks.study.pictures import pictures
from benchmarks.study.tables import tables

FOLDER = Path(__file__).parents[2] / "docs" / "assets" / "tables" / "evidence"


def parts(records: Records, plan: Plan = PLAN) -> dict[str, str]:
    """Every part by the name of its file, in the order of the page's sections."""
    findings = Findings(plan, records)
    found = {f"{name}.md": text for name, text in tables(findings).items()}
    return found | {f"{name}.svg.html": text for name, text in pictures(findings).items()}


def write(
    records: Records,
    plan: Plan = PLAN,
    folder: Path = FOLDER,
    parts: Callable[[Records, Plan], Mapping[str, str]] = parts,
) -> Iterator[Path]:
    """Write what has changed; the files that are written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in parts(records, plan).items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            yield file
