"""How things look in a notebook: a small table that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

CELL = "padding:.15em .9em .15em 0;border:0;background:none;text-align:left"
TABLE = "border-collapse:collapse;border:0;color:inherit;font-size:inherit;margin:.3em 0 0"


def card(title: str, sentence: str, rows: Iterable[tuple[str, str]]) -> str:
    """A heading and a sentence, as text; and rows of a name, as text, and what it stands for, as HTML."""
    lines = "".join(
        f'<tr style="background:none"><th scope="row" style="font-weight:normal;white-space:nowrap;opacity:.7;{CELL}">'
        f'{escape(name)}</th><td style="font-variant-numeric:tabular-nums;{CELL}">{html}</td></tr>'
        for name, html in rows
    )
    head = f"<strong>{escape(title)}</strong>{escape(sentence)}"
    return f'<div style="font-family:sans-serif;font-size:.9em">{head}<table style="{TABLE}">{lines}</table></div>'
