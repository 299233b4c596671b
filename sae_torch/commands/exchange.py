"""The commands `export`, `import` and `inspect`: dictionaries to other libraries, from them, and what one is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sae_torch.errors import InputError
from sae_torch.interop import formats, neuronpedia, saelens
from sae_torch.interop.formats import WRITABLE, FormatName, WritableName, Writer

if TYPE_CHECKING:
    import torch

    from sae_torch.choices.choice import Choice

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Export:
    """Write an autoencoder as a folder of another library.

    Thresholds per feature go to saelens, neuronpedia and dictionary-learning; sparsify holds token choice only.
    """

    folder: Path
    """Folder of the autoencoder, or anything else that `import` reads; `export PATH` does without the name."""
    out: Path
    """Folder to write; it must not hold anything, but for circuit-tracer, where a set may be there."""
    format: Literal[WritableName, "neuronpedia"]
    """Library that shall read it, or Neuronpedia's tool for dashboards."""
    k: float | None = None
    """Features per token, where neither files nor path say it."""
    read_as: FormatName | None = None
    """Format to read, where files of several lie side by side."""
    layer: int | None = None
    """Which of a set, where `folder` holds dictionaries of several layers."""
    dtype: Dtype | None = None
    """Type of the weights to write; by default as they are stored."""
    model_name: str | None = None
    """Name of the language model to record, where the folder does not say it or says another."""
    hook_name: str | None = None
    """Name of the site to record, as TransformerLens calls it."""

    FIRST: ClassVar[str] = "folder"

    def run(self) -> None:
        """Read, write, and say what was written."""
        formats.require_k(self.k)
        if self.format != "circuit-tracer":
            require_empty(self.out)
        dtype = _torch_type(self.dtype)
        name, path = formats.resolve(self.folder, self.read_as, self.layer)
        sae = formats.load(path, self.k, name, dtype=dtype)
        found = formats.metadata(path, name)
        # folders for Neuronpedia are SAELens' own and read as such
        writer: Writer = neuronpedia if self.format == "neuronpedia" else WRITABLE[self.format]
        writer.save(sae, self.out, metadata=_recorded(self, found))
        _tell(path, name, sae.n_features, (sae.d_in, sae.d_out if sae.takes_pairs else None), sae.choice)
        print(f"{self.out} ({self.format})")


@dataclass(frozen=True)
class Import:
    """Read a dictionary of another library and write it as a folder of this one, in the SAELens format.

    The library is recognised by names of files and of tensors; `inspect` says what it is.
    """

    folder: Path
    """Folder or file of the dictionary; `import PATH` does without the name."""
    out: Path
    """Folder to write; it must not hold anything."""
    k: float | None = None
    """Features per token, where neither files nor path say it."""
    format: FormatName | None = None
    """Format to read, where files of several lie side by side."""
    layer: int | None = None
    """Which of a set, where `folder` holds dictionaries of several layers."""
    dtype: Dtype | None = None
    """Type of the weights to write; by default as they are stored."""
    model_name: str | None = None
    """Name of the language model to record, where the folder does not say it or says another."""
    hook_name: str | None = None
    """Name of the site to record, as TransformerLens calls it."""

    FIRST: ClassVar[str] = "folder"

    def run(self) -> None:
        """Read, write, and say what was written."""
        formats.require_k(self.k)
        require_empty(self.out)
        dtype = _torch_type(self.dtype)
        name, path = formats.resolve(self.folder, self.format, self.layer)
        module = formats.FORMATS[name]
        form = formats.form(name, path, self.k).cast(dtype)
        choice = form.choice(str(path))
        description = module.describe(path)
        formats.warn_of(description)
        about = module.metadata(path) | ({"known_defects": description.defects} if description.defects else {})
        saelens.write(form, choice, self.out, _recorded(self, about))
        widths = (form.W_enc.shape[0], form.W_dec.shape[1] if form.is_transcoder else None)
        _tell(path, name, form.b_enc.numel(), widths, choice)
        print(f"{self.out} (saelens)")


@dataclass(frozen=True)
class Inspect:
    """Say what a dictionary is, without reading its weights: model, site, shapes, conventions, known defects."""

    folder: Path
    """Folder or file of the dictionary; `inspect PATH` does without the name."""
    format: FormatName | None = None
    """Format, where files of several lie side by side."""
    layer: int | None = None
    """Which of a set, where `folder` holds dictionaries of several layers."""
    json: bool = False
    """Print a JSON object."""

    FIRST: ClassVar[str] = "folder"

    def run(self) -> None:
        """Read headers and print."""
        description = formats.describe(self.folder, self.format, self.layer)
        print(description.json() if self.json else description.text())


def require_empty(out: Path) -> None:
    """Refuse a folder to write that holds something.

    Raises
    ------
    InputError
        If it does, or is a file.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"out: expected a folder that holds nothing, found {out}; choose another --out")


def _torch_type(name: Dtype | None) -> torch.dtype | None:
    import torch  # here: `inspect` does without

    found: torch.dtype | None = None if name is None else getattr(torch, name)
    return found


def _recorded(given: Export | Import, found: dict[str, Any]) -> dict[str, Any]:
    names = {"model_name": given.model_name, "hook_name": given.hook_name}
    return found | {name: value for name, value in names.items() if value is not None}


def _tell(path: Path, name: str, features: int, widths: tuple[int, int | None], choice: Choice) -> None:
    """What was read; a transcoder has two widths."""
    read, written = widths
    width = f"width {read}" if written is None else f"widths {read} to {written}"
    print(f"{path} ({name}): {features} features of {width}, {type(choice).__name__} of k = {choice.k:g}")
