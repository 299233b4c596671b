"""What the demo printed, for the start page: its table, and the pictures of its report. Times are left to benchmarks.

`python docs/scripts/demo_page.py runs/demo`, on the machine where the demo ran, writes docs/assets/tables/demo.md and
docs/assets/pictures/demo.svg.html.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from sae_torch.evaluation.results import COLUMNS, Result
from sae_torch.evaluation.results_folder import RESULTS

ASSETS = Path(__file__).parent.parent / "assets"
FIGURES = re.compile(r'<div class="figures">(.*?)</div>', re.DOTALL)


def table(found: dict[str, Any], date: str) -> str:
    """Figures down, autoencoders across; what ran below."""
    results = [Result(**{field: row[field] for field in Result.__dataclass_fields__}) for row in found["results"]]
    lines = ["| on held-out text | " + " | ".join(result.name for result in results) + " |"]
    lines.append("| --- |" + " ---: |" * len(results))
    cells = ((column.label, *(column.cell(result) for result in results)) for column in COLUMNS)
    lines += [f"| {' | '.join(row)} |" for row in cells]
    asked, about = found["configuration"], machine()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += [
        "",
        f"<small>{asked['model']}, {asked['site']}; {asked['tokens']:,} training tokens once, {asked['features']:,} "
        f"features, k {asked['k']}, seed {asked['seed']}; {found['test_tokens']:,} held-out tokens. "
        f"{date}, {about['processor']}, {about['cores']} cores; {versions}. "
        "Written by `docs/scripts/demo_page.py`.</small>",
        "",
    ]
    return "\n".join(lines)


def pictures(report: str) -> str:
    """The spectra and the histograms, in the panels of the site."""
    groups = FIGURES.findall(report)
    if len(groups) != 2:
        raise ValueError(f"report.html: expected the spectra and the histograms, found {len(groups)} groups of figures")
    return "".join(f'<div class="panels" data-search-exclude>\n{group}\n</div>\n' for group in groups)


def main(folder: Path) -> None:
    """Write both."""
    file = folder / RESULTS
    date = datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
    written = {
        ASSETS / "tables" / "demo.md": table(json.loads(file.read_text(encoding="utf-8")), date),
        ASSETS / "pictures" / "demo.svg.html": pictures((folder / "report.html").read_text(encoding="utf-8")),
    }
    for target, text in written.items():
        target.write_text(text, encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
