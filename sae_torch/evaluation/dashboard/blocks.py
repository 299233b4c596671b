"""Named blocks of JSON in one file: written one after the other, read one by one."""

from __future__ import annotations

import gzip
import hashlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from sae_torch.errors import InputError

# Raised when files of before cannot be read any more.
FORMAT = 1
# Features of one block: a block is what a browser reads when one of its features is shown.
FEATURES_AT_ONCE = 64
WINDOWS_AT_ONCE = 64


class BlockWriter:
    """Fill a file with blocks; equal blocks give equal bytes.

    Parameters
    ----------
    file : path or binary file
        Where they go.
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> BlockWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def put(self, name: str, content: Any) -> str:
        """Add a block, and give the digest of its text."""
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        # a browser takes the bytes apart itself, so that a report copies them as they are
        self._archive.writestr(zipfile.ZipInfo(name), gzip.compress(text, compresslevel=6, mtime=0))
        return hashlib.sha256(text).hexdigest()

    def put_many(self, name: str, entries: Iterator[Any], at_once: int) -> None:
        """Add blocks of some entries each, numbered from 0; no more than one of them is held."""
        block: list[Any] = []
        number = 0
        for entry in entries:
            block.append(entry)
            if len(block) == at_once:
                self.put(f"{name}-{number}", block)
                block, number = [], number + 1
        if block:
            self.put(f"{name}-{number}", block)


class BlockFile:
    """Blocks that `BlockWriter` wrote.

    Parameters
    ----------
    file : path or binary file

    Raises
    ------
    InputError
        If it is not there, or holds something else.
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        self.file = file
        try:
            self._archive = zipfile.ZipFile(file)
            found = self.get("index")["format"]
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{file}: expected feature pages of `sae-torch evaluate`, found something else "
                f"({type(error).__name__}: {error})"
            ) from None
        if found != FORMAT:
            raise InputError(f"{file}: expected feature pages of format {FORMAT}, found {found!r}; evaluate again")

    @property
    def names(self) -> Sequence[str]:
        """Names of the blocks, in the order of writing."""
        return self._archive.namelist()

    @property
    def text_digest(self) -> str:
        """What tells texts apart."""
        return str(self.get("index")["text"])

    def packed(self, name: str) -> bytes:
        """The bytes of a block as they lie in the file."""
        return self._archive.read(name)

    def get(self, name: str) -> Any:
        """The content of a block."""
        return json.loads(gzip.decompress(self.packed(name)))
