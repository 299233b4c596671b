"""Every Python block of the documentation runs, in the order of its page, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from docs.scripts.page_blocks import Block, agrees, blocks, run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"))]


def settings_of(page: Path) -> dict[str, Any]:
    """Front matter of a page."""
    found = re.match(r"---\n(.*?)\n---\n", page.read_text(encoding="utf-8"), re.DOTALL)
    return dict(yaml.safe_load(found[1])) if found else {}


def parameter(page: Path) -> Any:
    marks = [pytest.mark.slow] if settings_of(page).get("tests") == "slow" else []
    return pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks)


@pytest.mark.parametrize("page", [parameter(page) for page in WITH_CODE])
def test_blocks_run_and_print_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    approximate = settings_of(page).get("outputs") == "approximate"
    for block in blocks(page.read_text(encoding="utf-8")):
        if page.name == "README.md":
            namespace = {"__name__": "__main__"}  # a reader copies one of its blocks
        printed = run(block, namespace, page)
        if block.output is not None:
            assert agrees(printed, block.output, approximate), f"line {block.line} of {page.name} prints:\n{printed}"


def test_the_pages_with_code_were_found() -> None:
    """Each kind of user has a page, and most of it is checked."""
    names = {str(page.relative_to(ROOT)) for page in WITH_CODE}
    assert {"README.md", "docs/index.md", "docs/guides/study.md", "docs/guides/train.md"} <= names
    shown = sum(block.output is not None for page in WITH_CODE for block in blocks(page.read_text(encoding="utf-8")))
    assert shown >= 40


@pytest.mark.parametrize(
    ("printed", "shown", "approximate", "expected"),
    [
        ("a 1.0\n", "a 1.0\n", False, True),
        ("a 1.0\n", "a 1.01\n", False, False),
        ("a 1.0\n", "a 1.05\n", True, True),
        ("a 1.0\n", "a 1.3\n", True, False),
        ("a 3\n", "a 4\n", True, True),
        ("a 3\n", "a 5\n", True, False),
        ("a 3\n", "b 3\n", True, False),
        ("a 3 4\n", "a 3\n", True, False),
    ],
)
def test_the_comparison_can_fail(printed: str, shown: str, approximate: bool, expected: bool) -> None:
    assert agrees(printed, shown, approximate) is expected


def test_a_block_knows_its_line_and_its_output() -> None:
    page = 'x\n\n```python\nprint(1)\n```\n\n```text title="Output"\n1\n```\n\n```python\n2\n```\n\ntext\n'
    first, second = blocks(page)
    assert (first.code, first.line, first.output) == ("print(1)\n", 4, "1\n")
    assert second == Block("2\n", 12, None, None)
    with pytest.raises(ZeroDivisionError) as error:
        run(Block("\n1 / 0\n", 7, None, None), {}, Path("page.md"))
    assert error.traceback[-1].lineno + 1 == 8
