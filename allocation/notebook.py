"""How problems and solutions look in a notebook: a small table that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray


def card(title: str, rows: Iterable[tuple[str, str]], sentence: str = "") -> str:
    """A heading, one line per entry, and a sentence below."""
    cell = "padding:.15em .9em .15em 0;border:0;background:none;text-align:left"
    name_cell = f"font-weight:normal;white-space:nowrap;opacity:.7;{cell}"
    lines = "".join(
        f'<tr style="background:none"><th scope="row" style="{name_cell}">{escape(name)}</th>'
        f'<td style="font-variant-numeric:tabular-nums;{cell}">{escape(text)}</td></tr>'
        for name, text in rows
    )
    plain = "border-collapse:collapse;border:0;color:inherit;font-size:inherit;margin:.3em 0 0"
    note = f'<div style="opacity:.7;margin-top:.3em">{escape(sentence)}</div>' if sentence else ""
    return (
        f'<div style="font-family:sans-serif;font-size:.9em"><strong>{escape(title)}</strong>'
        f'<table style="{plain}">{lines}</table>{note}</div>'
    )


def spread(counts: NDArray[Any]) -> str:
    """Smallest to largest of the loads of one side, their mean, and how many are 0."""
    if counts.size == 0:
        return "none"
    unused = int(np.count_nonzero(counts == 0))
    text = f"{counts.min():.4g} to {counts.max():.4g}, {counts.mean():.4g} on average"
    return f"{text}, {unused:,} without any" if unused else text
