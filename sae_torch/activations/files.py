"""Activations that lie on disk already: our shards, a SAELens cache, NumPy files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_torch.activations.rows import ArrayRows, Rows
from sae_torch.activations.shards import Activations, CorruptShardError, Shard, read_shard
from sae_torch.errors import InputError
from sae_torch.files import read_json

# Entries of a shard's header that may differ from shard to shard of one harvest; it may go on with newer versions.
_OWN = frozenset({"sha256", "documents", "code", "torch", "transformers"})

# What `datasets` writes beside the data files of a dataset: which they are, and their order.
_STATE = "state.json"


def open_activations(path: Path | str, column: str | None = None) -> Rows:
    """Activations in a file or folder, memory-mapped.

    Parameters
    ----------
    path : path
        A folder of shards that `harvest` wrote, a folder of SAELens cached activations (the Arrow files that its
        ``state.json`` names), a ``.npy`` file of shape ``(tokens, d_model)`` or ``(windows, length, d_model)``, or a
        folder of such files.
    column : str, optional
        Column of the Arrow files, that is the hook's name, where there is more than one.

    Returns
    -------
    Activations or ArrayRows

    Raises
    ------
    CorruptShardError
        If a file is truncated or altered, or a shard comes from another harvest than the first.
    InputError
        If there is nothing of the kind, or types or widths differ.
    ModuleNotFoundError
        If Arrow files need pyarrow, which is not installed; the text has the install line.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from sae_torch.activations import open_activations
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.zeros((10, 4), np.float16))
    ...     activations = open_activations(folder)
    >>> len(activations), activations.d_model
    (10, 4)
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix == ".npy":
        return _arrays([path])
    if not path.is_dir():
        there = "a file of another kind" if path.exists() else "nothing"
        raise InputError(f"activations {path}: expected a folder or a .npy file, found {there}")
    if (path / _STATE).is_file():
        return _arrow(_named_by_state(path), column)
    for suffix, read in ((".safetensors", _shards), (".arrow", _arrow), (".npy", _arrays)):
        files = sorted(file for file in path.glob(f"*{suffix}") if not file.name.startswith("."))
        if files:
            return _arrow(files, column) if suffix == ".arrow" else read(files)
    raise InputError(f"activations {path}: expected .safetensors, .arrow or .npy files, found none")


def targets_beside(folder: Path | str) -> dict[str, Path]:
    """Folders of targets that `harvest_pairs` wrote beside those of their inputs.

    Parameters
    ----------
    folder : path
        Shards of the inputs.

    Returns
    -------
    dict of str to Path
        By the site of the targets: of the same text by the same model, with the tokens of these inputs.

    Examples
    --------
    >>> import tempfile
    >>> from sae_torch.activations.files import targets_beside
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     targets_beside(folder)
    {}
    """
    place = Path(folder).expanduser().resolve()
    about = _harvest_of(place)
    if about is None:
        return {}
    found = {}
    try:
        others = sorted(place.parent.iterdir())
    except OSError:  # a folder whose list may not be read
        return {}
    for other in others:
        theirs = _harvest_of(other)
        if theirs is not None and theirs.get("rows_of") == about["site"]:
            same = {name: value for name, value in theirs.items() if name not in ("site", "rows_of")}
            if same == {name: value for name, value in about.items() if name != "site"}:
                found[theirs["site"]] = other
    return found


def _harvest_of(folder: Path) -> dict[str, str] | None:
    """What the first shard in a folder says of its harvest; None where there is none that can be read."""
    from safetensors import SafetensorError, safe_open

    first = folder / f"{0:05d}.safetensors"
    try:
        if not first.is_file():
            return None
        with safe_open(first, framework="pt") as file:
            header = dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return None
    return {name: value for name, value in header.items() if name not in _OWN} if "site" in header else None


def _shards(files: list[Path]) -> Activations:
    shards: list[Shard] = []
    if not any(file.stem.isdigit() for file in files):
        raise InputError(f"activations {files[0].parent}: expected the shards of a harvest, found {files[0].name}")
    for index, file in enumerate(files):
        if file.stem != f"{index:05d}":
            raise CorruptShardError(
                f"{file.parent}: expected shard {index:05d}.safetensors next, found {file.name}; harvest again"
            )
        expect = {} if not shards else {k: v for k, v in shards[0].header.items() if k not in _OWN}
        shards.append(read_shard(file, expect=expect))
    return Activations(tuple(shards), sum(map(len, shards)))


def _arrays(files: list[Path]) -> ArrayRows:
    arrays: list[NDArray[Any]] = []
    for file in files:
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise CorruptShardError(
                f"{file}: expected an array of numbers, found something else or a damaged file ({error})"
            ) from error
        arrays.append(array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array)
    return ArrayRows(arrays, [str(file) for file in files], {"activations": "NumPy files", **_identity(files)})


def _named_by_state(folder: Path) -> list[Path]:
    """The data files of a dataset, in its order.

    `shuffle` and `map` leave further files in the folder: row numbers, and copies of the rows.
    """
    state = read_json(folder / _STATE)
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
        files = [folder / name for name in names]
    except (KeyError, TypeError):
        raise InputError(f"{folder / _STATE}: expected the _data_files of a dataset, found none") from None
    if not files:
        raise InputError(f"{folder / _STATE}: expected the _data_files of a dataset, found none")
    if state.get("_indices_data_files"):
        raise InputError(f"{folder / _STATE}: expected rows in the order of the data, found _indices_data_files")
    for file in files:
        if not file.is_file():
            raise CorruptShardError(f"{file}: expected the data file that {_STATE} names, found nothing")
    return files


def _arrow(files: list[Path], column: str | None = None) -> ArrayRows:
    try:
        import pyarrow as pa
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Cached activations of SAELens need pyarrow: run `pip install 'sae-allocation[datasets]'`"
        ) from error

    arrays: list[NDArray[Any]] = []
    for file in files:
        try:
            table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
            features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        except (pa.ArrowInvalid, OSError, TypeError, KeyError, ValueError) as error:
            raise CorruptShardError(
                f"{file}: expected an Arrow file of `datasets`, found something else or a damaged file ({error})"
            ) from error
        named = [name for name, feature in features.items() if feature.get("_type") == "Array2D"]
        if column is not None and column not in named:
            raise InputError(f"column: expected one of the activation columns {named} of {file}, found {column!r}")
        if column is None and len(named) != 1:
            raise InputError(
                f"column: expected the name of one, or one activation column in {file}, found the columns {named}"
            )
        chosen = column or named[0]
        width = int(features[chosen]["shape"][-1])
        for chunk in table.column(chosen).chunks:
            # with `datasets` imported its own extension type wraps the nested lists
            lists = getattr(chunk, "storage", chunk)
            arrays.append(lists.flatten().flatten().to_numpy(zero_copy_only=True).reshape(-1, width))
    header = {"activations": "SAELens cache", "site": chosen, **_identity(files)}
    return ArrayRows(arrays, [str(file) for file in files] if len(files) == len(arrays) else (), header)


def _identity(files: list[Path]) -> dict[str, str]:
    """Digest of the names, sizes, first and last bytes of all files.

    To read terabytes whole would take longer than training.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
            stream.seek(max(0, size - (1 << 16)))
            digest.update(f"{file.name} {size}".encode() + head + stream.read())
    return {"files_sha256": digest.hexdigest()}
