"""Documents of one source, read one at a time from any place in it."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from sae_torch.activations.corpora import is_saved, load_rows, text_of
from sae_torch.activations.text import ENCODING, Document
from sae_torch.errors import InputError

LINES = (".jsonl", ".jsonl.gz")
# Most bytes of a file that is one document, which is in memory with its tokens.
LARGEST_DOCUMENT = 1 << 28


class StreamSource(Protocol):
    """Documents in an order of their own, and places between them that plain values name."""

    @property
    def identity(self) -> list[Any]:
        """What identifies the documents: plain values, found without reading the text."""
        ...

    def read(self, place: Any = None) -> Iterator[tuple[Document, Any]]:
        """Documents from a place on, each with the place after it; None is the beginning."""
        ...


def stream_source(source: str, field: str) -> StreamSource:
    """The source that a text names.

    Raises
    ------
    InputError
        If there is none.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".txt":
        return _TextFiles(path.parent, (path,))
    if path.is_file() and path.name.endswith(LINES):
        return _Lines(path.parent, (path,), field)
    if path.is_dir() and not is_saved(path):
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        texts = tuple(file for file in files if file.suffix == ".txt")
        lines = tuple(file for file in files if file.name.endswith(LINES))
        if texts and lines:
            raise InputError(f"text {source}: expected .txt files or .jsonl files, found both; take them as a mixture")
        if texts:
            return _TextFiles(path, texts)
        if lines:
            return _Lines(path, lines, field)
        if not files:
            raise InputError(f"text {source}: expected files, found an empty folder")
    elif source.startswith(("/", "./", "../", "~")) and not path.exists():
        raise InputError(f"text {source}: expected a folder or a file, found nothing")
    return _Rows(source, field)


def _identity(folder: Path, files: tuple[Path, ...]) -> list[Any]:
    """Names, sizes and times of change: the text itself may be larger than what is ever read of it."""
    known = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return [[name, found.st_size, found.st_mtime_ns] for name, found in known]


@dataclass(frozen=True)
class _TextFiles:
    """A document a file; its place is the number of the file."""

    folder: Path
    files: tuple[Path, ...]

    @property
    def identity(self) -> list[Any]:
        return _identity(self.folder, self.files)

    def read(self, place: Any = None) -> Iterator[tuple[Document, Any]]:
        first = place or 0
        for index, file in enumerate(self.files[first:], start=first):
            size = file.stat().st_size
            if size > LARGEST_DOCUMENT:
                raise InputError(
                    f"text {file}: expected a document of at most {LARGEST_DOCUMENT / 1e6:.0f} MB, which is in memory "
                    f"as a whole, found {size / 1e6:.0f} MB; split it, or make it JSON lines"
                )
            try:
                text = file.read_text(encoding=ENCODING)
            except UnicodeDecodeError as error:
                raise InputError(f"text {file}: expected UTF-8, found something else ({error})") from None
            yield Document(str(file.relative_to(self.folder).with_suffix("")), text), index + 1


@dataclass(frozen=True)
class _Lines:
    """A document a line of JSON; its place is the file, the byte in it and the number of the line."""

    folder: Path
    files: tuple[Path, ...]
    field: str

    @property
    def identity(self) -> list[Any]:
        return _identity(self.folder, self.files)

    def read(self, place: Any = None) -> Iterator[tuple[Document, Any]]:
        first, byte, number = place or (0, 0, 0)
        for index, file in enumerate(self.files[first:], start=first):
            name = str(file.relative_to(self.folder))
            try:
                with _opened(file) as stream:
                    stream.seek(byte)
                    for line in stream:
                        number, byte = number + 1, byte + len(line)
                        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                        if line.strip():
                            text = text_of(json.loads(line.decode()), self.field, f"{file}, line {number}")
                            yield Document(f"{name}:{number}", text), [index, byte, number]
            except (UnicodeDecodeError, json.JSONDecodeError, EOFError, gzip.BadGzipFile) as error:
                raise InputError(f"text {file}: expected JSON lines, found something else ({error})") from None
            byte = number = 0


def _opened(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # type: ignore[return-value]


@dataclass(frozen=True)
class _Rows:
    """A document a row of what `datasets` streams; its place is the state that `datasets` itself gives."""

    source: str
    field: str

    @property
    def identity(self) -> list[Any]:
        path = Path(self.source).expanduser()
        if path.exists():
            files = tuple(sorted(path.rglob("*"))) if path.is_dir() else (path,)
            kept = tuple(f for f in files if f.is_file() and not f.name.startswith("."))
            return _identity(path if path.is_dir() else path.parent, kept)
        info = self._loaded().info
        return [self.source, str(info.version), info.dataset_size, info.download_size]

    def _loaded(self) -> Any:
        """A new one for every reading, since it holds the state."""
        rows = load_rows(self.source, streaming=True)
        return rows if hasattr(rows, "load_state_dict") else rows.to_iterable_dataset()

    def read(self, place: Any = None) -> Iterator[tuple[Document, Any]]:
        count, state = place or (0, None)
        rows = self._loaded()
        if state is not None:
            rows.load_state_dict(state)
        name = Path(self.source).name
        for row in rows:
            text = text_of(row, self.field, f"{self.source}, row {count}")
            count += 1
            yield Document(f"{name}:{count - 1}", text), [count, rows.state_dict()]
