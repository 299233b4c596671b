"""The table and the picture of README.md, from the finished runs of the study and the timed selections.

`python docs/scripts/readme_figures.py` writes the table into README.md, the picture to docs/assets/against-peers.svg,
and the same for the start page, in the colours of the site, beside the other pictures.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

from benchmarks.study.findings import Findings, Runs
from benchmarks.study.grid import MAIN, PLAN
from benchmarks.study.ledger import Records
from benchmarks.study.methods import LARGER_FLOORS, PEERS

ROOT = Path(__file__).parents[2]
INLINE = ROOT / "docs" / "assets" / "pictures" / "against_peers.svg.html"
README, TARGET = ROOT / "README.md", ROOT / "docs" / "assets" / "against-peers.svg"
RESULTS = ROOT / "benchmarks" / "results"
TABLE = re.compile(r"(?<=<!-- against peers -->\n\n).*?(?=\n<!-- end -->)", re.DOTALL)
KS = (16, 32, 64)
OURS, PEER = "BalancedChoice", "best peer"
NAMES = {"ours": f"{OURS} (the default)", "peer": "best of dictionary_learning BatchTopK and sparsify TopK"}
Side: TypeAlias = tuple[str, dict[str, list[float]], str]
WIDTH, HEIGHT, LEFT, PANEL, TOP, FLOOR = 760, 264, 30, 340, 64, 216


@dataclass(frozen=True)
class Pair:
    """Both sides at one number of features per token: mean error at equal L0, and the dead features of every seed."""

    k: int
    ours: Runs
    peer: Runs

    @property
    def change(self) -> float:
        """Error of ours against the peer's, as a share of it."""
        return self.ours.mean("nmse_at_k") / self.peer.mean("nmse_at_k") - 1


@cache
def pairs() -> list[Pair]:
    """At every number of features per token of the main site."""
    found = Findings(PLAN, Records(RESULTS / "study.jsonl"))
    both = []
    for k in KS:
        setting = replace(MAIN, k=k)
        ours, peer = found.of(setting, LARGER_FLOORS), found.best(found.among(setting, PEERS))
        if ours is None or peer is None:
            raise ValueError(f"study.jsonl: expected finished runs with k={k}, found none")
        both.append(Pair(k, ours, peer))
    return both


def table() -> str:
    """One row for each number of features per token."""
    lines = [
        f"| features per token | error: {OURS} | error: {PEER} | difference | dead: {OURS} | dead: {PEER} |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {pair.k} | {pair.ours.mean('nmse_at_k'):.4f} | {pair.peer.mean('nmse_at_k'):.4f} | "
        f"{100 * pair.change:.1f} % | {_range(pair.ours)} | {_range(pair.peer)} |"
        for pair in pairs()
    ]
    return "\n".join(lines) + "\n"


def _range(runs: Runs) -> str:
    dead = [int(value) for value in runs.all("silent")]
    return f"{min(dead):,}" if min(dead) == max(dead) else f"{min(dead):,} to {max(dead):,}"


def times() -> dict[str, float]:
    """How many times as long as our selection `torch.topk` takes, by what is limited."""
    content = json.loads((RESULTS / "selection.json").read_text(encoding="utf-8"))
    at = content["headings"].index("topk / solve")
    return {row[0]: row[at] for row in content["rows"]}


STYLE = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif;fill:#424a53}"
    ".head{font-weight:600;font-size:14px;fill:#1f2328}.ours{fill:#0a5fa8}.peer{fill:#a9b0b8}.axis{stroke:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#9da7b3}.head{fill:#e6edf3}.ours{fill:#6cb4f5}.peer{fill:#6a737d}}"
)


def picture() -> str:
    """Two groups of bars; the colours follow the reader's."""
    legend = "".join(
        f'<rect class="{side}" x="{left}" y="8" width="12" height="12" rx="2"/>'
        f'<text x="{left + 18}" y="19">{name}</text>'
        for left, (side, name) in zip((LEFT, LEFT + 230), NAMES.items(), strict=True)
    )
    title, (error, dead) = _said(), _sides()
    return (
        f'<svg class="against" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{title}">'
        f"<title>{title}: error at equal L0, and dead features</title><style>{STYLE}</style>{legend}"
        f"{_bars(LEFT, *error)}{_bars(LEFT + PANEL + 30, *dead)}</svg>\n"
    )


def inline() -> str:
    """The same in the colours of the page: one picture a group, below each other on a phone."""
    legend = "".join(
        f'<li><svg class="against" width="12" height="12"><rect class="{side}" width="12" height="12" rx="2"/></svg>'
        f"{name}</li>"
        for side, name in NAMES.items()
    )
    top, width = TOP - 34, PANEL + 12
    groups = "".join(
        f'<svg class="against" xmlns="http://www.w3.org/2000/svg" viewBox="0 {top} {width} {HEIGHT - top}" '
        f'width="{width}" height="{HEIGHT - top}" role="img" aria-label="{title}"><title>{title}: {_said()}</title>'
        f"{_bars(0, title, values, form)}</svg>"
        for title, values, form in _sides()
    )
    return f'<figure class="peers" data-search-exclude><ul class="legend">{legend}</ul><div>{groups}</div></figure>\n'


def _said() -> str:
    return f"{OURS} against the {PEER}, at {', '.join(map(str, KS))} features per token"


def _sides() -> tuple[Side, Side]:
    """What the two groups show: title, the values of both sides, how they are written."""
    dead = {side: [_mean_dead(getattr(pair, side)) for pair in pairs()] for side in NAMES}
    error = {side: [getattr(pair, side).mean("nmse_at_k") for pair in pairs()] for side in NAMES}
    return ("Error (NMSE) at equal L0", error, ".3f"), (f"Dead features of {MAIN.n_features:,}", dead, ",.0f")


def _mean_dead(runs: Runs) -> float:
    return runs.mean("silent")


def _bars(left: float, title: str, values: dict[str, list[float]], form: str) -> str:
    top = max(max(side) for side in values.values())
    parts = [f'<text class="head" x="{left}" y="{TOP - 16}">{title}</text>']
    step = PANEL / len(KS)
    for at, k in enumerate(KS):
        for place, (side, numbers) in enumerate(values.items()):
            high = (FLOOR - TOP - 16) * numbers[at] / top
            x = left + at * step + 8 + place * 46
            parts.append(
                f'<rect class="{side}" x="{x:.1f}" y="{FLOOR - high:.1f}" width="40" height="{high:.1f}" rx="2"/>'
                f'<text x="{x + 20:.1f}" y="{FLOOR - high - 5:.1f}" text-anchor="middle">{numbers[at]:{form}}</text>'
            )
        parts.append(f'<text x="{left + at * step + 51:.1f}" y="{FLOOR + 19}" text-anchor="middle">k = {k}</text>')
    parts.append(f'<line class="axis" x1="{left}" x2="{left + PANEL - 12}" y1="{FLOOR}" y2="{FLOOR}"/>')
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(picture(), encoding="utf-8")
    INLINE.write_text(inline(), encoding="utf-8")
    README.write_text(TABLE.sub(lambda _: table(), README.read_text(encoding="utf-8")), encoding="utf-8")
    print(TARGET, README, sep="\n")
