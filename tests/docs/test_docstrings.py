"""Examples in docstrings run and show what they give."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import allocation
import sae_torch

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules() -> Iterator[str]:
    for package in (allocation, sae_torch):
        yield package.__name__
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                yield module.name


@pytest.mark.parametrize("name", list(modules()))
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert result.failed == 0


@pytest.mark.parametrize("package", [allocation, sae_torch], ids=lambda package: package.__name__)
def test_public_classes_and_functions_have_an_example(package: object) -> None:
    """Errors, and records that only functions make, need none."""
    without = {
        "Certificate",
        "Choice",
        "Output",
        "Prices",
        "ProgramArrays",
        "Solution",
        "Status",
        "TrainLog",
        "ZipfFit",
    }
    names = [name for name in package.__all__ if name[0].isalpha() and callable(getattr(package, name))]  # type: ignore[attr-defined]
    lacking = [
        name
        for name in names
        if not name.endswith("Error") and name not in without and ">>>" not in (getattr(package, name).__doc__ or "")
    ]
    assert lacking == []
