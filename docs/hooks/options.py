"""Tables of options: the fields of the dataclass behind a command, read from its source without importing it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

PLACE = re.compile(r"<!-- options of (?P<module>[\w.]+)\.(?P<name>\w+) -->")
ROOT = Path(__file__).parents[2]


def on_pre_build(**_: Any) -> None:
    """Read the sources again."""
    _package.cache_clear()


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a table where the page names a dataclass."""
    return PLACE.sub(lambda match: table(match["module"], match["name"]), markdown)


def table(module: str, name: str) -> str:
    """The docstring, then one row for each field: option, default, meaning; inherited and nested ones too."""
    command = _class(f"{module}.{name}")
    head = ["| option | default | |", "| --- | --- | --- |"]
    rows = "\n".join([*head, *_by_option(command, "").values()])
    return "\n\n".join([command.docstring.value, '<div class="options" markdown>', rows, "</div>"])


def _by_option(command: Any, prefix: str) -> dict[str, str]:
    """The row of every option; a class that says again what a field is replaces what it inherits."""
    rows: dict[str, str] = {}
    for base in command.bases:
        rows |= _by_option(_class(base.canonical_path), prefix)
    for field in command.attributes.values():
        option = f"{prefix}{field.name.replace('_', '-')}"
        if "default_factory" in str(field.value) and not field.docstring:
            rows |= _by_option(_class(field.annotation.canonical_path), f"{option}.")
        elif "property" not in field.labels and field.docstring:
            rows[option] = f"| `--{option}` | {_default(field.value)} | {' '.join(field.docstring.value.split())} |"
    return rows


@cache
def _package(name: str) -> Any:
    """A package with all its modules, which takes seconds to read."""
    return griffe.load(name, search_paths=[ROOT], try_relative_path=False)


def _class(path: str) -> Any:
    package, _, rest = path.partition(".")
    return _package(package)[rest]


def _default(value: Any) -> str:
    """What stands for a field that is not given, as one would type it."""
    if value is None:
        return "required"
    if isinstance(value, griffe.ExprName | griffe.ExprAttribute):
        value = _class(value.canonical_path).value
    quoted = re.fullmatch(r"(?:Path\()?(['\"])(.*)\1\)?", str(value))
    shown = quoted[2] if quoted else str(value)
    if calculated := re.fullmatch(r"(\d+) (/|<<) (\d+)", shown):
        left, right = int(calculated[1]), int(calculated[3])
        shown = str(left / right if calculated[2] == "/" else left << right)
    if several := re.fullmatch(r"\((.*)\)", shown):
        shown = " ".join(each.strip().strip("'") for each in several[1].split(","))
    return "" if shown in ("None", "False", "") or "default_factory" in shown else f"`{shown}`"
