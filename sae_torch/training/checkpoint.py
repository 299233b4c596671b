"""Checkpoints: whole or not there, the newest few kept, damage named."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from sae_torch.errors import InputError
from sae_torch.files import beside_of, new_folder
from sae_torch.parallel.world import ALONE, World
from sae_torch.training.cut_state import read_cut, separated, whole_again, write_cut

STATE, MANIFEST, FINISHED = "state.pt", "manifest.json", "finished"
# What several processes hold a part of each.
ROWS = "rows"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, each a folder with the state and its digest.

    A checkpoint is written beside its place, flushed to the disk and renamed: a process that is killed at any moment
    leaves the ones before it and perhaps a folder with a leading dot, which the next run removes. Tensors that are cut
    between processes are written by all of them, each its rows, before the folder gets its name.

    Parameters
    ----------
    folder : Path
        Where they lie, for all processes.
    keep : int
        How many of the newest are kept.
    keep_finished : bool
        Whether they are kept beside the state of a finished run, too.
    world : World
        The processes that write; all call `write`.
    """

    folder: Path
    keep: int
    world: World = ALONE
    keep_finished: bool = False

    def prepare(self) -> None:
        """Make the folder; remove what a killed process left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".*"):
            if leftover.is_dir():  # a desktop leaves dot files of its own
                shutil.rmtree(leftover)
        if (self.folder / FINISHED).is_dir():
            self._forget(finished=True)

    def write(self, step: int, state: Mapping[str, Any], facts: Mapping[str, Any], finished: bool = False) -> Path:
        """Write a state after `step` steps, unless it is there.

        Raises
        ------
        OSError
            If the disk is full or the folder cannot be written; earlier checkpoints stay.
        """
        place = self.place(step, finished)
        _, exists = self.world.agreed(place.exists, int)
        if exists[0]:
            return place
        whole, cut = separated(state, self.world)
        with contextlib.ExitStack() as held:
            self.world.once(lambda: held.enter_context(new_folder(place)))
            beside = beside_of(place)
            digests = _written_rows(cut, beside / ROWS, self.world) if cut else {}
            self.world.once(lambda: _write_rest(beside, whole, {**facts, "step": step}, digests))
            self.world.once(held.close)
        self.world.once(lambda: self._forget(finished))
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

    def _forget(self, finished: bool) -> None:
        steps = sorted(self.folder.glob("step-*"))
        for old in steps if finished and not self.keep_finished else steps[: -self.keep]:
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


def read_state(checkpoint: Path, world: World = ALONE) -> dict[str, Any]:
    """The state in a checkpoint, checked against its digests; of several processes all call it.

    Raises
    ------
    InputError
        If it is truncated or altered; the text says what to do.
    """
    try:
        manifest = read_manifest(checkpoint)
        state, _ = world.agreed(lambda: _read_rest(checkpoint, manifest), lambda _: 0)
        digests = manifest.get(ROWS)
        if digests is None:
            return state
        world.agreed(lambda: _check_rows(checkpoint / ROWS, digests, world), lambda _: 0)
        return whole_again(state, read_cut(checkpoint / ROWS, world))
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise _damaged(checkpoint, error) from None


def _read_rest(checkpoint: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What one process wrote."""
    if _digest(checkpoint / STATE) != manifest["sha256"]:
        raise ValueError("its content does not match its digest")
    state: dict[str, Any] = torch.load(checkpoint / STATE, weights_only=True)
    return state


def _check_rows(folder: Path, digests: Mapping[str, str], world: World) -> None:
    """Compare the files of all processes with their digests, each process some of them."""
    for name, digest in sorted(digests.items())[world.index :: world.count]:
        if _digest(folder / name) != digest:
            raise ValueError(f"the content of {ROWS}/{name} does not match its digest")


def _written_rows(cut: Mapping[str, Tensor], folder: Path, world: World) -> dict[str, str]:
    """Write what is cut between processes; the digest of each file."""
    write_cut(cut, folder)
    names = sorted(path.name for path in folder.iterdir())[world.index :: world.count]
    found, _ = world.agreed(lambda: {name: _digest(folder / name) for name in names}, len)
    assert world.ranks is not None
    texts = world.ranks.gather(np.frombuffer(json.dumps(found).encode(), np.uint8))
    return {name: digest for text in texts for name, digest in json.loads(text.tobytes()).items()}


def _write_rest(folder: Path, state: Mapping[str, Any], facts: dict[str, Any], digests: Mapping[str, str]) -> None:
    """Write what one process holds, and what tells a whole checkpoint from a damaged one."""
    manifest = {**facts, "sha256": _write_state(folder / STATE, state)}
    if digests:
        manifest[ROWS] = digests
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
