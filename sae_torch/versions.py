"""Versions that can change a figure."""

from __future__ import annotations

import importlib.metadata
import platform


def versions() -> dict[str, str]:
    """Versions that can change a figure."""
    found = {"Python": platform.python_version()}
    for name in ("sae-allocation", "torch", "transformers", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
            found[name] = "not installed"
    return found
