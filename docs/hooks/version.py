"""The version of the package, for the footer and for pages that write `{{ version }}`, and its changelog."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

PLACE = "{{ version }}"
CHANGES = "<!-- changelog -->"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def on_config(config: Any) -> Any:
    """Tell the theme."""
    config.extra["release"] = version()
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Tell a page."""
    return markdown.replace(CHANGES, changelog()).replace(PLACE, version())


def changelog() -> str:
    """Its sections, under anchors of their own: those of the packages are in the reference."""
    text = (PROJECT.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    text = re.sub(r"^### (\S+)$", r"### \1 {: #changes-in-\1 }", text, flags=re.MULTILINE)
    return text.replace("](docs/", "](")


def version() -> str:
    """As `pyproject.toml` says it."""
    return str(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"])
