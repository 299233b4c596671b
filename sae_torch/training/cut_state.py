"""What of a state no process holds whole: all write and read it, each its rows, by `torch.distributed.checkpoint`."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_torch.parallel.survivors import among_the_living
from sae_torch.parallel.world import World

# Where a tensor of a state lies in files of its own, this stands with its name.
MARK = "cut by rows"


def separated(state: Mapping[str, Any], world: World) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A state that one process can write, and the tensors cut by rows, by name; marks stand in their places.

    Parameters
    ----------
    state : mapping
        Of nested mappings, lists and tuples.
    world : World
        The processes that hold its tensors.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.parallel.world import ALONE
    >>> from sae_torch.training.cut_state import separated
    >>> separated({"step": 3, "sae": {"b_dec": torch.zeros(1)}}, ALONE)
    ({'step': 3, 'sae': {'b_dec': tensor([0.])}}, {})
    """
    cut: dict[str, Tensor] = {}

    def out(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if world.is_cut(value):
            cut[name] = value
            return {MARK: name}
        return world.local(value)

    return _changed(dict(state), "", out), cut


def whole_again(state: Mapping[str, Any], cut: Mapping[str, Tensor]) -> dict[str, Any]:
    """A state with its tensors in the places of their marks."""

    def back(name: str, value: Any) -> Any:
        return cut[value[MARK]] if isinstance(value, dict) and MARK in value else value

    restored: dict[str, Any] = _changed(dict(state), "", back)
    return restored


def write_cut(cut: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors, every process its rows, flushed to the disk; all call it.

    Raises
    ------
    OSError
        If one of them cannot write; on every process.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    with _saying_what_failed():
        among_the_living(lambda: save(dict(cut), checkpoint_id=folder))


def read_cut(folder: Path, world: World) -> dict[str, Tensor]:
    """Read tensors that any number of processes wrote, every process its rows; all call it.

    Raises
    ------
    OSError
        If a file is missing or damaged; on every process.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    alone = world.ranks is None
    with _saying_what_failed(), warnings.catch_warnings():
        # says that it reads without other processes, as it is asked to
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        known = FileSystemReader(folder).read_metadata().state_dict_metadata
        cut = {
            name: world.empty_rows(tuple(entry.size), entry.properties.dtype)
            for name, entry in known.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        if alone:
            load(cut, checkpoint_id=folder, no_dist=True)
        else:
            among_the_living(lambda: load(cut, checkpoint_id=folder))
    return cut


def _changed(value: Any, name: str, change: Callable[[str, Any], Any]) -> Any:
    """Nested values, each with what `change` makes of it; names are paths."""
    value = change(name, value)
    if isinstance(value, Mapping) and MARK not in value:
        return {key: _changed(part, f"{name}/{key}", change) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(part, f"{name}/{key}", change) for key, part in enumerate(value))
    return value


@contextlib.contextmanager
def _saying_what_failed() -> Iterator[None]:
    """The first cause, in place of an error whose text is the traceback of every process."""
    from torch.distributed.checkpoint.api import CheckpointException

    logs = logging.getLogger("torch.distributed.checkpoint")
    level = logs.level
    logs.setLevel(logging.CRITICAL)  # tracebacks of what is raised anyway
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        text = str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, f"{cause.strerror} (rank {rank})", cause.filename) from None
        raise OSError(f"{type(cause).__name__} on rank {rank}: {text}") from None
    finally:
        logs.setLevel(level)
