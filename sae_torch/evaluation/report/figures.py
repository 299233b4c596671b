"""The figures of the report, for the template of each section what it shows; nothing where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sae_torch.evaluation.edge_swap import EdgeSwapNull
from sae_torch.evaluation.evaluation import Evaluation
from sae_torch.evaluation.report.charts import Axis, Series, bar_chart, legend, line_chart
from sae_torch.evaluation.report.methods import COLOURS, colours, equal_l0, methods


@dataclass(frozen=True)
class Drawn:
    """A chart with what stands around it.

    Parameters
    ----------
    chart, legend : Markup or str
        As `charts` draws them; the legend may be missing.
    caption : str
        The line below, after the name.
    name : str
        Of the autoencoder, where the chart is about one.
    """

    chart: Markup
    caption: str
    name: str = ""
    legend: Markup | str = ""


def training(evaluations: Sequence[Evaluation]) -> Drawn | None:
    """Loss over tokens seen."""
    series = [
        Series(e.name, e.curve[0], e.curve[1], index)
        for index, e in _coloured(evaluations)
        if e.curve is not None and len(e.curve[0])
    ]
    if not series:
        return None
    chart = line_chart(
        series,
        Axis("training tokens seen", tick=_short),
        Axis("reconstruction loss", log=True, tick=_short),
        "Training loss over tokens seen, one line per autoencoder",
    )
    caption = "Squared error per token of each batch, in training units (mean norm √d)."
    return Drawn(chart, caption, legend=legend(series))


def frontier(evaluations: Sequence[Evaluation]) -> Drawn | None:
    """Error over L0 with one line for each method, where one of them has more than one L0."""
    groups, named = equal_l0(evaluations), methods(evaluations)
    if all(len({g for g, group in enumerate(groups) for i in group if named[i] == name}) < 2 for name in named):
        return None
    best = {min(group, key=lambda i: evaluations[i].nmse) for group in groups if len(group) > 1}
    series = []
    for number, method in enumerate(dict.fromkeys(named)):
        own = sorted((i for i in range(len(named)) if named[i] == method), key=lambda i: evaluations[i].l0)
        labels = tuple(
            f"{evaluations[i].name}: L0 {evaluations[i].l0:.2f}, NMSE {evaluations[i].nmse:.4f}" for i in own
        )
        x, y = ([getattr(evaluations[i], figure) for i in own] for figure in ("l0", "nmse"))
        series.append(Series(method, x, y, number % COLOURS + 1, points=labels, ringed=[i in best for i in own]))
    log = evaluations[groups[-1][0]].l0 > 4 * evaluations[groups[0][0]].l0 > 0
    chart = line_chart(series, Axis("features per token (L0)", log), Axis("NMSE"), "Error over L0, one line per method")
    caption = "A ring is the smallest error among autoencoders whose L0 is within 5 %."
    return Drawn(chart, caption, legend=legend(series))


def spectrum(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Density over rank."""
    ranked = [(index, e, _by_rank(e)) for index, e in _coloured(evaluations)]
    shown = [(index, e, densities) for index, e, densities in ranked if densities]
    if not shown:
        return {"panels": []}
    # one range for all, so that the panels can be compared
    x = Axis("rank of the feature", True, _short, [1, max(len(densities) for _, _, densities in shown)])
    ends = [value for _, _, densities in shown for value in (densities[0], densities[-1])]
    y = Axis("share of tokens", True, percent, ends)
    return {"panels": [_spectrum_panel(index, e, densities, x, y) for index, e, densities in shown]}


def histograms(evaluations: Sequence[Evaluation]) -> list[Drawn]:
    """Share of tokens by number of features."""
    # the axis ends where 99.9 % of the tokens of every autoencoder lie; the caption says what is beyond
    end = max(_quantile(e, 0.999) for e in evaluations) + 2
    tick = Axis("features on a token")
    panels = []
    for index, e in _coloured(evaluations):
        shares = [n / e.n_tokens for n in e.histogram]
        shares += [0.0] * (end - len(shares))
        title = f"{e.name}: share of tokens by number of features"
        y = Axis("share of tokens", tick=percent)
        chart = bar_chart(shares[:end], tick, y, title, index, (e.k, f"budget {e.k:g}"))
        middle, low, high = (_quantile(e, q) for q in (0.5, 0.05, 0.95))
        beyond = sum(shares[end:])
        more = f" {100 * beyond:.2f} % of tokens have {end} or more." if beyond else ""
        caption = f"median {middle}, 90 % of tokens between {low} and {high}, most {len(e.histogram) - 1}.{more}"
        panels.append(Drawn(chart, caption, e.name))
    return panels


