"""The pictures of the page: charts that follow its colours, in three hues that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.study.findings import Findings
from benchmarks.study.grid import MAIN
from benchmarks.study.methods import BATCH_TOP_K, FLOORS, MUTUAL_THEN_FEATURE, SPARSIFY, TOKEN
from sae_torch.evaluation.report.charts import Axis, Series, legend, line_chart

NOTHING = "The runs for this picture are not finished yet.\n"
# Method, colour and whether its line is dashed; the last stands out least.
LINES = ((FLOORS, 1, False), (BATCH_TOP_K, 2, False), (SPARSIFY, 3, False), (TOKEN, 0, True))


def error_by_k(findings: Findings) -> str:
    """NMSE at equal L0 against features per token."""
    same = [s for s in findings.settings if replace(s, k=MAIN.k) == MAIN]
    series = []
    for method, colour, dashed in LINES:
        points = [(s.k, runs.mean("nmse_at_k")) for s in same if (runs := findings.of(s, method))]
        if points:
            series.append(Series(method, *columns(sorted(points)), colour, dashed))
    if max((len(each.x) for each in series), default=0) < 2:
        return NOTHING
    title = f"Error against features per token, {MAIN.n_features} features, mean of the seeds"
    return figure(series, Axis("features per token", log=True), Axis("NMSE", log=True), title)


def frequency_spectrum(findings: Findings) -> str:
    """How often features fire, by rank."""
    series = []
    for method, colour, dashed in (*LINES[:2], (MUTUAL_THEN_FEATURE, 3, False), LINES[3]):
        runs = findings.of(MAIN, method)
        if runs is not None:
            points = findings.records.figures(runs.cells[0]).get("spectrum")
            if points:
                series.append(Series(method, *columns(points), colour, dashed))
    if not series:
        return NOTHING
    title = f"Share of the test tokens on which a feature fires, by rank, seed {findings.plan.seeds[0]}"
    return figure(series, Axis("rank of the feature", log=True), Axis("share of the tokens", log=True), title)


def features_by_difficulty(findings: Findings) -> str:
    """Features per token for tenths of the tokens, from easy to hard."""
    series = []
    for method, colour, dashed in (*LINES[:2], (MUTUAL_THEN_FEATURE, 3, False), LINES[3]):
        runs = findings.of(MAIN, method)
        if runs is not None:
            groups = findings.records.figures(runs.cells[0]).get("difficulty")
            if groups:
                series.append(Series(method, list(range(1, len(groups) + 1)), groups, colour, dashed))
    if not series:
        return NOTHING
    title = "Features per token for tenths of the test tokens, from the easiest to the hardest"
    return figure(series, Axis("tenth of the tokens"), Axis("features per token", include=(0.0,)), title)


def pictures(findings: Findings) -> dict[str, str]:
    """Every picture by the name of its file."""
    return {draw.__name__: draw(findings) for draw in (error_by_k, frequency_spectrum, features_by_difficulty)}


def columns(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """What is across, and what is up."""
    return [point[0] for point in points], [point[1] for point in points]


def figure(series: Sequence[Series], x: Axis, y: Axis, title: str) -> str:
    """A chart with its legend and title, as HTML."""
    chart = line_chart(series, x, y, title)
    head = '<figure class="chart-figure" data-search-exclude>'
    return f"{head}{legend(series)}{chart}<figcaption>{title}.</figcaption></figure>\n"
