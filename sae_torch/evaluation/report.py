"""The report: one self-contained HTML page about several autoencoders."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch

from allocation import ZipfFit
from sae_torch.evaluation.charts import Axis, Series, bar_chart, legend, line_chart
from sae_torch.evaluation.contexts import FeatureContexts, TokenContext
from sae_torch.evaluation.metrics import Quality
from sae_torch.evaluation.results import COLUMNS, Result


@dataclass(frozen=True)
class Chapter:
    """What the report says about one autoencoder.

    Parameters
    ----------
    result
        Its row of the table.
    quality
        Its held-out quality.
    curve_tokens, curve_loss
        Training loss over the tokens seen.
    zipf
        Curve fitted to its held-out densities; None if it could not be fitted.
    features
        Features with their contexts.
    """

    result: Result
    quality: Quality
    curve_tokens: Sequence[float]
    curve_loss: Sequence[float]
    zipf: ZipfFit | None
    features: Sequence[FeatureContexts]


def render_report(chapters: Sequence[Chapter], k: int, facts: Mapping[str, str]) -> str:
    """Render the page; it needs no network, no script and no other file.

    Parameters
    ----------
    chapters
        One per autoencoder, three at most: that many colours are told apart.
    k
        Budget, mean features per token.
    facts
        What was run, by label, for the end of the page.

    Returns
    -------
    HTML text, equal for equal arguments.
    """
    if not 1 <= len(chapters) <= 3:
        raise ValueError(f"{len(chapters)} chapters, expected 1 to 3")
    n_features, n_tokens = len(chapters[0].quality.counts), chapters[0].quality.n_tokens
    body = [
        f"<h1>{_title(chapters)}</h1>",
        f'<p class="lead">{_count(len(chapters))} trained on the same activations with the same budget of {k} '
        f"features per token, judged on addresses none of them has seen.</p>",
        "<h2>Result</h2>",
        _table(chapters),
        f"<p>All figures are from {n_tokens:,} held-out tokens with every token encoded on its own, as in "
        "deployment. NMSE is the squared error over the variance, the two summed separately: 0 is perfect, 1 is no "
        "better than the mean. L0 is the mean number of features per token. A feature is dead if it fires on none "
        f"of the tokens (of {n_features:,}). CE is the cross-entropy of the language model in nats per token, with "
        "its own activations (clean), with reconstructions in their place (spliced), with their mean or zeros. "
        "Recovered is the share of the loss an ablation adds that the reconstruction avoids.</p>",
        "<h2>Training</h2>",
        "<p>Feature choice acts as mutual choice until its quotas are set, so their lines coincide until then.</p>",
        _training(chapters),
        "<h2>How often features fire</h2>",
        f"<p>Features sorted by the share of held-out tokens on which they fire. Both axes are logarithmic, so a "
        f"power law is a straight line; the dashed curves are Zipf–Mandelbrot fits that sum to the same L0, "
        f"density = s · (rank + β)<sup>−α</sup>. The {n_features:,} densities of each autoencoder sum to its L0.</p>",
        _spectrum(chapters),
        "<h2>How many features a token gets</h2>",
        "<p>Token choice spends the same number on every token. The other two spend one budget over all tokens, so "
        "that tokens that need more features can have them.</p>",
        _histograms(chapters, k),
        "<h2>Features in text</h2>",
        "<p>A few features of each autoencoder at ranks of density that are evenly spread on a log scale, none "
        "picked by hand, with the held-out tokens on which each is largest.</p>",
        *(_features(chapter, index == 0) for index, chapter in enumerate(chapters)),
        "<h2>What was run</h2>",
        "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in facts.items()) + "</dl>",
    ]
    css = importlib.resources.files("sae_torch.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # an empty icon, so that no browser asks for one
        '<link rel="icon" href="data:,">\n'
        f"<title>{_title(chapters)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _title(chapters: Sequence[Chapter]) -> str:
    names = [chapter.result.name for chapter in chapters]
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return escape(text[:1].upper() + text[1:])


def _count(n: int) -> str:
    return {1: "One sparse autoencoder", 2: "Two sparse autoencoders", 3: "Three sparse autoencoders"}[n]


def _table(chapters: Sequence[Chapter]) -> str:
    """Figures down, autoencoders across: three columns fit a phone."""
    heads = "".join(f'<th scope="col">{escape(chapter.result.name)}</th>' for chapter in chapters)
    rows = "".join(
        f'<tr><th scope="row">{escape(column.label)}</th>'
        + "".join(f"<td>{escape(column.cell(chapter.result))}</td>" for chapter in chapters)
        + "</tr>"
        for column in COLUMNS
    )
    return (
        '<div class="scroll" role="region" aria-label="Results" tabindex="0"><table>'
        f'<thead><tr><th scope="col">On held-out text</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _training(chapters: Sequence[Chapter]) -> str:
    series = [
        Series(chapter.result.name, chapter.curve_tokens, chapter.curve_loss, index)
        for index, chapter in enumerate(chapters, 1)
    ]
    chart = line_chart(
        series,
        Axis("training tokens seen", tick=_short),
        Axis("reconstruction loss", log=True, tick=_short),
        "Training loss over tokens seen, one line per autoencoder",
    )
    caption = "Squared error per token of each batch, in training units (mean norm √d)."
    return f'<figure class="wide">{legend(series)}{chart}<figcaption>{caption}</figcaption></figure>'


def _spectrum(chapters: Sequence[Chapter]) -> str:
    found = [(index, chapter, _by_rank(chapter)) for index, chapter in enumerate(chapters, 1)]
    shown = [(index, chapter, densities) for index, chapter, densities in found if len(densities)]
    if not shown:
        return "<p>No feature fires on the held-out tokens.</p>"
    # one range for all, so that the panels can be compared
    x = Axis("rank of the feature", True, _short, [1, max(len(densities) for _, _, densities in shown)])
    ends = [float(value) for _, _, densities in shown for value in (densities[0], densities[-1])]
    y = Axis("share of tokens", True, _percent, ends)
    return f'<div class="figures">{"".join(_spectrum_panel(*each, x, y) for each in shown)}</div>'


def _spectrum_panel(index: int, chapter: Chapter, densities: Sequence[float], x: Axis, y: Axis) -> str:
    name, curve = chapter.result.name, chapter.zipf
    ranks = _spread_ranks(len(densities))
    series = [Series("measured", ranks, [densities[rank - 1] for rank in ranks], index)]
    note = "no curve could be fitted"
    if curve is not None:
        fitted = np.sort(curve.densities(chapter.quality.l0))[::-1]
        series.append(Series("fitted", ranks, [float(fitted[rank - 1]) for rank in ranks], 0, dashed=True))
        note = (
            f"α = {curve.alpha:.2f}, β = {curve.beta:.0f}, R² = {curve.r_squared:.3f}, "
            f"{100 * curve.excluded:.0f} % of features left out as the low tail"
        )
    chart = line_chart(series, x, y, f"{name}: density of features over their rank, both axes logarithmic")
    caption = f"<figcaption><b>{escape(name)}</b> {note}.</figcaption>"
    return f"<figure>{legend(series)}{chart}{caption}</figure>"


def _by_rank(chapter: Chapter) -> list[float]:
    """Densities of the features that fire, the densest first."""
    densities = torch.sort(chapter.quality.densities, descending=True)[0]
    return densities[densities > 0].tolist()


def _histograms(chapters: Sequence[Chapter], k: int) -> str:
    longest = max(len(chapter.quality.histogram) for chapter in chapters)
    # the axis ends where 99.9 % of the tokens of every autoencoder lie; the caption says what is beyond
    end = max(_quantile(chapter, 0.999) for chapter in chapters) + 2
    parts = []
    for index, chapter in enumerate(chapters, 1):
        histogram = chapter.quality.histogram
        shares = [float(n) / chapter.quality.n_tokens for n in histogram] + [0.0] * (longest - len(histogram))
        name = chapter.result.name
        chart = bar_chart(
            shares[:end],
            Axis("features on a token"),
            Axis("share of tokens", tick=_percent),
            f"{name}: share of tokens by number of features",
            index,
            (float(k), f"budget {k}"),
        )
        middle, low, high = (_quantile(chapter, q) for q in (0.5, 0.05, 0.95))
        beyond = sum(shares[end:])
        more = f" {100 * beyond:.2f} % of tokens have {end} or more." if beyond else ""
        parts.append(
            f"<figure>{chart}<figcaption><b>{escape(name)}</b> median {middle}, 90 % of tokens between {low} and "
            f"{high}, most {len(histogram) - 1}.{more}</figcaption></figure>"
        )
    return f'<div class="figures">{"".join(parts)}</div>'


def _features(chapter: Chapter, opened: bool) -> str:
    parts = []
    for found in chapter.features:
        items = "".join(_context(context) for context in found.contexts)
        parts.append(
            f'<h3>Feature {found.feature} <span class="meta">rank {found.rank:,}, fires on '
            f'{100 * found.density:.2g} % of tokens</span></h3><ol class="contexts">{items}</ol>'
        )
    inside = "".join(parts) or "<p>No feature fires often enough to be shown.</p>"
    state = " open" if opened else ""
    return f"<details{state}><summary>{escape(chapter.result.name)}</summary>{inside}</details>"


def _context(context: TokenContext) -> str:
    # white space before the word stays outside the highlight, unless the token is nothing else
    word = context.token.lstrip() or context.token
    space = context.token[: len(context.token) - len(word)]
    before, after = _one_line(context.before + space), _one_line(context.after)
    shown = _one_line(word) if word.strip() or "\n" in word else "␣" * len(word)
    return (
        f"<li>…{escape(before)}<mark>{escape(shown)}</mark>{escape(after)}… "
        f'<span class="meta">{escape(context.document)}, activation {context.value:.3g}</span></li>'
    )


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "↵ ")


def _quantile(chapter: Chapter, share: float) -> int:
    cumulative = chapter.quality.histogram.cumsum(0)
    return int((cumulative < share * chapter.quality.n_tokens).sum())


def _spread_ranks(count: int, points: int = 240) -> list[int]:
    return sorted({round(math.exp(math.log(count) * i / points)) for i in range(points + 1)})


def _short(value: float) -> str:
    """1500 as 1.5 k, 250000 as 250 k."""
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _percent(value: float) -> str:
    return f"{100 * value:g} %"
