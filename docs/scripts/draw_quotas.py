"""Quota curves: uniform, plain Zipf and Zipf-Mandelbrot at the size of a real dictionary.

`python docs/scripts/draw_quotas.py` writes docs/assets/pictures/quotas.svg.html.
"""

from __future__ import annotations

from pathlib import Path

import allocation as al
import numpy as np
from sae_torch.evaluation.report.charts import Axis, Series, legend, line_chart

TARGET = Path(__file__).parent.parent / "assets" / "pictures" / "quotas.svg.html"
FEATURES, K = 12_288, 32


def picture() -> str:
    """Density per rank on log-log axes, with the line that no density can cross."""
    ranks = np.unique(np.geomspace(1, FEATURES, 160).astype(int))
    # a million tokens, so that whole numbers are fine enough to draw
    tokens = 10**6

    def densities(alpha: float, beta: float) -> list[float]:
        return (al.zipf_quotas(K * tokens, FEATURES, alpha, beta)[ranks - 1] / tokens).tolist()

    x = ranks.tolist()
    series = [
        Series("uniform", x, densities(0.0, 0.0), 3),
        Series("plain Zipf: alpha 1, beta 0", x, densities(1.0, 0.0), 1),
        Series("Zipf-Mandelbrot: alpha 1, beta 150", x, densities(1.0, 150.0), 2),
        Series("every token", [1, FEATURES], [1.0, 1.0], 0, dashed=True),
    ]
    title = f"Quota of each feature as a share of the tokens, {FEATURES:,} features, {K} per token on average"
    chart = line_chart(
        series,
        Axis("rank of the feature", log=True),
        Axis("share of the tokens", log=True),
        title,
    )
    said = f"{title}. Plain Zipf asks more of its first features than there are tokens."
    head = '<figure class="chart-figure" data-search-exclude>'
    return f"{head}{legend(series)}{chart}<figcaption>{said}</figcaption></figure>\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(picture(), encoding="utf-8")
    print(TARGET)
