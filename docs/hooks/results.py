"""The page of benchmarks shows every table in `benchmarks/results` that `benchmarks.harness` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLACE = "<!-- results -->"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where the page asks for them."""
    if PLACE not in markdown:
        return markdown
    return markdown.replace(PLACE, "\n\n".join(map(section, sorted(RESULTS.glob("*.json")))))


def section(file: Path) -> str:
    """One result: notes, table, machine."""
    content = json.loads(file.read_text(encoding="utf-8"))
    headings, machine = content["headings"], content["machine"]
    kinds = [isinstance(value, (int, float)) for value in content["rows"][0]]
    rows = [headings, *[[cell(value) for value in row] for row in content["rows"]]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("---:" if number else "---" for number in kinds) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    made = f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
    source = f"<small>`benchmarks/results/{file.name}`: {made}, {versions}</small>"
    title = file.stem.replace("_", " ").capitalize()
    table = "\n".join(lines)
    return f"## {title}\n\n{content['notes']}\n\n{table}\n\n{source}"


def cell(value: Any) -> str:
    """Three digits for a measured number, a dash where there is none."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
