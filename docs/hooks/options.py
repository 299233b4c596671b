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
    rows = ["| option | default | |", "| --- | --- | --- |"]
    for field in command.attributes.values():
        if "property" not in field.labels and field.docstring is not None:
            default = "" if field.value is None else f"`{field.value}`"
            rows.append(
                f"| `--{field.name.replace('_', '-')}` | {default} | {' '.join(field.docstring.value.split())} |"
            )
    return "\n\n".join([command.docstring.value, "\n".join(rows)])
