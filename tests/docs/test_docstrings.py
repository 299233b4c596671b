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
from typing import Any

import griffe
import pytest
import torch

import allocation
import sae_torch

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}$\n?", re.MULTILINE)
# `**limits` has the types of what it is passed on to; a line "Source: ..." may follow the last entry
UNTYPED = re.compile(r"^(?:\*?[a-zA-Z_]\w*(?:, ?\w+)* ?:?|(?!Source:)[a-zA-Z_]\w*(?:, ?\w+)*: .*)$", re.MULTILINE)

# What sections list: names, and errors.
NAMES, ERRORS = re.compile(r"\*{0,2}\w+(?:, \w+)*"), re.compile(r"\(?\w+(?:[.]\w+)*(?:, \w+)*\)?")


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
    public = {name: getattr(package, name) for name in package.__all__ if name[0].isalpha()}  # type: ignore[attr-defined]
    names = [name for name, each in public.items() if inspect.isclass(each) or inspect.isroutine(each)]
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


def test_sections_list_names_and_nothing_else() -> None:
    """A sentence after a section's last entry is read as one more entry; the reference would show it as a name."""
    extensions = griffe.load_extensions(str(ROOT / "docs" / "hooks" / "docstrings.py"))
    odd = []
    for package in ("allocation", "sae_torch"):
        found = griffe.load(package, search_paths=[ROOT], extensions=extensions, docstring_parser="numpy")
        for each in objects_of(found):
            assert each.docstring is not None
            for section in each.docstring.parse("numpy", warn_unknown_params=False, warnings=False):
                kind = section.kind.value
                if kind in ("parameters", "attributes"):
                    odd += [f"{each.path}: {e.name}" for e in section.value if not NAMES.fullmatch(e.name)]
                    odd += [f"{each.path}: {e.annotation}" for e in section.value if "; W_" in str(e.annotation)]
                if kind == "parameters" and each.is_function:
                    known = {parameter.name.lstrip("*") for parameter in each.parameters}
                    odd += [f"{each.path}: {e.name}" for e in section.value if e.name.lstrip("*") not in known]
                if kind == "raises":
                    said = [str(e.annotation) for e in section.value]
                    odd += [f"{each.path}: {text}" for text in said if not ERRORS.fullmatch(text)]
    assert odd == []


def objects_of(each: Any) -> Iterator[Any]:
    """All objects with a docstring, imported ones left out."""
    if not each.is_alias:
        if each.docstring is not None:
            yield each
        for member in each.members.values():
            yield from objects_of(member)
