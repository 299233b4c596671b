"""Files that no reader sees half of, and refusals that name the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sae_torch.errors import InputError


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(found).__name__}")
    return found


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON."""
    replace(file, lambda path: path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))


def replace(file: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the file, then take its place."""
    part = file.with_name(file.name + ".part")
    try:
        part.touch()
        mode = part.stat().st_mode  # as the user's umask has it; safetensors would keep others from reading
        write(part)
        part.chmod(mode)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def require_free(path: Path, overwrite: bool) -> None:
    """Refuse a file that is there already, unless it may be replaced."""
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected a file to write")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another --out or replace it with --overwrite")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that `path` holds all of it or what it held before."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
