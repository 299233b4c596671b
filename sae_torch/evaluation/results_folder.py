"""The folder of one run: nothing half-written, nothing of another configuration, and what is finished stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_torch.errors import InputError
from sae_torch.files import new_folder, write_text

RESULTS, REPORT, UNFINISHED = "results.json", "report.html", "unfinished"


@dataclass(frozen=True)
class ResultsFolder:
    """Where a run stores what it finishes, and publishes its results at the end.

    Until the end everything lies in the subfolder ``unfinished``, so that older results of the same configuration stay
    whole while they are made again.

    Parameters
    ----------
    path : path
        The folder.
    configuration : mapping
        What determines the results, by name; plain JSON values.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sae_torch.evaluation import ResultsFolder
    >>> with tempfile.TemporaryDirectory() as path:
    ...     folder = ResultsFolder(pathlib.Path(path), {"seed": 0})
    ...     folder.claim()
    ...     _ = folder.write_part("mine", lambda part: None)
    ...     folder.publish({"nmse": 0.2}, "<p>0.2</p>")
    ...     sorted(file.name for file in folder.path.iterdir())
    ['mine', 'report.html', 'results.json']
    """

    path: Path
    configuration: Mapping[str, Any]

    @property
    def working(self) -> Path:
        """Where the parts of an unfinished run lie."""
        return self.path / UNFINISHED

    def claim(self, overwrite: bool = False) -> None:
        """Make the folder ready for this configuration.

        Raises
        ------
        InputError
            If it holds results, finished or not, of another configuration and `overwrite` is False.
        OSError
            If it cannot be written.
        """
        for file in (self.path / RESULTS, self.working / RESULTS):
            if overwrite or not file.exists():
                continue
            difference = self._difference(file)
            if difference:
                raise InputError(
                    f"{file}: expected results of this configuration, found others ({difference}); choose another "
                    "--out or replace them with --overwrite"
                )
        if (self.working / RESULTS).exists() and self._difference(self.working / RESULTS):
            shutil.rmtree(self.working)
        self.working.mkdir(parents=True, exist_ok=True)
        for leftover in self.working.glob("*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        write_text(self.working / RESULTS, json.dumps({"configuration": self.configuration}, indent=2))

    @property
    def published(self) -> dict[str, Any] | None:
        """Finished results of this configuration, with nothing of theirs missing; None otherwise."""
        file = self.path / RESULTS
        if not file.exists() or self._difference(file) or not (self.path / REPORT).exists():
            return None
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def part(self, name: str) -> Path | None:
        """Folder of a finished part, None if it is not finished."""
        folder = self.working / name
        return folder if folder.is_dir() else None

    def write_part(self, name: str, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a folder, which gets its name only when it is complete.

        Parameters
        ----------
        name : str
            Name of the part.
        write : callable path -> None
            Fills the folder at that path.

        Returns
        -------
        path
            The complete folder.
        """
        folder = self.working / name
        with new_folder(folder) as beside:
            write(beside)
        return folder

    def publish(self, results: Mapping[str, Any], report: str | Path) -> None:
        """Move the parts, the report and the results out of ``unfinished``; the results come last.

        Parameters
        ----------
        results : mapping
            What ``results.json`` says beside the configuration.
        report : str or path
            The page, or the file that holds it, which is moved.
        """
        for part in sorted(folder for folder in self.working.iterdir() if folder.is_dir()):
            published = self.path / part.name
            if published.exists():
                shutil.rmtree(published)
            part.rename(published)
        if isinstance(report, Path):
            report.replace(self.path / REPORT)
        else:
            write_text(self.path / REPORT, report)
        write_text(self.path / RESULTS, json.dumps({"configuration": self.configuration, **results}, indent=2))
        shutil.rmtree(self.working)

    def _difference(self, file: Path) -> str:
        """What distinguishes the configuration in a file from this one; empty if they are equal."""
        try:
            there = json.loads(file.read_text(encoding="utf-8"))["configuration"]
            names = sorted(name for name in {*there, *self.configuration} if self._value(there, name) != self[name])
        except (ValueError, KeyError, TypeError):
            return "not of this program"
        return ", ".join(f"{name} {self._value(there, name)} there, {self[name]} here" for name in names)

    def __getitem__(self, name: str) -> Any:
        return self._value(self.configuration, name)

    @staticmethod
    def _value(configuration: Mapping[str, Any], name: str) -> Any:
        return configuration.get(name, "absent")
