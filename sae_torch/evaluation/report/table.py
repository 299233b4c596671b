"""The table of the report: a row for each autoencoder, sorted by any figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sae_torch.evaluation.evaluation import Evaluation, ModelFigures
from sae_torch.evaluation.report.methods import colours, equal_l0


@dataclass(frozen=True)
class Figure:
    """One column.

    Parameters
    ----------
    label, unit : str
        The two lines of its head.
    value : Callable[[Evaluation], float or None]
        What it shows and sorts by; None where it was not measured.
    text : Callable[[float], str]
        How it is written.
    better : int
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


def result_table(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """What the template of the table shows: its heads, and a row of cells for each autoencoder."""
    heads = [figure for figure in FIGURES if any(_known(figure, e) is not None for e in evaluations)]
    groups = [[evaluations[i] for i in group] for group in equal_l0(evaluations)]
    group_of = {e.name: group for group in groups for e in group}
    shades = colours(evaluations)
    tokens = {evaluation.n_tokens for evaluation in evaluations}
    return {
        "heads": heads,
        "rows": [
            (e.name, shade, [_cell(figure, e, _best(figure, group_of[e.name])) for figure in heads])
            for e, shade in zip(evaluations, shades, strict=True)
        ],
        "tokens": f"{tokens.pop():,}" if len(tokens) == 1 else "the",
        "with_loss": any(e.model is not None for e in evaluations),
    }


def _known(figure: Figure, evaluation: Evaluation) -> float | None:
    value = figure.value(evaluation)
    return None if value is None or value != value else value


def _best(figure: Figure, evaluations: Sequence[Evaluation]) -> float | None:
    values = [value for e in evaluations if (value := _known(figure, e)) is not None]
    if not figure.better or len(values) < 2 or len(set(values)) == 1:
        return None
    return max(values) if figure.better > 0 else min(values)


def _cell(figure: Figure, evaluation: Evaluation, best: float | None) -> dict[str, Any] | None:
    value = _known(figure, evaluation)
    return None if value is None else {"value": value, "text": figure.text(value), "best": value == best}