def difficulty(evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """Features and error over tenths of difficulty."""
    measured = [(index, e.name, d) for index, e in _coloured(evaluations) if (d := e.difficulty) is not None]
    if not measured:
        return None
    x = Axis("tenth of the tokens, easiest first", include=[1, 10])
    features = [Series(name, range(1, len(d.l0) + 1), d.l0, index) for index, name, d in measured]
    errors = [Series(name, range(1, len(d.error) + 1), d.error, index) for index, name, d in measured]
    panels = [
        Drawn(
            line_chart(features, x, Axis("features per token", include=[0]), "Features per token by difficulty"),
            "Features that the tokens of each tenth get.",
            legend=legend(features),
        ),
        Drawn(
            line_chart(errors, x, Axis("error / variance", include=[0]), "Error by difficulty"),
            "Their squared error over the mean variance.",
            legend=legend(errors),
        ),
    ]
    budgets = sorted({d.k for _, _, d in measured})
    return {"k": budgets, "found": [(name, d) for _, name, d in measured], "panels": panels}


def batches(evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """Quality and agreement over batch size."""
    errors, agreements = [], []
    for index, e in _coloured(evaluations):
        for order, dashed in (("shuffled", False), ("topical", True)):
            modes = [mode for mode in e.batch_modes if mode.order == order]
            if modes:
                name = e.name if order == "shuffled" else f"{e.name}, topical"
                sizes = [mode.batch_size for mode in modes]
                errors.append(Series(name, sizes, [mode.nmse for mode in modes], index, dashed))
                agreements.append(Series(name, sizes, [mode.agreement for mode in modes], index, dashed))
    if not errors:
        return None
    x = Axis("tokens in a batch", True, _short)
    panels = [
        Drawn(
            line_chart(errors, x, Axis("NMSE"), "NMSE of the batch allocation over batch size"),
            "Error of the allocation.",
        ),
        Drawn(
            line_chart(agreements, x, Axis("matches shared", tick=percent, include=[1.0]), "Agreement over batch size"),
            "Matches shared with every token by itself, of the matches of either.",
        ),
    ]
    return {"legend": legend(errors), "panels": panels}


def collapse(evaluations: Sequence[Evaluation]) -> dict[str, Any] | None:
    """Cosine with the closest other decoder row."""
    measured = [(index, e, c) for index, e in _coloured(evaluations) if (c := e.cosines) is not None]
    if not measured:
        return None
    series = [
        Series(e.name, [(i + 0.5) / len(c.histogram) for i in range(len(c.histogram))], c.histogram, index)
        for index, e, c in measured
    ]
    x = Axis("cosine with the closest other decoder row", include=[0, 1])
    chart = line_chart(
        series, x, Axis("share of features", tick=percent, include=[0]), "Cosine with the closest feature"
    )
    said = "; ".join(
        f"{e.name} median {c.median:.2f}, highest percent above {c.highest_percent:.2f}, "
        f"{100 * c.alike:.2f} % above 0.9, all pairs {c.mean_absolute:.3f}"
        for _, e, c in measured
    )
    chance = math.sqrt(2 / (math.pi * measured[0][1].d_model))
    return {"chance": chance, "figure": Drawn(chart, f"{said}.", legend=legend(series))}


def null(evaluations: Sequence[Evaluation]) -> list[tuple[str, EdgeSwapNull]]:
    """Matches against swapped ones."""
    return [(e.name, found) for e in evaluations if (found := e.null) is not None]


def percent(value: float) -> str:
    """A tick of a share."""
    return f"{100 * value:g} %"


def _spectrum_panel(index: int, e: Evaluation, densities: Sequence[float], x: Axis, y: Axis) -> Drawn:
    ranks = sorted({round(math.exp(math.log(len(densities)) * i / 240)) for i in range(241)})
    series = [Series("measured", ranks, [densities[rank - 1] for rank in ranks], index)]
    caption = "no curve could be fitted."
    if e.zipf is not None:
        fitted = e.zipf.densities
        series.append(Series("fitted", ranks, [fitted[rank - 1] for rank in ranks], 0, dashed=True))
        caption = (
            f"α = {e.zipf.alpha:.2f}, β = {e.zipf.beta:.0f}, R² = {e.zipf.r_squared:.3f}, "
            f"{100 * e.zipf.excluded:.0f} % of features left out as the low tail."
        )
    title = f"{e.name}: density of features over their rank, both axes logarithmic"
    return Drawn(line_chart(series, x, y, title), caption, e.name, legend(series))


def _by_rank(e: Evaluation) -> list[float]:
    return [count / e.n_tokens for count in sorted(e.counts, reverse=True) if count]


def _quantile(e: Evaluation, share: float) -> int:
    """Smallest number of features that at least this share of the tokens has at most."""
    seen = 0
    for n, tokens in enumerate(e.histogram):
        seen += tokens
        if seen >= share * e.n_tokens:
            return n
    return len(e.histogram) - 1


def _short(value: float) -> str:
    """1500 as 1.5 k, 250000 as 250 k."""
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _coloured(evaluations: Sequence[Evaluation]) -> list[tuple[int, Evaluation]]:
    return list(zip(colours(evaluations), evaluations, strict=True))
