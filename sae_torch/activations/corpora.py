"""Text of the user's own: a folder of .txt files, JSON lines, a dataset of `datasets`; split by document."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_torch.activations.text import SPLITS, Document, StateOfTheUnion, TextSource
from sae_torch.errors import InputError

SOTU = "sotu"


@dataclass(frozen=True)
class Corpus:
    r"""Documents of any source, with whole ones held out.

    A document belongs to the test split, the development split or training by the SHA-256 of seed and text: the same
    text two times never lies on both sides, and documents added later move none. All text is held in memory.

    Parameters
    ----------
    source
        Folder of ``*.txt`` files (below it too), a ``.jsonl`` or ``.jsonl.gz`` file, a folder that `datasets` saved,
        or the name of a dataset, ``name`` or ``name:split``.
    field
        Of JSON lines and datasets: where the text is.
    held_out
        Share of the documents in the test split, and as many again in the development split.
    seed
        Of the split.

    Raises
    ------
    InputError
        If there is no text; the text says what was found.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sae_torch.activations import Corpus
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    ...     corpus = Corpus(f"{folder}/a.jsonl", held_out=0.0)
    ...     [document.text for document in corpus.documents("train")]
    ['one', 'two']
    """

    source: str
    field: str = "text"
    held_out: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 0.5:
            raise InputError(f"held_out is {self.held_out:g}, expected a share from 0 to below 0.5")

    @property
    def provenance(self) -> dict[str, str]:
        """Source, digest of all documents, and the rule of the split."""
        digest = hashlib.sha256()
        for document in self._all:
            digest.update(f"{document.name}\0{document.text}\0".encode())
        return {
            "text": Path(self.source).name if Path(self.source).exists() else self.source,
            "text_field": self.field,
            "text_sha256": digest.hexdigest(),
            "text_split": f"SHA-256 of {self.seed} and text, {self.held_out:g} held out",
        }

    def documents(self, split: str) -> list[Document]:
        """Documents of ``"train"``, ``"dev"`` or ``"test"``, in the source's order."""
        if split not in SPLITS:
            raise InputError(f"split is {split!r}, expected one of {', '.join(map(repr, SPLITS))}")
        found = [document for document in self._all if self._split(document) == split]
        if not found:
            raise InputError(
                f"text {self.source}: none of the {len(self._all)} documents falls into the {split} split (held_out "
                f"{self.held_out:g}), expected at least one"
            )
        return found

    def _split(self, document: Document) -> str:
        digest = hashlib.sha256(f"{self.seed}\0{document.text}".encode()).digest()
        place = int.from_bytes(digest[:8]) / 2**64
        return "test" if place < self.held_out else "dev" if place < 2 * self.held_out else "train"

    @cached_property
    def _all(self) -> list[Document]:
        path = Path(self.source).expanduser()
        if path.is_dir() and not (path / "state.json").is_file() and not (path / "dataset_dict.json").is_file():
            found = list(_text_files(path))
        elif path.is_file():
            found = list(_json_lines(path, self.field))
        elif self.source.startswith(("/", "./", "../", "~")) and not path.exists():
            raise InputError(f"text is {self.source!r}, expected a folder or a .jsonl file there, found nothing")
        else:
            found = list(_dataset(self.source, path, self.field))
        if not any(document.text.strip() for document in found):
            raise InputError(f"text {self.source}: expected documents with text, found {len(found)} without any")
        return found


def text_source(text: str, field: str = "text", held_out: float = 0.05) -> TextSource:
    """The State of the Union addresses for ``"sotu"``, else a `Corpus`."""
    return StateOfTheUnion() if text == SOTU else Corpus(text, field, held_out)


def _text_files(folder: Path) -> Iterator[Document]:
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise InputError(f"text {folder}: expected .txt files, found none")
    for file in files:
        try:
            yield Document(str(file.relative_to(folder).with_suffix("")), file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"text {file}: not readable as UTF-8 ({error})") from None


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"text {path}: expected a folder, or a .jsonl or .jsonl.gz file")
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield Document(f"{path.name}:{number}", _text_of(json.loads(line), field, f"{path}, line {number}"))
        except (UnicodeDecodeError, json.JSONDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise InputError(f"text {path}: not readable as JSON lines ({error})") from None


def _dataset(source: str, path: Path, field: str) -> Iterator[Document]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"text {source!r} is no folder or file; datasets need `pip install 'sae-allocation[datasets]'`"
        ) from error
    name, _, split = source.partition(":")
    try:
        if path.is_dir():
            found: Any = datasets.load_from_disk(str(path))
            if isinstance(found, dict):
                raise InputError(f"text {source}: holds the splits {sorted(found)}, expected the folder of one of them")
        else:
            found = datasets.load_dataset(name, split=split or "train")
    except InputError:
        raise
    except Exception as error:  # of its many kinds of errors none says what was asked for
        raise InputError(
            f"text {source!r} is no folder or file here, and `datasets` cannot load it ({' '.join(str(error).split())})"
        ) from None
    for number, row in enumerate(found):
        yield Document(f"{name}:{number}", _text_of(row, field, f"{source}, row {number}"))


def _text_of(row: Any, field: str, where: str) -> str:
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        names = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise InputError(f"text {where}: expected a text in field {field!r}, found {names}")
    return text
