"""Tables of options: the fields of the dataclass behind a command, read from its source without importing it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

PLACE = re.compile(r"<!-- options of (?P<module>[\w.]+)\.(?P<name>\w+) -->")
ROOT = Path(__file__).parents[2]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put a table where the page names a dataclass."""
    return PLACE.sub(lambda match: table(match["module"], match["name"]), markdown)


def table(module: str, name: str) -> str:
    """The docstring, then one row for each field: option, default, meaning."""
    command = griffe.load(module, search_paths=[ROOT], try_relative_path=False)[name]
    head = ["| option | default | |", "| --- | --- | --- |"]
    fields = [field for field in command.attributes.values() if "property" not in field.labels and field.docstring]
    rows = [
        f"| `--{field.name.replace('_', '-')}` | {_default(field.value)} | {' '.join(field.docstring.value.split())} |"
        for field in fields
    ]
    return "\n\n".join([command.docstring.value, "\n".join([*head, *rows])])


def _default(value: Any) -> str:
    """What stands for a field that is not given, as one would type it."""
    if isinstance(value, griffe.ExprName):
        module, _, constant = value.canonical_path.rpartition(".")
        value = griffe.load(module, search_paths=[ROOT], try_relative_path=False)[constant].value
    quoted = re.fullmatch(r"(?:Path\()?(['\"])(.*)\1\)?", str(value))
    shown = quoted[2] if quoted else str(value)
    return "" if shown in ("None", "False") else f"`{shown}`"
