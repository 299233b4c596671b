"""The formats by name: one file of this package each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from sae_torch.errors import InputError
from sae_torch.interop import dictionary_learning, saelens, sparsify

FORMATS: Mapping[str, ModuleType] = {
    "saelens": saelens,
    "dictionary-learning": dictionary_learning,
    "sparsify": sparsify,
}


def format_of(folder: Path) -> str:
    """Name of the format whose files a folder holds.

    Raises
    ------
    InputError
        If it holds none, or does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of an autoencoder, found {_kind(folder)}")
    for name, module in FORMATS.items():
        if (folder / module.WEIGHTS).is_file() and (folder / module.CONFIG).is_file():
            return name
    expected = ", ".join(f"{module.WEIGHTS} and {module.CONFIG} ({name})" for name, module in FORMATS.items())
    raise InputError(f"{folder}: expected {expected}, found neither")


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "nothing"
