"""The table of the report: a row for each autoencoder, sorted by any figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from sae_torch.evaluation.evaluation import Evaluation, ModelFigures


@dataclass(frozen=True)
class Figure:
    """One column.

    Parameters
    ----------
    label, unit
        The two lines of its head.
    value
        What it shows and sorts by; None where it was not measured.
    text
        How it is written.
    better
        1 if larger is better, -1 if smaller is, 0 if neither.
    """

    label: str
    unit: str
    value: Callable[[Evaluation], float | None]
    text: Callable[[float], str]
    better: int = 0


def _of_model(figure: Callable[[ModelFigures], float]) -> Callable[[Evaluation], float | None]:
    return lambda evaluation: None if evaluation.model is None else figure(evaluation.model)


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


FIGURES = (
    Figure("NMSE", "", lambda e: e.nmse, lambda v: f"{v:.4f}", -1),
    Figure("FVU", "", lambda e: e.fvu, lambda v: f"{v:.4f}", -1),
    Figure("cosine", "", lambda e: e.cosine, lambda v: f"{v:.4f}", 1),
    Figure("L0", "per token", lambda e: e.l0, lambda v: f"{v:.2f}"),
    Figure("dead", "features", lambda e: e.dead, lambda v: f"{v:.0f}", -1),
    Figure("under-used", "features", lambda e: e.underused, lambda v: f"{v:.0f}", -1),
    Figure("CE clean", "nats", _of_model(lambda m: m.ce_clean), lambda v: f"{v:.3f}"),
    Figure("CE spliced", "nats", _of_model(lambda m: m.ce_spliced), lambda v: f"{v:.3f}", -1),
    Figure("KL", "nats", _of_model(lambda m: m.kl_spliced), lambda v: f"{v:.3f}", -1),
    Figure("recovered", "of zero", _of_model(lambda m: m.recovered("zero")), _percent, 1),
    Figure("recovered", "of mean", _of_model(lambda m: m.recovered("mean")), _percent, 1),
)


def result_table(evaluations: Sequence[Evaluation]) -> str:
    """The table with the paragraph that says what its figures are."""
    shown = [figure for figure in FIGURES if any(_known(figure, e) is not None for e in evaluations)]
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{figure.label}{_unit(figure)}</button></th>'
        for figure in shown
    )
    best = [_best(figure, evaluations) for figure in shown]
    rows = "".join(
        f'<tr><th scope="row"><span class="dot c{index}"></span>{escape(evaluation.name)}</th>'
        + "".join(_cell(figure, evaluation, top) for figure, top in zip(shown, best, strict=True))
        + "</tr>"
        for index, evaluation in enumerate(evaluations, 1)
    )
    tokens = {evaluation.n_tokens for evaluation in evaluations}
    said = f"{tokens.pop():,}" if len(tokens) == 1 else "the"
    loss = (
        " CE is the cross-entropy of the language model in nats per token, with its own activations (clean) and with "
        "reconstructions in their place (spliced); KL is the divergence of the spliced predictions from the clean "
        "ones. Recovered is the share of the loss an ablation (zeros, or the mean) adds that the reconstruction avoids."
    )
    with_loss = any(evaluation.model is not None for evaluation in evaluations)
    first = '<th scope="col" aria-sort="none"><button type="button">autoencoder</button></th>'
    return (
        '<div class="scroll" role="region" aria-label="Results" tabindex="0"><table class="sortable">'
        f"<thead><tr>{first}{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p>All figures are from {said} held-out tokens with every token encoded on its own, as in deployment. NMSE "
        "is the squared error over the variance, the two summed separately: 0 is perfect, 1 is no better than the "
        "mean. FVU is the same without what a constant shift would mend; cosine is that of activation and "
        "reconstruction. L0 is the mean number of features per token. A feature is dead if it fires on none of the "
        "tokens, under-used if it fires less than a tenth as often as the mean feature."
        f"{loss if with_loss else ''} The best of each column is bold; compare only rows of about the same L0. A click "
        "on a heading sorts.</p>"
    )


def _unit(figure: Figure) -> str:
    return f"<small>{figure.unit}</small>" if figure.unit else ""


def _known(figure: Figure, evaluation: Evaluation) -> float | None:
    value = figure.value(evaluation)
    return None if value is None or value != value else value


def _best(figure: Figure, evaluations: Sequence[Evaluation]) -> float | None:
    values = [value for e in evaluations if (value := _known(figure, e)) is not None]
    if not figure.better or len(values) < 2 or len(set(values)) == 1:
        return None
    return max(values) if figure.better > 0 else min(values)


def _cell(figure: Figure, evaluation: Evaluation, best: float | None) -> str:
    value = _known(figure, evaluation)
    if value is None:
        return "<td>–</td>"
    text = figure.text(value)
    return f'<td data-value="{value!r}">{f"<b>{text}</b>" if value == best else text}</td>'
