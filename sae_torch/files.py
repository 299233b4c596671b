"""Files and folders that no reader sees half of, and refusals that name the file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sae_torch.errors import InputError


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A path to write to instead of a file; at the end it takes the file's place, flushed to the disk.

    A write that fails leaves the file as it was. So does a process that is killed, and perhaps ``.<name>.<pid>.tmp``.

    Parameters
    ----------
    file : Path

    Yields
    ------
    Path
        Beside the file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sae_torch.files import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "a.txt")
    ...     with replacing(file) as beside:
    ...         _ = beside.write_text("whole")
    ...     file.read_text()
    'whole'
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # as the user's umask has it; safetensors would keep others from reading
        yield beside
        beside.chmod(mode)
        _flush(beside)
        beside.replace(file)
        _flush(file.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill instead of one that is not there yet; at the end it gets its name, flushed to the disk.

    A process that is killed leaves at most ``.<name>.tmp``.

    Parameters
    ----------
    folder : Path

    Yields
    ------
    Path
        Beside the folder.
    """
    beside = beside_of(folder)
    beside.mkdir()
    try:
        yield beside
        for path in (*beside.rglob("*"), beside):
            _flush(path)
        beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _flush(folder.parent)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Make a folder for what is written inside; where nothing was, a failure leaves nothing."""
    there = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):  # something whole lies in it
                folder.rmdir()
        raise


def beside_of(folder: Path) -> Path:
    """Where `new_folder` fills a folder."""
    return folder.with_name(f".{folder.name}.tmp")


def write_text(file: Path, text: str) -> None:
    """Write a text file so that it holds all of the text or what it held before."""
    with replacing(file) as beside:
        beside.write_text(text, encoding="utf-8")


def _of_numpy(value: Any) -> Any:
    """A number of NumPy as Python's, for JSON."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON, as `write_text` does."""
    write_text(file, json.dumps(content, indent=1, default=_of_numpy) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content


def require_free(path: Path, overwrite: bool) -> None:
    """Refuse a file that is there already, unless it may be replaced."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file to write")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another --out or replace it with --overwrite")


def _flush(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and keeps their names itself
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
