"""The report: one self-contained HTML page about several autoencoders."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from html import escape

from sae_torch.errors import InputError
from sae_torch.evaluation.evaluation import Evaluation
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

MOST = 8


def render_report(
    evaluations: Sequence[Evaluation],
    facts: Mapping[str, str],
    lead: str = "Sparse autoencoders side by side, judged on held-out activations.",
) -> str:
    """Render the page; it needs no network and no other file.

    Parameters
    ----------
    evaluations
        One per autoencoder, eight at most: that many colours are told apart.
    facts
        What was run, by label, for the end of the page.
    lead
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
    sections = [
        ("result", "Result", result_table(evaluations)),
        ("training", "Training", training(evaluations)),
        ("spectrum", "How often features fire", spectrum(evaluations)),
        ("tokens", "How many features a token gets", histograms(evaluations)),
        ("difficulty", "Who gets the features", difficulty(evaluations)),
        ("batches", "What the batch does", batches(evaluations)),
        ("collapse", "Whether features are copies", collapse(evaluations)),
        ("null", "Whether the matching matters", null(evaluations)),
        ("features", "Features in text", _features(evaluations)),
        ("run", "What was run", _facts(facts)),
    ]
    shown = [section for section in sections if section[2]]
    contents = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading, _ in shown)
    body = "\n".join(
        f'<section id="{anchor}">\n<h2>{heading}</h2>\n{text}\n</section>' for anchor, heading, text in shown
    )
    title = _title(names)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # an empty icon, so that no browser asks for one
        '<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>\n{_file('page.css')}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n{body}\n</main>\n'
        f"{_pages(evaluations)}<script>\n{_file('page.js')}</script>\n</body>\n</html>\n"
    )


def _title(names: Sequence[str]) -> str:
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return escape(text[:1].upper() + text[1:])


def _file(name: str) -> str:
    return importlib.resources.files("sae_torch.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def _features(evaluations: Sequence[Evaluation]) -> str:
    counts = [len(evaluation.features) for evaluation in evaluations]
    if not any(counts):
        return ""
    options = "".join(
        f'<option value="{index}">{escape(evaluation.name)}</option>'
        for index, evaluation in enumerate(evaluations)
        if evaluation.features
    )
    return (
        "<p>Features at ranks of density that are evenly spread on a log scale, none picked by hand, with the held-out "
        "tokens on which each is largest. Promoted and suppressed are the tokens whose logits the feature's direction "
        "raises and lowers most when it is read by the model’s own head (logit lens).</p>"
        '<form class="tools" role="search"><label>Autoencoder <select id="which">'
        f"{options}</select></label>"
        '<label class="grow">Search <input id="query" type="search" autocomplete="off" '
        'placeholder="a number, or words of a text or a token"></label>'
        '<label>Order <select id="order"><option value="rank">most frequent first</option>'
        '<option value="rare">rarest first</option><option value="feature">by number</option>'
        '<option value="cosine">closest to another first</option></select></label></form>'
        '<p class="meta" id="found" role="status"></p><ol id="list"></ol>'
        '<button type="button" id="more" hidden>Show more</button>'
        "<noscript><p>Feature pages need JavaScript; the figures above do not.</p></noscript>"
    )


def _pages(evaluations: Sequence[Evaluation]) -> str:
    """Feature pages as inert text, which the script reads."""
    if not any(evaluation.features for evaluation in evaluations):
        return ""
    content = [
        [
            [
                page.feature, page.rank, page.density, page.nearest, round(page.cosine, 4), page.promotes,
                page.suppresses, [[c.before, c.token, c.after, round(c.value, 4), c.document] for c in page.contexts],
            ]
            for page in evaluation.features
        ]
        for evaluation in evaluations
    ]  # fmt: skip
    # no text may end the element
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="pages">{text}</script>\n'


def _facts(facts: Mapping[str, str]) -> str:
    items = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in facts.items())
    return f"<dl>{items}</dl>" if items else ""
