"""The picture of rough scores: approximate scores with their bounds, the price, and those that had to be asked for.

`python docs/scripts/draw_rough.py` writes docs/assets/pictures/rough.svg.html.
"""

from __future__ import annotations

from pathlib import Path

import allocation as al
import numpy as np
from numpy.typing import NDArray

TARGET = Path(__file__).parent.parent / "assets" / "pictures" / "rough.svg.html"
SHAPE, BUDGET, BOUND, SEED = (4, 8), 8, 0.35, 3
WIDE, HIGH, LEFT, TOP, FOOT = 640, 250, 34, 16, 30


def case() -> tuple[al.Rough, al.Solution, set[int]]:
    """Rough scores, the answer for the exact ones, and the flat positions that it asked for."""
    draw = np.random.default_rng(SEED)
    scores = draw.normal(1.5, 1.2, SHAPE)
    asked: set[int] = set()

    def exact(tokens: NDArray[np.int64], features: NDArray[np.int64]) -> NDArray[np.float64]:
        asked.update((tokens * SHAPE[1] + features).tolist())
        return scores[tokens, features]

    rough = al.Rough(scores + draw.uniform(-BOUND, BOUND, SHAPE), (BOUND, 1.0), exact)
    return rough, al.solve(al.mutual_choice(rough, BUDGET)), asked


def picture() -> str:
    """A bar of a bound's width for every pair, in order of the approximate score; filled where it was asked for."""
    rough, solution, asked = case()
    near, price = rough.approximate.array, float(solution.prices.budget.value)
    order = np.argsort(-near, axis=None)
    top, bottom = float(near.max()) + 2 * BOUND, float(near.min()) - 2 * BOUND
    step = (WIDE - LEFT - 90) / order.size

    def height(value: float) -> float:
        return TOP + (top - value) / (top - bottom) * (HIGH - TOP - FOOT)

    parts = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDE - 80}" y1="{height(0):.1f}" y2="{height(0):.1f}"/>',
        f'<text class="tick" x="{LEFT - 8}" y="{height(0) + 4:.1f}" text-anchor="end">0</text>',
    ]
    for rank, flat in enumerate(order.tolist()):
        value = float(near.flat[flat])
        upper, lower = height(value + BOUND), height(value - BOUND)
        kind = "match" if flat in asked else "cell strong"
        parts.append(
            f'<rect class="{kind}" x="{LEFT + rank * step + 3:.1f}" y="{upper:.1f}" width="{step - 6:.1f}" '
            f'height="{lower - upper:.1f}" rx="2"/>'
        )
    parts += [
        f'<line class="mark" x1="{LEFT}" x2="{WIDE - 80}" y1="{height(price):.1f}" y2="{height(price):.1f}"/>',
        f'<text class="label" x="{WIDE - 75}" y="{height(price) + 4:.1f}">price {price:.2f}</text>',
    ]
    title = (
        f"The bounds of {order.size} approximate scores in descending order. For a budget of {BUDGET} the exact scores "
        f"of {len(asked)} are asked for (filled): of the matches, and of those whose bound reaches the price."
    )
    head = f'<svg class="allocation" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{title}"><title>{title}</title>'
    drawing = f"{head}{''.join(parts)}</svg><figcaption>{title}</figcaption>"
    return f'<figure class="wide" data-search-exclude>{drawing}</figure>\n'


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(picture(), encoding="utf-8")
    print(TARGET)
