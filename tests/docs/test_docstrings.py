"""Docstrings: examples run and show what they give, and every parameter and attribute has a type."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import allocation
import sae_torch

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$\n?", re.MULTILINE)
# `**limits` has the types of what it is passed on to; a line "Source: ..." may follow the last entry
UNTYPED = re.compile(r"^(?:\*?[a-zA-Z_]\w*(?:, ?\w+)* ?:?|(?!Source:)[a-zA-Z_]\w*(?:, ?\w+)*: .*)$", re.MULTILINE)


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


def untyped(docstring: str) -> list[str]:
    """Entries under Parameters and Attributes that are not `name : type`."""
    _, *parts = SECTION.split(inspect.cleandoc(docstring))
    sections = zip(parts[::2], parts[1::2], strict=True)
    return [
        entry for title, body in sections if title in ("Parameters", "Attributes") for entry in UNTYPED.findall(body)
    ]


def source_files() -> list[str]:
    return [str(file.relative_to(ROOT)) for name in ("allocation", "sae_torch") for file in (ROOT / name).rglob("*.py")]


@pytest.mark.parametrize("file", sorted(source_files()))
def test_every_parameter_and_attribute_has_a_type(file: str) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, documented)]
    lacking = {getattr(node, "name", file): untyped(ast.get_docstring(node) or "") for node in nodes}
    assert {name: entries for name, entries in lacking.items() if entries} == {}


def test_an_entry_without_a_type_is_seen() -> None:
    docstring = """Text.

    Parameters
    ----------
    scores : (tokens, features) array
        Typed.
    budget
        Not typed.
    cap, floor
        Neither.
    k: int
        The blank is missing.
    *rows
        Nor this.
    **limits
        Of any type.

    Source: somebody 2024.

    Raises
    ------
    InputError
        No parameter.

    Attributes
    ----------
    prices
    values : float
    """
    assert untyped(docstring) == ["budget", "cap, floor", "k: int", "*rows", "prices"]
