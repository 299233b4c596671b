"""The command `report`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sae_torch.commands.evaluate import Evaluate
from sae_torch.errors import InputError
from sae_torch.evaluation.evaluation import Evaluation
from sae_torch.evaluation.evaluation_file import EvaluationFile
from sae_torch.evaluation.report.page import is_folder, write_report
from sae_torch.files import require_free
from sae_torch.interop.weight_headers import SUFFIXES

# A file that a browser takes more than a moment to read.
LARGE = 50e6


@dataclass(frozen=True)
class Report:
    """Show evaluations side by side on one page that needs no network."""

    evaluations: tuple[Path, ...]
    """Files that `evaluate` wrote; or the run of a `train`, or dictionaries that `import` reads, which are judged first
    on `activations`; `report PATH` does without the name."""
    out: Path = Path("report.html")
    """Page to write: one file, or, without a suffix, a folder whose parts are read when they are shown, for large
    dictionaries. The evaluation of dictionaries lies beside it, as .json."""
    activations: Path | None = None
    """Held-out activations for dictionaries, by default those of a run's held-out documents; `evaluate` has more
    options."""
    targets: Path | None = None
    """With transcoders: held-out activations of what they compute, of the same tokens in the same order; by default
    those that were harvested with the inputs."""
    model: str | None = None
    """Language model, where the activations do not name one that can be loaded."""
    k: float | None = None
    """Features per token of dictionaries, where neither files nor path say it."""
    overwrite: bool = False
    """Replace the page."""

    FIRST: ClassVar[str] = "evaluations"

    def run(self) -> None:
        """Read, render, write.

        Raises
        ------
        InputError
            If a file is no evaluation, or the page exists and `overwrite` is False.
        """
        if not self.evaluations:
            raise InputError("evaluations: expected at least one file, found none")
        if is_folder(self.out) and self.out.is_dir():
            if not self.overwrite:
                raise InputError(
                    f"{self.out} is a folder, expected a file to write or a folder that is not there yet; choose "
                    "another --out or replace a report with --overwrite"
                )
        else:
            require_free(self.out, self.overwrite)
        dictionaries = tuple(path for path in self.evaluations if path.is_dir() or path.suffix in SUFFIXES)
        files = {path: EvaluationFile.read(path) for path in self.evaluations if path not in dictionaries}
        if dictionaries:
            judged = self._judged(dictionaries)
            files[judged] = EvaluationFile.read(judged)
        times = Counter(evaluation.name for file in files.values() for evaluation in file.evaluations)
        shown: list[Evaluation] = []
        facts: dict[str, str] = {}
        for path, file in files.items():
            for evaluation in file.evaluations:
                name = evaluation.name if times[evaluation.name] == 1 else f"{path.stem}: {evaluation.name}"
                dashboard = evaluation.dashboard
                if dashboard is not None and not dashboard.is_file():
                    print(f"{dashboard}: the pages of all features of {evaluation.name} are not there, some are shown")
                    dashboard = None
                shown.append(dataclasses.replace(evaluation, name=name, dashboard=dashboard))
            facts |= {label if len(files) == 1 else f"{path.stem}: {label}": text for label, text in file.facts.items()}
        write_report(self.out, shown, facts, overwrite=self.overwrite)
        print(self.out / "index.html" if is_folder(self.out) else self.out)
        if self.out.is_file() and self.out.stat().st_size > LARGE:
            print(
                f"{self.out.stat().st_size / 1e6:.0f} MB: as a folder it opens faster, --out {self.out.with_suffix('')}"
            )

    def _judged(self, dictionaries: tuple[Path, ...]) -> Path:
        """The evaluation of dictionaries, as `evaluate` writes it."""
        out = self.out.with_suffix(".json")
        Evaluate(
            dictionaries, self.activations, self.targets, out, model=self.model, k=self.k, overwrite=self.overwrite
        ).run()
        return out
