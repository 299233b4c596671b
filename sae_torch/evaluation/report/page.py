"""The report: one self-contained HTML page about several autoencoders."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sae_torch.errors import InputError
from sae_torch.evaluation.evaluation import Evaluation
from sae_torch.evaluation.feature_pages import FeaturePage
from sae_torch.evaluation.report.figures import (
    batches,
    collapse,
    difficulty,
    histograms,
    null,
    spectrum,
    training,
)
from sae_torch.evaluation.report.table import result_table

PACKAGE = "sae_torch.evaluation.report"
MOST = 8


def render_report(
    evaluations: Sequence[Evaluation],
    facts: Mapping[str, str],
    lead: str = "Sparse autoencoders side by side, judged on held-out activations.",
) -> str:
    """Render the page; it needs no network and no other file.

    Parameters
    ----------
    evaluations : Sequence[Evaluation]
        One per autoencoder, eight at most: that many colours are told apart.
    facts : Mapping[str, str]
        What was run, by label, for the end of the page.
    lead : str
        The sentence under the title.

    Returns
    -------
    HTML text, equal for equal arguments.

    Raises
    ------
    InputError
        If there are no evaluations or more than eight, or two of one name.
    """
    names = [evaluation.name for evaluation in evaluations]
    if not 1 <= len(names) <= MOST:
        raise InputError(f"{len(names)} autoencoders, expected 1 to {MOST} on one page")
    if len(set(names)) < len(names):
        raise InputError(f"two autoencoders are called {max(names, key=names.count)!r}, expected names that differ")
    pages = [[_feature_page(page) for page in evaluation.features] for evaluation in evaluations]
    # each by the name of its template, with what the template shows
    sections: list[tuple[str, str, Any]] = [
        ("result", "Result", result_table(evaluations)),
        ("training", "Training", training(evaluations)),
        ("spectrum", "How often features fire", spectrum(evaluations)),
        ("tokens", "How many features a token gets", histograms(evaluations)),
        ("difficulty", "Who gets the features", difficulty(evaluations)),
        ("batches", "What the batch does", batches(evaluations)),
        ("collapse", "Whether features are copies", collapse(evaluations)),
        ("null", "Whether the matching matters", null(evaluations)),
        ("features", "Features in text", [(i, name) for i, name in enumerate(names) if pages[i]]),
        ("run", "What was run", facts),
    ]
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=_title(names),
            lead=lead,
            sections=[section for section in sections if section[2]],
            pages=pages if any(pages) else None,
            style=_file("page.css"),
            script=_file("page.js"),
        )
    )


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment


def _title(names: Sequence[str]) -> str:
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return text[:1].upper() + text[1:]


def _file(name: str) -> Markup:
    return Markup(importlib.resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8"))


def _feature_page(page: FeaturePage) -> list[Any]:
    """What the script reads of a page, in its order."""
    return [
        page.feature, page.rank, page.density, page.nearest, round(page.cosine, 4), page.promotes,
        page.suppresses, [[c.before, c.token, c.after, round(c.value, 4), c.document] for c in page.contexts],
    ]  # fmt: skip
