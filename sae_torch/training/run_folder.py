"""The folder of a run: whose it is, and who holds it."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from typing import Any

from sae_torch.config_file import read_config, to_plain, toml
from sae_torch.environment import difference
from sae_torch.errors import InputError
from sae_torch.files import write_text
from sae_torch.training.checkpoint import Checkpoints
from sae_torch.training.interruption import sole_user
from sae_torch.training.metrics import METRICS
from sae_torch.training.resolved import resolved
from sae_torch.training.run_config import RunConfig

CONFIG = "config.toml"
# Sections and fields that do not change the result.
INCIDENTAL = ("out", "checkpoints", "metrics", "parallel")
INCIDENTAL_FIELDS = ("harvest.cache", "reader.prefetch", "train.progress")


class RunFolder:
    """Where one run writes.

    Parameters
    ----------
    config : RunConfig
        Its settings, devices and types by their names.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config, self.path = config, config.out

    @property
    def is_new(self) -> bool:
        """Whether no run has begun in it."""
        return not (self.path / CONFIG).exists()

    def require_ours(self) -> None:
        """The folder is free, or that of this very run.

        Raises
        ------
        InputError
            If it is that of another run, or holds files of no run.
        """
        config, path = self.config, self.path / CONFIG
        if path.exists():
            there, here = (_determining(found) for found in (resolved(read_config(RunConfig, path)), config))
            if "bos" not in tomllib.loads(path.read_text(encoding="utf-8")).get("harvest", {}):
                # older than the option; whether the activations are others is seen by what was harvested
                here.pop("harvest.bos")
                there.pop("harvest.bos")
            if "auto" in (here.get("harvest.bos"), there.get("harvest.bos")):  # the model is gone
                here.pop("harvest.bos", None)
                there.pop("harvest.bos", None)
            if there != here:
                raise InputError(
                    f"{path} is of another run ({difference(there, here)}); choose another --out or delete the folder"
                )
        elif self.path.exists() and not all(_is_leftover(file.name) for file in self.path.iterdir()):
            raise InputError(f"{self.path} holds other files and no {CONFIG}; choose another --out")

    def occupy(self, held: contextlib.ExitStack, checkpoints: Checkpoints) -> None:
        """Hold the folder and prepare it.

        Raises
        ------
        InputError
            As `require_ours` does, and if another process holds it.
        """
        held.enter_context(sole_user(self.path))
        self.require_ours()  # another process may have come first
        path = self.path / CONFIG
        written = path.read_text(encoding="utf-8") if path.exists() else ""
        if not written.startswith(toml(self.config)):  # what was used stands behind it
            write_text(path, toml(self.config))
        checkpoints.prepare()

    def leave_free(self, checkpoints: Checkpoints) -> None:
        """Take back what a run wrote that failed before its first step."""
        for name in (CONFIG, METRICS):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something lies in it
            checkpoints.folder.rmdir()

    def add_used(self, text: str) -> None:
        """Put what was used behind the settings."""
        write_text(self.path / CONFIG, toml(self.config) + text)


def _determining(config: RunConfig) -> dict[str, Any]:
    """What of a configuration changes the result, flat, by dotted name."""

    def flat(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in plain.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    determining = {name: value for name, value in to_plain(config).items() if name not in INCIDENTAL}
    return {name: value for name, value in flat(determining) if name not in INCIDENTAL_FIELDS}


def _is_leftover(name: str) -> bool:
    """Whether a run that was killed at its start leaves such a file."""
    return name == ".lock" or (name.lstrip(".").startswith(f"{CONFIG}.") and name.endswith(".tmp"))
