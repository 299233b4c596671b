"""Docstrings as the reference shows them: the displayed problem becomes a block of its own.

The sources mark it in the reStructuredText way, with a line `::` and an indented block; Markdown knows fences instead.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

LITERAL = re.compile(
    r"^(?P<lead>.*?):?:[ ]*\n[ ]*\n(?P<block>(?:[ ]{4}.*(?:\n|$)|[ ]*\n)+)",
    re.MULTILINE,
)


class DisplayedProblems(griffe.Extension):
    """Turn every `::` block of a docstring into a fenced one."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = LITERAL.sub(_fenced, obj.docstring.value)


def _fenced(match: re.Match[str]) -> str:
    lead = match["lead"].strip()
    block = textwrap.dedent(match["block"]).strip("\n")
    return f"{lead + ':' if lead else ''}\n\n```{{.text .problem}}\n{block}\n```\n\n"
