"""Evaluations in a file, and as tables for the terminal."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_torch.errors import InputError
from sae_torch.evaluation.evaluation import Evaluation
from sae_torch.evaluation.results import aligned
from sae_torch.files import write_text

# Raised when files of before cannot be read any more.
FORMAT = 1


@dataclass(frozen=True)
class EvaluationFile:
    """Evaluations on the same activations, and what they were measured on.

    Parameters
    ----------
    evaluations : tuple of Evaluation
        One per autoencoder.
    facts : mapping of str to str
        What was run, by label.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sae_torch.evaluation import EvaluationFile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "evaluation.json")
    ...     EvaluationFile((), {"Site": "hidden_states[11]"}).write(path)
    ...     EvaluationFile.read(path)
    EvaluationFile(evaluations=(), facts={'Site': 'hidden_states[11]'})
    """

    evaluations: tuple[Evaluation, ...]
    facts: Mapping[str, str]

    def write(self, path: Path) -> None:
        """Write all of it or nothing, into a folder that is made if it is missing.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        content: dict[str, Any] = {"format": FORMAT, "facts": dict(self.facts)}
        content["evaluations"] = [_beside(evaluation, path).as_json() for evaluation in self.evaluations]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(_without_nan(content), allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> EvaluationFile:
        """Read a file that `write` wrote.

        Raises
        ------
        InputError
            If it is not there, is of another format, or holds something else.
        """
        if not path.is_file():
            raise InputError(f"{path}: expected a file of `sae-torch evaluate`, found nothing")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise InputError(f"{path}: expected format {FORMAT}, found {content['format']!r}; evaluate again")
            found = (Evaluation.from_json(values) for values in content["evaluations"])
            evaluations = tuple(
                one if one.dashboard is None else dataclasses.replace(one, dashboard=_found(one.dashboard, path))
                for one in found
            )
            return cls(evaluations, dict(content["facts"]))
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: expected a file of `sae-torch evaluate`, found something else "
                f"({type(error).__name__}: {error})"
            ) from None


def dashboard_beside(path: Path, number: int, name: str) -> Path:
    """Where the feature pages of an autoencoder lie that a file is about: in a folder named after the file."""
    # numbered, since names that differ may be alike as names of files
    plain = re.sub(r"[^\w.-]+", "-", name)
    return path.with_suffix(".features") / f"{number}-{plain}.zip"


def _beside(evaluation: Evaluation, path: Path) -> Evaluation:
    """The evaluation with its dashboard by the way from the file, so that both can be moved together.

    In the folder of `dashboard_beside` it is named alone: a file says the same whatever its own name is.
    """
    if evaluation.dashboard is None:
        return evaluation
    file = evaluation.dashboard.resolve()
    usual = file.parent == path.resolve().with_suffix(".features")
    way = file.name if usual else os.path.relpath(file, path.parent.resolve())
    return dataclasses.replace(evaluation, dashboard=Path(way))


def _found(way: Path, path: Path) -> Path:
    """Where the dashboard lies that `_beside` wrote down."""
    usual, other = path.with_suffix(".features") / way, path.parent / way
    return other if other.exists() and not usual.exists() else usual


def tables(evaluations: Sequence[Evaluation]) -> str:
    """The figures as tables for the terminal."""
    parts = [
        aligned(
            ["", "NMSE", "FVU", "cosine", "L0", "budget", "dead", "under-used", "features", "alike"],
            [""] * 10,
            [
                [
                    e.name, f"{e.nmse:.4f}", f"{e.fvu:.4f}", f"{e.cosine:.4f}", f"{e.l0:.2f}", f"{e.k:g}", str(e.dead),
                    str(e.underused), str(e.n_features), "-" if e.cosines is None else f"{100 * e.cosines.alike:.2f} %",
                ]
                for e in evaluations
            ],
        )
    ]  # fmt: skip
    with_model = [(e.name, e.model) for e in evaluations if e.model is not None]
    if with_model:
        heads = ["language model", "CE clean", "spliced", "mean", "zero", "KL", "recovered", "recovered", "recovered"]
        units = ["", "nats", "nats", "nats", "nats", "nats", "CE, of zero", "CE, of mean", "KL, of mean"]
        rows = [
            [
                name, *(f"{value:.3f}" for value in (m.ce_clean, m.ce_spliced, m.ce_mean, m.ce_zero, m.kl_spliced)),
                *(f"{100 * v:.2f} %" for v in (m.recovered("zero"), m.recovered("mean"), m.recovered("mean", "kl"))),
            ]
            for name, m in with_model
        ]  # fmt: skip
        parts.append(aligned(heads, units, rows))
    if any(e.batch_modes for e in evaluations):
        rows = [
            [e.name, str(b.batch_size), b.order, f"{b.nmse:.4f}", f"{b.l0:.2f}", f"{100 * b.agreement:.1f} %"]
            for e in evaluations
            for b in e.batch_modes
        ]
        parts.append(aligned(["batch mode", "tokens", "order", "NMSE", "L0", "as batch-free"], [""] * 6, rows))
    rows = [
        [e.name, *(f"{d.l0[i]:.1f}" for i in (0, len(d.l0) // 2, -1)), _correlation(d.correlation)]
        for e in evaluations
        if (d := e.difficulty) is not None
    ]
    if rows:
        heads = ["L0 by difficulty", "easiest tenth", "middle", "hardest tenth", "rank correlation"]
        parts.append(aligned(heads, [""] * 5, rows))
    rows = [
        [e.name, f"{n.nmse:.4f}", f"{n.null_nmse:.4f}", f"{n.total_score:.1f}", f"{n.null_total_score:.1f}"]
        for e in evaluations
        if (n := e.null) is not None
    ]
    if rows:
        heads = ["edge-swap null", "NMSE", "swapped", "score", "swapped"]
        parts.append(aligned(heads, ["", "", "", "per token", "per token"], rows))
    return "\n\n".join(parts)


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _without_nan(value: Any) -> Any:
    """The value with None for NaN, since JSON has no NaN: a figure that does not exist is null there."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
