"""Checkpoints: whole or not there, the newest few kept, damage named."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from sae_torch.errors import InputError
from sae_torch.files import new_folder

STATE, MANIFEST, FINISHED = "state.pt", "manifest.json", "finished"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, each a folder with the state and its digest.

    A checkpoint is written beside its place, flushed to the disk and renamed: a process that is killed at any moment
    leaves the ones before it and perhaps a folder with a leading dot, which the next run removes.

    Parameters
    ----------
    folder : Path
        Where they lie.
    keep : int
        How many of the newest are kept.
    """

    folder: Path
    keep: int

    def prepare(self) -> None:
        """Make the folder; remove what a killed process left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".*"):
            if leftover.is_dir():  # a desktop leaves dot files of its own
                shutil.rmtree(leftover)

    def write(self, step: int, state: Mapping[str, Any], facts: Mapping[str, Any], finished: bool = False) -> Path:
        """Write a state after `step` steps, unless it is there.

        Raises
        ------
        OSError
            If the disk is full or the folder cannot be written; earlier checkpoints stay.
        """
        place = self.place(step, finished)
        if place.exists():
            return place
        with new_folder(place) as beside:
            digest = _write_state(beside / STATE, state)
            manifest = {**facts, "step": step, "sha256": digest}
            (beside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        self._forget()
        return place

    def place(self, step: int, finished: bool = False) -> Path:
        """Where the state after so many steps lies."""
        return self.folder / (FINISHED if finished else f"step-{step:09d}")

    @property
    def count(self) -> int:
        """How many there are to go on from."""
        return len(list(self.folder.glob("step-*")))

    def newest(self) -> Path | None:
        """The one to go on from; the state of a finished run if there is one."""
        if (self.folder / FINISHED).is_dir():
            return self.folder / FINISHED
        return max(self.folder.glob("step-*"), default=None)

    def _forget(self) -> None:
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            gone = old.with_name(f".{old.name}.old")
            old.rename(gone)  # what is half deleted must not look like a checkpoint
            shutil.rmtree(gone)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Step, environment and digest of a checkpoint."""
    try:
        manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return manifest
    except (OSError, ValueError) as error:
        raise _damaged(checkpoint, error) from None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state in a checkpoint, checked against its digest.

    Raises
    ------
    InputError
        If it is truncated or altered; the text says what to do.
    """
    try:
        with (checkpoint / STATE).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != read_manifest(checkpoint)["sha256"]:
            raise ValueError("its content does not match its digest")
        state: dict[str, Any] = torch.load(checkpoint / STATE, weights_only=True)
        return state
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise _damaged(checkpoint, error) from None


def _damaged(checkpoint: Path, error: Exception) -> InputError:
    return InputError(
        f"checkpoint {checkpoint} is damaged ({' '.join(str(error).split())}); delete it, and the same command goes on "
        "from the one before"
    )


def _write_state(path: Path, state: Mapping[str, Any]) -> str:
    """Write a state; its digest."""
    with path.open("wb") as stream:
        hashed = _Hashing(stream)
        try:
            torch.save(dict(state), cast(IO[bytes], hashed))
        except RuntimeError:
            # torch reports a full disk as an error of its own archive
            if hashed.error is not None:
                raise hashed.error from None
            raise
    return hashed.digest.hexdigest()


class _Hashing(io.RawIOBase):
    """A stream that hashes what passes through it, and remembers why it failed."""

    def __init__(self, stream: io.BufferedWriter) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        self.digest.update(block)
        try:
            return self.stream.write(block)
        except OSError as error:
            self.error = OSError(error.errno, error.strerror, self.stream.name)
            raise

    def flush(self) -> None:
        if not self.stream.closed:
            self.stream.flush()
