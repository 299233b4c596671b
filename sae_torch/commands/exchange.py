"""The commands `export` and `import`: autoencoders to other libraries and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sae_torch.errors import InputError
from sae_torch.interop.formats import FORMATS, FormatName, format_of


@dataclass(frozen=True)
class Export:
    """Write an autoencoder as a folder of another library.

    Thresholds per feature go to saelens and dictionary-learning; sparsify holds token choice only.
    """

    folder: Path
    """Folder of the autoencoder."""
    out: Path
    """Folder to write; it must not hold anything."""
    format: FormatName
    """Library that shall read it."""
    model_name: str | None = None
    """Name of the language model to record, where the folder does not say it or says another."""
    hook_name: str | None = None
    """Name of the site to record, as TransformerLens calls it."""

    def run(self) -> None:
        """Read, write, and say what was written."""
        convert(self.folder, self.out, self.format, None, {"model_name": self.model_name, "hook_name": self.hook_name})


@dataclass(frozen=True)
class Import:
    """Read an autoencoder of another library and write it as a folder of this one, in the SAELens format.

    The library is recognised by its files: saelens, dictionary-learning or sparsify.
    """

    folder: Path
    """Folder of the autoencoder."""
    out: Path
    """Folder to write; it must not hold anything."""
    k: float | None = None
    """Mean number of features per token, where the folder does not say it."""
    model_name: str | None = None
    """Name of the language model to record, where the folder does not say it or says another."""
    hook_name: str | None = None
    """Name of the site to record, as TransformerLens calls it."""

    def run(self) -> None:
        """Read, write, and say what was written."""
        if self.k is not None and not self.k > 0:
            raise InputError(f"k: expected a positive number of features per token, found {self.k:g}")
        convert(self.folder, self.out, "saelens", self.k, {"model_name": self.model_name, "hook_name": self.hook_name})


def convert(folder: Path, out: Path, to: FormatName, k: float | None, recorded: dict[str, str | None]) -> None:
    """Read a folder in whatever format it is, and write it in another.

    Parameters
    ----------
    folder : path
        Folder of the autoencoder.
    out : path
        Folder to write, missing or empty.
    to : FormatName
        Format to write.
    k : float, optional
        Mean number of features per token, where the folder does not say it.
    recorded : mapping of str to str or None
        Entries of the metadata that replace those of the folder; None leaves one as it is.

    Raises
    ------
    InputError
        If `folder` is of no known format, `out` holds something, or the format cannot hold the autoencoder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"out: expected a folder that holds nothing, found {out}; choose another --out")
    read = format_of(folder)
    sae = FORMATS[read].load(folder, k=k)
    metadata = FORMATS[read].metadata(folder) | {name: value for name, value in recorded.items() if value is not None}
    FORMATS[to].save(sae, out, metadata=metadata)
    choice = f"{type(sae.choice).__name__} of k = {sae.choice.k:g}"
    print(f"{folder} ({read}): {sae.n_features} features of width {sae.d_model}, {choice}")
    print(f"{out} ({to})")
