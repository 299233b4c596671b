"""The formats by name, what each of them is, and which of them a folder holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.errors import InputError
from sae_torch.interop import dictionary_learning, saelens, sparsify

FormatName = Literal["saelens", "dictionary-learning", "sparsify"]


class Format(Protocol):
    """What the module of a format holds.

    Attributes
    ----------
    CONFIG, WEIGHTS : str
        Names of its two files. Together they tell one format from another: one name alone may be shared, as SAELens and
        sparsify share ``cfg.json``.
    """

    CONFIG: str
    WEIGHTS: str

    def save(
        self, sae: SparseAutoencoder, folder: str | os.PathLike[str], metadata: dict[str, Any] | None = None
    ) -> Path:
        """Write an autoencoder as a folder; InputError where the format cannot say what it does."""

    def load(self, folder: str | os.PathLike[str], k: float | None = None) -> SparseAutoencoder:
        """Read a folder, in eval mode; `k` where the folder does not say it; InputError for what has no equivalent."""

    def metadata(self, folder: str | os.PathLike[str]) -> dict[str, Any]:
        """What a folder says about its autoencoder, in the words of SAELens folders."""


FORMATS: Mapping[FormatName, Format] = {
    "saelens": saelens,
    "dictionary-learning": dictionary_learning,
    "sparsify": sparsify,
}


def format_of(folder: Path) -> FormatName:
    """Name of the format whose files a folder holds: the first of `FORMATS` of which both files are there.

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
