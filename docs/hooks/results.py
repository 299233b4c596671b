"""The page of benchmarks shows every table in `benchmarks/results` that `benchmarks.harness` wrote, others one by name.

Where a table has several columns of milliseconds, a picture of them on a logarithmic axis stands before it.
"""

from __future__ import annotations

import json
import math
import re
from html import escape
from pathlib import Path
from typing import Any

PLACE = "<!-- results -->"
NAMED = re.compile(r"<!-- results: (\w+) -->")
# Tables that have a page of their own.
ELSEWHERE = ("rivals", "rough_step", "parallel_model")
# In the order of a reader's questions: training, selections and solvers, processes; then the rest by name.
TITLES = {
    "training_step": "How long a training step takes",
    "training_phases": "Where a step spends its time",
    "dense_activation": "An activation in a dense loop",
    "training_choices": "What each setting of training changes",
    "long_choices": "Settings of training with more tokens",
    "one_threshold": "Floors, and one threshold for all",
    "defaults": "The defaults on the test split",
    "auxiliary_every": "An auxiliary loss on fewer tokens",
    "realised_l0": "Features per token in eval mode",
    "transcoders": "Transcoders beside sparsify",
    "transcoder_start": "How a transcoder's encoder starts",
    "selection": "How fast a selection is",
    "selection_hard": "Selections from hard scores",
    "streaming": "Scores read from a file",
    "laminar": "Floors and nested groups",
    "two_sided": "Limits on both sides",
    "two_sided_warm": "Limits on both sides, from old prices",
    "two_sided_linprog": "Limits on both sides, beside a linear programme",
    "parallel": "Two processes beside one",
    "parallel_memory": "Memory of each process",
    "importing": "How long an import takes",
    "parallel_model": "Many GPUs, computed",
}
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
UNIT = " ms"
# As many columns as dots that are told apart, by colour and by being filled.
LOOKS = ("c0", "c2", "c2 hollow", "c1", "c3", "c1 hollow", "c3 hollow")
WIDTH, LEFT, RIGHT, TOP, STEP, FOOT = 420, 6, 22, 6, 32, 26


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where the page asks for them."""
    markdown = NAMED.sub(lambda found: section(RESULTS / f"{found[1]}.json"), markdown)
    if PLACE not in markdown:
        return markdown
    found = {file.stem: file for file in sorted(RESULTS.glob("*.json")) if file.stem not in ELSEWHERE}
    files = [found.pop(name) for name in TITLES if name in found] + list(found.values())
    stages = [part for file in sorted(RESULTS.glob("*/*.json")) for part in parts_of(file)]
    return markdown.replace(PLACE, "\n\n".join([*map(section, files), *stages]))


def parts_of(file: Path) -> list[str]:
    """What a stage of `make gpu-check` found: a section for each of its tables."""
    content = json.loads(file.read_text(encoding="utf-8"))
    machine, found = content["machine"], []
    for name, part in content["parts"].items():
        if part.get("rows"):
            notes = f"On {machine['device']}; {part['status']}."
            table = {"headings": part["headings"], "rows": part["rows"], "machine": machine, "notes": notes}
            place = f"{file.parent.name}/{file.name}"
            found.append(section_of(table, f"{machine['device']}: {name}", place))
    return found


def section(file: Path) -> str:
    """One result: notes, table, machine."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return section_of(content, TITLES.get(file.stem, file.stem.replace("_", " ").capitalize()), file.name)


def section_of(content: dict[str, Any], title: str, place: str) -> str:
    """A table with its title, and the file it is from."""
    headings, machine = content["headings"], content["machine"]
    kinds = [isinstance(value, (int, float)) for value in content["rows"][0]]
    rows = [headings, *[[cell(value) for value in row] for row in content["rows"]]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join("---:" if number else "---" for number in kinds) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    made = f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
    source = f"<small>`benchmarks/results/{place}`: {made}, {versions}</small>"
    table = "\n".join(lines)
    return "\n\n".join([f"## {title}", content["notes"], *timings(content), table, source])


def timings(content: dict[str, Any]) -> list[str]:
    """The picture of the columns of milliseconds, one line for each row; nothing if there is only one column."""
    headings, rows = content["headings"], content["rows"]
    columns = [at for at, heading in enumerate(headings) if heading.endswith(UNIT)][: len(LOOKS)]
    words = [at for at, value in enumerate(rows[0]) if isinstance(value, str)]
    times = [row[at] for row in rows for at in columns if 0 < row[at] < math.inf]
    if len(columns) < 2 or not times:
        return []
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)) + 1e-9)
    bottom = TOP + STEP * len(rows)

    def across(milliseconds: float) -> float:
        return LEFT + 4 + (math.log10(milliseconds) - low) / (high - low) * (WIDTH - LEFT - RIGHT - 4)

    parts = []
    for power in range(low, high + 1):
        x = across(10.0**power)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{10.0**power:g}</text>')
    for line, row in enumerate(rows):
        y = TOP + STEP * line + 22
        label = escape(", ".join(str(row[at]) for at in words))
        parts.append(f'<text class="label" x="{LEFT}" y="{y - 9}">{label}</text>')
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts += [
            f'<circle class="dot {look}" cx="{across(row[at]):.1f}" cy="{y}" r="4.5"><title>{label}: '
            f"{escape(headings[at].removesuffix(UNIT))} {cell(row[at])} ms</title></circle>"
            for at, look in reversed(list(zip(columns, LOOKS, strict=False)))
            if 0 < row[at] < math.inf
        ]
    names = [(headings[at].removesuffix(UNIT), look) for at, look in zip(columns, LOOKS, strict=False)]
    legend = "".join(
        f'<li><svg class="swatch" viewBox="0 0 28 10" aria-hidden="true"><circle class="dot {look}" cx="14" cy="5" '
        f'r="4"/></svg>{escape(name)}</li>'
        for name, look in names
    )
    title = f"Milliseconds on a logarithmic axis: {', '.join(name for name, _ in names)}. The table has the numbers."
    return [
        f'<figure class="chart-figure" data-search-exclude><ul class="legend">{legend}</ul><svg class="chart" '
        f'viewBox="0 0 {WIDTH} {bottom + FOOT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        "<figcaption>Milliseconds, logarithmic.</figcaption></figure>"
    ]


def cell(value: Any) -> str:
    """Three digits for a measured number, a dash where there is none."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
