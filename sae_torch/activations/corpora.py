"""Text of the user's own: a folder of .txt files, JSON lines, a dataset of `datasets`; split by document."""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_torch.activations.text import ENCODING, SPLITS, Document, StateOfTheUnion, TextSource
from sae_torch.errors import InputError

# Suffixes of files that can be read as streams, where they are not .txt.
STREAMED = {".jsonl", ".json", ".parquet", ".csv", ".arrow", ".gz"}

SOTU = "sotu"


@dataclass(frozen=True)
class Corpus:
    r"""Documents of any source, with whole ones held out.

    A document belongs to the test split, the development split or training by the SHA-256 of seed and text: the same
    text two times never lies on both sides, and documents added later move none. Documents are read one at a time; a
    harvest holds the tokens of one split, 8 bytes each, since it shuffles all windows. More text streams:
    `StreamedText`.

    Parameters
    ----------
    source : str
        Folder of ``*.txt`` files (below it too), a ``.jsonl`` or ``.jsonl.gz`` file, a folder that `datasets` saved,
        or the name of a dataset, ``name`` or ``name:split``.
    field : str
        Field of JSON lines and datasets that holds the text.
    held_out : float
        Share of the documents in the test split, from 0 to below 0.5, and as many again in the development split.
    seed : int
        Seed of the split.

    Raises
    ------
    InputError
        If `held_out` is no such share; when the documents are first read, if there is no text.

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
        require_share(self.held_out)

    @cached_property
    def provenance(self) -> dict[str, str]:
        """What identifies the text: source, digest of all documents, rule of the split."""
        digest, found, written = hashlib.sha256(), 0, False
        for document in self._read():
            digest.update(_digested(document))
            found, written = found + 1, written or bool(document.text.strip())
        if not written:
            raise InputError(f"text {self.source}: expected documents with text, found {found} without any")
        return {
            "text": Path(self.source).name if Path(self.source).exists() else self.source,
            "text_field": self.field,
            "text_sha256": digest.hexdigest(),
            "text_split": split_rule(self.seed, self.held_out),
        }

    def documents(self, split: str) -> list[Document]:
        """Documents of one split, in the source's order.

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
            If there is no such split, or no document falls into it.
        """
        return list(self.iterate(split))

    def iterate(self, split: str) -> Iterator[Document]:
        """The same documents one at a time; at the end the whole text has been seen to be that of `provenance`.

        Raises
        ------
        InputError
            Also if the text was changed in between.
        """
        if split not in SPLITS:
            raise InputError(f"split: expected one of {', '.join(map(repr, SPLITS))}, found {split!r}")
        expected = self.provenance["text_sha256"]
        digest, found, chosen = hashlib.sha256(), 0, 0
        for document in self._read():
            digest.update(_digested(document))
            found += 1
            if split_of(document.text, self.seed, self.held_out) == split:
                chosen += 1
                yield document
        if digest.hexdigest() != expected:
            raise InputError(f"text {self.source}: expected the same text to the end, found that it has been changed")
        if not chosen:
            raise InputError(
                f"text {self.source}: expected at least one document in the {split} split, found none of the "
                f"{found} (held_out {self.held_out:g}); give more documents, or hold out more of them, which changes "
                "what is trained on"
            )

    def _read(self) -> Iterator[Document]:
        path = Path(self.source).expanduser()
        if path.is_dir() and not is_saved(path):
            return _text_files(path)
        if path.is_file():
            return _json_lines(path, self.field)
        if self.source.startswith(("/", "./", "../", "~")) and not path.exists():
            raise InputError(f"text {self.source}: expected a folder or a .jsonl file, found nothing")
        return _dataset(self.source, self.field)


def split_of(text: str, seed: int, held_out: float) -> str:
    """The split of a document, by its text alone: the same text never lies in two."""
    digest = hashlib.sha256(f"{seed}\0{text}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64
    return "test" if share < held_out else "dev" if share < 2 * held_out else "train"


def split_rule(seed: int, held_out: float) -> str:
    """What provenance says of `split_of`."""
    return f"SHA-256 of {seed} and text, {held_out:g} held out"


def require_share(held_out: float) -> None:
    """Refuse what cannot be held out two times."""
    if not 0 <= held_out < 0.5:
        raise InputError(f"held_out: expected a share from 0 to below 0.5, found {held_out:g}")


def _digested(document: Document) -> bytes:
    return f"{document.name}\0{document.text}\0".encode()


def text_source(text: str, field: str = "text", held_out: float = 0.05) -> TextSource:
    """The text source that a setting names.

    Parameters
    ----------
    text : str
        ``"sotu"`` for the State of the Union addresses, else the source of a `Corpus`.
    field : str
        Field of JSON lines and datasets that holds the text.
    held_out : float
        Share of the documents in the test split, and as many again in the development split.

    Returns
    -------
    StateOfTheUnion or Corpus

    Examples
    --------
    >>> from sae_torch.activations import text_source
    >>> text_source("texts", held_out=0.1)
    Corpus(source='texts', field='text', held_out=0.1, seed=0)
    """
    return StateOfTheUnion() if text == SOTU else Corpus(text, field, held_out)


def _text_files(folder: Path) -> Iterator[Document]:
    files = sorted(folder.rglob("*.txt"))
    if not files:
        kinds = sorted({file.suffix or "none" for file in folder.rglob("*") if file.is_file()})
        hint = f", but suffixes {', '.join(kinds[:5])}{', ...' if len(kinds) > 5 else ''}" if kinds else ""
        can = "; set `stream` to read those" if set(kinds) & STREAMED else ""
        raise InputError(f"text {folder}: expected .txt files, found none{hint}{can}")
    for file in files:
        try:
            yield Document(str(file.relative_to(folder).with_suffix("")), file.read_text(encoding=ENCODING))
        except UnicodeDecodeError as error:
            raise InputError(f"text {file}: expected UTF-8, found something else ({error})") from None


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(
            f"text {path}: expected a folder, or a .jsonl or .jsonl.gz file, found a file of another kind; set "
            "`stream` to read it"
        )
    with gzip.open(path, "rt", encoding=ENCODING) if path.suffix == ".gz" else path.open(encoding=ENCODING) as lines:
        try:
            for index, line in enumerate(lines, start=1):
                if line.strip():
                    yield Document(f"{path.name}:{index}", text_of(json.loads(line), field, f"{path}, line {index}"))
        except (UnicodeDecodeError, json.JSONDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise InputError(f"text {path}: expected JSON lines, found something else ({error})") from None


def is_saved(path: Path) -> bool:
    """Whether it is a folder that `datasets` saved."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def load_rows(source: str, streaming: bool = False) -> Any:
    """Rows of what `datasets` saved or can load, of which a file or folder may be one.

    Raises
    ------
    ModuleNotFoundError
        If `datasets` is not installed.
    InputError
        If there is no such thing.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        found = "one that is not of .txt files" if Path(source).expanduser().exists() else "neither"
        raise ModuleNotFoundError(
            f"text {source}: expected a folder or a file, found {found}; datasets need "
            "`pip install 'sae-allocation[datasets]'`"
        ) from error
    path = Path(source).expanduser()
    name, _, split = (source, "", "") if path.exists() else source.partition(":")
    try:
        if path.is_dir() and (is_saved(path) or not streaming):
            rows: Any = datasets.load_from_disk(str(path))
            if isinstance(rows, dict):
                raise InputError(f"text {source}: expected the folder of one split, found the splits {sorted(rows)}")
            return rows
        if path.is_file():
            # by their whole paths: `datasets` has no name for the folder "."; links keep theirs, which say the kind
            file = glob.escape(str(path.absolute()))
            return datasets.load_dataset(str(path.absolute().parent), data_files=file, split="train", streaming=True)
        place = str(path.absolute()) if path.is_dir() else name
        return datasets.load_dataset(place, split=split or "train", **({"streaming": True} if streaming else {}))
    except InputError:
        raise
    except Exception as error:  # of its many kinds of errors none says what was asked for
        raise InputError(
            f"text {source}: expected a folder, a file or what `datasets` can load, found none of them "
            f"({' '.join(str(error).split())})"
        ) from None


def _dataset(source: str, field: str) -> Iterator[Document]:
    name = source.partition(":")[0]
    for index, row in enumerate(load_rows(source)):
        yield Document(f"{name}:{index}", text_of(row, field, f"{source}, row {index}"))


def text_of(row: Any, field: str, where: str) -> str:
    """The text of a row, which may hold something else."""
    if not isinstance(row, dict) or field not in row:
        names = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise InputError(f"text {where}: expected a text in field {field!r}, found {names}")
    text = row[field]
    if not isinstance(text, str):
        found = "null" if text is None else f"{type(text).__name__} there"
        raise InputError(f"text {where}: expected a text in field {field!r}, found {found}")
    # JSON can hold half a surrogate pair, which is no character: decoders that must go on put U+FFFD in its place
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
