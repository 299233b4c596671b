"""The command `report`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sae_torch.errors import InputError
from sae_torch.evaluation.evaluation import Evaluation
from sae_torch.evaluation.evaluation_file import EvaluationFile
from sae_torch.evaluation.report.page import render_report
from sae_torch.files import require_free, write_text


@dataclass(frozen=True)
class Report:
    """Show evaluations side by side on one page that needs no network."""

    evaluations: tuple[Path, ...]
    """Files that `evaluate` wrote."""
    out: Path = Path("report.html")
    """Page to write."""
    overwrite: bool = False
    """Replace the page."""

    def run(self) -> None:
        """Read, render, write.

        Raises
        ------
        InputError
            If a file is no evaluation, or the page exists and `overwrite` is False.
        """
        if not self.evaluations:
            raise InputError("evaluations: expected at least one file, found none")
        require_free(self.out, self.overwrite)
        files = {path: EvaluationFile.read(path) for path in self.evaluations}
        times = Counter(evaluation.name for file in files.values() for evaluation in file.evaluations)
        shown: list[Evaluation] = []
        facts: dict[str, str] = {}
        for path, file in files.items():
            for evaluation in file.evaluations:
                name = evaluation.name if times[evaluation.name] == 1 else f"{path.stem}: {evaluation.name}"
                shown.append(dataclasses.replace(evaluation, name=name))
            facts |= {label if len(files) == 1 else f"{path.stem}: {label}": text for label, text in file.facts.items()}
        page = render_report(shown, facts)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.out, page)
        print(self.out)
