"""Entries of the reference without a description end without the dash that would introduce it."""

from __future__ import annotations

import re
from typing import Any

EMPTY = re.compile(r'\s*–\s*<div class="doc-md-description">\s*</div>')


def on_page_content(page_html: str, page: Any, **_: Any) -> str:
    """Remove dashes that introduce nothing."""
    return EMPTY.sub("", page_html) if page.file.src_path.startswith("api/") else page_html
