"""Docstrings as the reference shows them.

The sources follow the NumPy style in plain text. For the page, the displayed problem (a line `::` and an indented
block) becomes a fence of its own; the line that names the source moves before the sections, where it would be read as
one more entry; a default in double backticks loses them; and a table between lines of equals signs becomes one.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

LITERAL = re.compile(r"^(?P<lead>.*?)::[ ]*\n[ ]*\n(?P<block>(?:[ ]{4}.*(?:\n|$)|[ ]*\n)+)", re.MULTILINE)
SOURCE = re.compile(r"^Source: (?:.+\n?)+\n*", re.MULTILINE)
SECTION = re.compile(r"^(?:Parameters|Attributes|Returns|Raises|Examples)\n-{4,}$", re.MULTILINE)
TABLE = re.compile(r"^(?P<rule>=+(?: =+)+)\n(?P<head>.+)\n(?P=rule)\n(?P<rows>(?:.+\n)+?)(?P=rule)$", re.MULTILINE)
DEFAULT = re.compile(r"(?<=default )``(.+?)``$", re.MULTILINE)


class ReferenceText(griffe.Extension):
    """Rewrite the docstring of every object that has one."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one."""
        if obj.docstring is not None:
            obj.docstring.value = for_the_page(obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Leave out private fields, which would be arguments in the signature of a dataclass."""
        for name in [name for name, member in cls.members.items() if name.startswith("_") and member.is_attribute]:
            cls.del_member(name)


def for_the_page(text: str) -> str:
    """The text of a docstring as the reference shows it."""
    text = TABLE.sub(_table, DEFAULT.sub(r"\1", LITERAL.sub(_fenced, text)))
    source, section = SOURCE.search(text), SECTION.search(text)
    if source is None or section is None or source.start() < section.start():
        return text
    text = text[: source.start()] + text[source.end() :]
    return f"{text[: section.start()]}{source[0].strip()}\n\n{text[section.start() :]}"


def _fenced(match: re.Match[str]) -> str:
    lead = match["lead"].strip()
    block = textwrap.dedent(match["block"]).strip("\n")
    return f"{lead + ':' if lead else ''}\n\n```{{.text .problem}}\n{block}\n```\n\n"


def _table(match: re.Match[str]) -> str:
    columns = [slice(found.start(), found.end()) for found in re.finditer("=+", match["rule"])]
    rows = [[line[column].strip() for column in columns] for line in (match["head"], *match["rows"].splitlines())]
    rows.insert(1, ["---"] * len(columns))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
