"""The formats by name, what each of them is, and which of them a path holds.

A dictionary of a format is a folder, or one file. What a module has to say of it is `Format`; reading it as a module,
finding it below a folder, and options of the user are the same for all and are here.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

from sae_torch.errors import InputError
from sae_torch.interop import (
    bionemo,
    circuit_tracer,
    cross_layer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    hook_z,
    llama_scope,
    llamascopium,
    openai,
    qwen_scope,
    saelens,
    sparsify,
    temporal,
)
from sae_torch.interop.description import Description
from sae_torch.interop.files import FLOATS, NUMBER, is_kind, type_name
from sae_torch.interop.weight_headers import SUFFIXES

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from sae_torch.interop.inference_form import InferenceForm
    from sae_torch.sparse_coder import SparseCoder

# Formats that are written too, for `export`.
WritableName = Literal["saelens", "dictionary-learning", "sparsify", "circuit-tracer"]
FormatName = Literal[
    "saelens",
    "dictionary-learning",
    "sparsify",
    "circuit-tracer",
    "gemma-scope",
    "gemma-scope-2",
    "qwen-scope",
    "llama-scope",
    "llamascopium",
    "goodfire",
    "hook-z",
    "temporal",
    "openai",
    "bionemo",
    "cross-layer",
]

# How far below a folder dictionaries are looked for, and after how many entries the search ends.
DEPTH, ENTRIES = 5, 20_000
# Names that a message gives of many.
NAMED = 4


class Format(Protocol):
    """What the module of a format holds.

    `FILES` are the names of the files that a folder of the format has, all of them; empty where names differ. They make
    messages of a folder where one is missing.
    """

    @property
    def FILES(self) -> tuple[str, ...]:  # noqa: D102, N802  # a constant of a module
        ...

    def recognises(self, path: Path, /) -> bool:
        """Whether a folder or file is a dictionary of the format, by names of files and of tensors.

        Cheap: no weights are read. InputError of a damaged file may pass through.
        """

    def form(self, path: Path, /, k: float | None = None) -> InferenceForm:
        """The weights as they are here, lazily where the files allow; `k` where the path does not say it.

        InputError for what does not fit or has no equivalent.
        """

    def metadata(self, path: Path, /) -> dict[str, Any]:
        """What files and path say about the dictionary, in the words of SAELens folders."""

    def describe(self, path: Path, /) -> Description:
        """The same and more for a reader, without reading weights; also of what `form` refuses."""


class Writer(Protocol):
    """What writes a format."""

    def save(self, sae: SparseCoder, folder: str | os.PathLike[str], /, metadata: dict[str, Any] | None = None) -> Path:
        """Write an autoencoder as a folder; InputError where the format cannot say what it does."""


class WritableFormat(Format, Writer, Protocol):
    """A format that is written too."""


WRITABLE: Mapping[WritableName, WritableFormat] = {
    "saelens": saelens,
    "dictionary-learning": dictionary_learning,
    "sparsify": sparsify,
    "circuit-tracer": circuit_tracer,
}
FORMATS: Mapping[FormatName, Format] = {
    "saelens": saelens,
    "dictionary-learning": dictionary_learning,
    "sparsify": sparsify,
    "circuit-tracer": circuit_tracer,
    "gemma-scope": gemma_scope,
    "gemma-scope-2": gemma_scope_2,
    "qwen-scope": qwen_scope,
    "llama-scope": llama_scope,
    "llamascopium": llamascopium,
    "goodfire": goodfire,
    "hook-z": hook_z,
    "temporal": temporal,
    "openai": openai,
    "bionemo": bionemo,
    "cross-layer": cross_layer,
}


def load(
    path: str | os.PathLike[str],
    k: float | None = None,
    format: str | None = None,
    layer: int | None = None,
    dtype: torch.dtype | None = None,
    mesh: DeviceMesh | None = None,
) -> SparseCoder:
    """Read a dictionary of any format of `FORMATS`; the result is in eval mode.

    Parameters
    ----------
    path : path
        A folder or a file; a file in the folder of a dictionary stands for the folder.
    k : float, optional
        Features per token, where neither the files nor the path say it; of a top k it is checked.
    format : str, optional
        Name of the format, where files of several lie side by side.
    layer : int, optional
        Which of a set, where `path` is the folder of dictionaries of several layers; else it is checked.
    dtype : torch.dtype, optional
        Type of the weights; by default as they are stored.
    mesh : torch.distributed.DeviceMesh, optional
        Of `st.parallel.mesh`.

    Returns
    -------
    SparseAutoencoder or Transcoder

    Raises
    ------
    InputError
        If nothing there is known, a file is damaged, or it has no equivalent; the text names it.

    Examples
    --------
    >>> import tempfile, sae_torch as st
    >>> from sae_torch.interop import formats
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     formats.load(st.save(sae, folder)).choice
    TokenChoice(k=2)
    """
    if dtype is not None and (isinstance(dtype, str) or type_name(dtype) not in FLOATS):
        raise InputError(f"dtype: expected {' or '.join(FLOATS)} of torch, found {dtype!r}")
    require_k(k)
    name, found = resolve(Path(path), format, layer)
    warn_of(FORMATS[name].describe(found))
    return form(name, found, k).cast(dtype).autoencoder(str(found), mesh)


def require_k(k: float | None) -> None:
    """Refuse what is no number of features per token."""
    if k is not None and not (is_kind(k, NUMBER) and k > 0):
        raise InputError(f"k: expected a positive number of features per token, found {k!r}")


def form(name: FormatName, path: Path, k: float | None = None) -> InferenceForm:
    """The weights of a dictionary; a `k` that contradicts its top k is refused."""
    read = FORMATS[name].form(path, k)
    if None not in (k, read.k) and read.k != k:
        raise InputError(f"k: expected {read.k:g}, the top k of {path}, found {k:g}")
    return read


def describe(path: str | os.PathLike[str], format: str | None = None, layer: int | None = None) -> Description:
    """What a dictionary is, without reading its weights.

    Parameters
    ----------
    path, format, layer
        As in `load`.

    Returns
    -------
    Description
    """
    name, found = resolve(Path(path), format, layer)
    return FORMATS[name].describe(found)


def metadata(path: str | os.PathLike[str], format: str | None = None, layer: int | None = None) -> dict[str, Any]:
    """What a dictionary's files and path say about it, in the words of SAELens folders."""
    name, found = resolve(Path(path), format, layer)
    return FORMATS[name].metadata(found)


