"""The picture of the price: pairs in order of score, the budget between two of them, the interval of prices.

`python docs/scripts/draw_price.py` writes docs/assets/pictures/price.svg.html.
"""

from __future__ import annotations

from pathlib import Path

import allocation as al
import numpy as np

TARGET = Path(__file__).parent.parent / "assets" / "pictures" / "price.svg.html"
SCORES = np.array([[5.2, 3.1, 0.9, 2.0], [4.4, 0.4, 1.6, 3.7], [2.9, -0.5, 1.2, -1.1]])
BUDGET = 5
WIDE, HIGH, LEFT, TOP, FOOT = 640, 250, 34, 16, 34


def picture() -> str:
    """Bars in descending order; the selected ones filled."""
    price = al.solve(al.mutual_choice(SCORES, BUDGET)).prices.budget
    ordered = np.sort(SCORES, axis=None)[::-1]
    top, bottom = float(ordered[0]) * 1.05, float(ordered[-1]) * 1.15
    step = (WIDE - LEFT - 150) / ordered.size

    def height(value: float) -> float:
        return TOP + (top - value) / (top - bottom) * (HIGH - TOP - FOOT)

    parts = [
        f'<rect class="band" x="{LEFT}" y="{height(price.upper):.1f}" width="{WIDE - LEFT - 140}" '
        f'height="{height(price.lower) - height(price.upper):.1f}"/>'
    ]
    for rank, score in enumerate(ordered):
        y, tall = min(height(score), height(0.0)), abs(height(score) - height(0.0))
        kind = "match" if rank < BUDGET else "cell strong"
        parts.append(
            f'<rect class="{kind}" x="{LEFT + rank * step + 3:.1f}" y="{y:.1f}" width="{step - 6:.1f}" '
            f'height="{tall:.1f}" rx="2"/>'
        )
    for value, label in (
        (price.upper, f"upper = {price.upper:g}"),
        (price.lower, f"lower = {price.lower:g}"),
    ):
        parts.append(
            f'<line class="mark" x1="{LEFT}" x2="{WIDE - 135}" y1="{height(value):.1f}" y2="{height(value):.1f}"/>'
        )
        parts.append(f'<text class="label" x="{WIDE - 130}" y="{height(value) + 4:.1f}">{label}</text>')
    cut = LEFT + BUDGET * step
    parts += [
        f'<line class="axis" x1="{LEFT}" x2="{WIDE - 140}" y1="{height(0):.1f}" y2="{height(0):.1f}"/>',
        f'<text class="tick" x="{LEFT - 8}" y="{height(0) + 4:.1f}" text-anchor="end">0</text>',
        f'<line class="cut" x1="{cut:.1f}" x2="{cut:.1f}" y1="{TOP}" y2="{HIGH - FOOT + 4}"/>',
        f'<text class="label" x="{cut:.1f}" y="{HIGH - 10}" text-anchor="middle">budget = {BUDGET}</text>',
    ]
    title = (
        f"Twelve scores in descending order. A budget of {BUDGET} selects the first {BUDGET}; every price from "
        f"{price.lower:g} to {price.upper:g} separates them from the rest."
    )
    head = f'<svg class="allocation" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{title}"><title>{title}</title>'
    drawing = f"{head}{''.join(parts)}</svg><figcaption>{title}</figcaption>"
    return f'<figure class="wide" data-search-exclude>{drawing}</figure>\n'


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(picture(), encoding="utf-8")
    print(TARGET)
