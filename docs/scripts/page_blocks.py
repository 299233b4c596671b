"""The Python blocks of a page: run in order, in one namespace, with what each prints.

`python docs/scripts/page_blocks.py docs/guides/study.md ...` writes what the blocks print into the page.

A `text` block titled Output right after a Python block shows what that block prints; the tests compare the two.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^(?P<indent>[ ]*)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.M | re.S)
OUTPUT = 'text title="Output"'
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
# Results of training differ between processors in their last digits.
RELATIVE, ABSOLUTE = 0.1, 1.0


@dataclass(frozen=True)
class Block:
    """One Python block.

    Attributes
    ----------
    code : str
    line : int
        Of its first line in the page, from 1.
    output : str or None
        What the page says that it prints.
    span : (int, int) or None
        Where that text stands in the page.
    """

    code: str
    line: int
    output: str | None
    span: tuple[int, int] | None


def blocks(page: str) -> list[Block]:
    """All Python blocks of a page, in order."""
    found: list[Block] = []
    fences = list(FENCE.finditer(page))
    for fence, following in itertools.zip_longest(fences, fences[1:]):
        if fence["info"].strip() != "python":
            continue
        code, line = (
            textwrap.dedent(fence["body"]),
            page.count("\n", 0, fence.start("body")) + 1,
        )
        shows = following is not None and following["info"].strip() == OUTPUT
        if following is not None and shows and not page[fence.end() : following.start()].strip():
            found.append(
                Block(
                    code,
                    line,
                    textwrap.dedent(following["body"]),
                    following.span("body"),
                )
            )
        else:
            found.append(Block(code, line, None, None))
    return found


def run(block: Block, namespace: dict[str, Any], page: Path) -> str:
    """What a block prints; an exception carries the line of the page."""
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def agrees(printed: str, shown: str, approximate: bool) -> bool:
    """Whether the texts are equal; on approximate pages, but for numbers that are close."""
    if not approximate:
        return printed == shown
    if words(printed) != words(shown):
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    return all(close(float(a), float(b), exact="." not in b) for a, b in pairs)


def words(text: str) -> list[str]:
    """The text without its numbers."""
    # a number that grows by a digit moves the padding before it
    return " ".join(NUMBER.sub("#", text).split()).split()


def close(a: float, b: float, exact: bool) -> bool:
    """Whether two numbers are close; whole ones may differ by one."""
    return abs(a - b) <= (max(ABSOLUTE, RELATIVE * abs(b)) if exact else RELATIVE * abs(b) + 1e-9)


def filled(path: Path) -> str:
    """The page with the outputs that its blocks give now."""
    page, pieces, end = path.read_text(encoding="utf-8"), [], 0
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        printed = run(block, namespace, path)
        if block.span is not None:
            pieces += [page[end : block.span[0]], printed]
            end = block.span[1]
    return "".join([*pieces, page[end:]])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        target = Path(name).resolve()
        home = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                content = filled(target)
            finally:
                os.chdir(home)
        target.write_text(content, encoding="utf-8")
        print(target)