def warn_of(description: Description) -> None:
    """Warn of what is known to be wrong with files like these."""
    for defect in description.defects:
        warnings.warn(f"{description.path}: {defect}", stacklevel=3)


def format_of(path: Path, format: str | None = None) -> FormatName:
    """Name of the format whose dictionary a path is.

    Parameters
    ----------
    path : Path
    format : str, optional
        The answer, where files of several formats lie side by side; it is checked.

    Returns
    -------
    FormatName

    Raises
    ------
    InputError
        If it is of none or of several; the text says what is there.
    """
    return resolve(path, format)[0]


def resolve(path: Path, format: str | None = None, layer: int | None = None) -> tuple[FormatName, Path]:
    """The format of a path, and the folder or file that is the dictionary.

    That is `path` itself, the folder that holds it, or below it the only one there is or the one of its `layer`.

    Raises
    ------
    InputError
        As `format_of`; also if the dictionary says that it is of another layer.
    """
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int) or layer < 0):
        raise InputError(f"layer: expected a whole number from 0, found {layer!r}")
    if format is not None and format not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, found {format!r}")
    if not path.exists():
        raise InputError(f"{path}: expected the folder or file of an autoencoder, found nothing")
    names = [cast(FormatName, format)] if format is not None else list(FORMATS)
    for place in _holders(path):
        found = _recognised(place, names)
        if len(found) > 1:
            raise InputError(
                f"{place}: expected the files of one format, found those of {' and '.join(found)}; say which with "
                "--format"
            )
        if found:
            of = None if layer is None else FORMATS[found[0]].describe(place).layer
            if of not in (None, layer):
                raise InputError(f"layer: expected {of}, which {place} is of, found {layer}")
            return found[0], place
    if layer is not None and path.is_dir():
        return resolve(_of_layer(path, names, layer, format), format)
    below = members(path, names) if path.is_dir() else []
    if len(below) == 1 and not any((path / file).is_file() for name in names for file in FORMATS[name].FILES):
        return resolve(below[0], format)
    raise InputError(_unknown(path, names, below))


def _holders(path: Path) -> list[Path]:
    """A path, and of a file the folder whose dictionary it may be a part of."""
    if path.is_dir():
        return [path]
    nested = f"{path.parent.name}/{path.name}"  # as checkpoints/final.safetensors
    below = any(nested in module.FILES for module in FORMATS.values())
    return [path, path.parent, *([path.parent.parent] if below else [])]


def members(folder: Path, names: Sequence[FormatName] = ()) -> list[Path]:
    """Dictionaries below a folder, sorted: what a set of them, such as one of all layers, holds.

    Raises
    ------
    InputError
        If the search takes too long; the text asks for a folder further down.
    """
    found: list[Path] = []
    waiting, seen = [(folder, 0)], 0
    while waiting:
        place, depth = waiting.pop()
        for entry in sorted(place.iterdir()):
            seen += 1
            if seen > ENTRIES:
                raise InputError(f"{folder}: expected a dictionary or a set of them, found {ENTRIES} entries and more")
            if not (entry.is_dir() or entry.suffix in SUFFIXES):
                continue
            if _is_any(entry, names or list(FORMATS)):
                found.append(entry)
            elif entry.is_dir() and depth < DEPTH:
                waiting.append((entry, depth + 1))
    return sorted(found)


def _is_any(place: Path, names: Sequence[FormatName]) -> bool:
    try:
        return bool(_recognised(place, names))
    except InputError:  # damaged, but there
        return True


def _recognised(place: Path, names: Sequence[FormatName]) -> list[FormatName]:
    """The formats whose dictionary a place is; what is damaged is an error only where nobody knows it otherwise."""
    found: list[FormatName] = []
    damage: InputError | None = None
    for name in names:
        try:
            if FORMATS[name].recognises(place):
                found.append(name)
        except InputError as error:
            damage = damage or error
    if damage is not None and not found:
        raise damage
    return found


def _of_layer(folder: Path, names: Sequence[FormatName], layer: int, format: str | None) -> Path:
    """The one dictionary of a layer below a folder; what is damaged matters only where it may be that one."""
    layers: dict[Path, int | None] = {}
    damaged: dict[Path, InputError] = {}
    for place in members(folder, names):
        try:
            layers[place] = FORMATS[resolve(place, format)[0]].describe(place).layer
        except InputError as error:
            damaged[place] = error
    found = [place for place, of in layers.items() if of == layer]
    of_that_name = re.compile(rf"(?<![a-z])l(?:ayers?)?[_.-]?0*{layer}(?!\d)", re.IGNORECASE)
    for place, damage in damaged.items():
        if of_that_name.search(place.relative_to(folder).as_posix()):
            raise damage
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{folder}: expected one dictionary of layer {layer}, found {_shown(folder, found)}; name one of them"
        )
    if damaged and not any(of is not None for of in layers.values()):
        raise next(iter(damaged.values()))
    there = ", ".join(sorted({str(of) for of in layers.values() if of is not None}, key=int)) or "none that is known"
    unread = f", and what cannot be read: {_shown(folder, list(damaged))}" if damaged else ""
    raise InputError(f"{folder}: expected a dictionary of layer {layer}, found layers {there}{unread}")


def _shown(folder: Path, places: Sequence[Path]) -> str:
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return ", ".join(str(place.relative_to(folder)) for place in places[:NAMED]) + more


def _unknown(path: Path, names: Sequence[FormatName], below: Sequence[Path]) -> str:
    """What is wrong with a path that no format knows."""
    expected = f"{path}: expected a dictionary of {', '.join(names)}, found "
    if not path.is_dir():
        return f"{expected}a file that is none"
    if below:
        found = f"found {len(below)} below it: {_shown(path, below)}"
        return f"{path}: expected a dictionary, {found}; name {'one' if len(below) > 1 else 'it'}, or its --layer"
    for name in names:
        files = FORMATS[name].FILES
        missing = [file for file in files if not (path / file).is_file()]
        if 0 < len(missing) < len(files):
            return f"{path}: expected {' and '.join(files)} ({name}), but {missing[0]} is missing"
    entries = sorted(entry.name for entry in path.iterdir())
    return expected + (f"only {', '.join(entries[:NAMED])}" if entries else "an empty folder")


assert get_args(FormatName) == tuple(FORMATS)
