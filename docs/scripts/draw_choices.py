"""The picture of the start page: one score matrix, allocated in four ways by `allocation` itself.

`python docs/scripts/draw_choices.py` writes docs/assets/pictures/choices.svg.html.
"""

from __future__ import annotations

from pathlib import Path

import allocation as al
import numpy as np
from numpy.typing import NDArray

TARGET = Path(__file__).parent.parent / "assets" / "pictures" / "choices.svg.html"
TOKENS, FEATURES, K, SEED = 12, 18, 4, 3
CELL, GAP, BAR = 16, 10, 46
BUDGET = K * TOKENS
FEATURE_FLOOR = 1


def scores() -> NDArray[np.float64]:
    """Scores in which some tokens say more than others and some features are wanted more than others."""
    rng = np.random.default_rng(SEED)
    matrix = rng.normal(size=(TOKENS, FEATURES)) + rng.normal(scale=0.5, size=(TOKENS, 1))
    return matrix + np.linspace(1.2, -0.5, FEATURES)


def problems(matrix: NDArray[np.float64]) -> dict[str, tuple[al.Problem, str]]:
    """The four named problems, with what each says about itself."""
    quotas = al.zipf_quotas(BUDGET, FEATURES, alpha=0.8, beta=2.0, tokens=TOKENS)
    return {
        "Token choice": (al.token_choice(matrix, K), f"every token takes {K}"),
        "Mutual choice": (
            al.mutual_choice(matrix, BUDGET),
            f"the best {BUDGET} of all pairs",
        ),
        "Feature choice": (
            al.feature_choice(matrix, quotas),
            "every feature takes its quota",
        ),
        "Balanced choice": (
            al.Problem(matrix, budget=BUDGET, feature_floors=FEATURE_FLOOR),
            f"the best {BUDGET}, every feature at least {FEATURE_FLOOR}",
        ),
    }


def panel(name: str, said: str, matrix: NDArray[np.float64], solution: al.Solution) -> str:
    """One allocation: cells shaded by score, matches filled, loads as bars on the right and below."""
    wide, high = FEATURES * CELL, TOKENS * CELL
    shade = (matrix - matrix.min()) / (matrix.max() - matrix.min())
    mask = solution.mask()
    parts = []
    for (i, j), share in np.ndenumerate(shade):
        kind = "match" if mask[i, j] else "cell"
        look = "" if mask[i, j] else f' fill-opacity="{0.02 + 0.2 * share:.3f}"'
        parts.append(
            f'<rect class="{kind}" x="{j * CELL + 1}" y="{i * CELL + 1}" width="{CELL - 2}" height="{CELL - 2}" '
            f'rx="2.5"{look}/>'
        )
    longest = max(TOKENS, int(solution.feature_counts.max()), int(solution.token_counts.max()))
    for i, count in enumerate(solution.token_counts):
        parts.append(
            f'<rect class="load" x="{wide + GAP}" y="{i * CELL + 4}" width="{BAR * count / longest:.1f}" '
            f'height="{CELL - 8}" rx="1.5"/>'
        )
    for j, count in enumerate(solution.feature_counts):
        parts.append(
            f'<rect class="load" x="{j * CELL + 4}" y="{high + GAP}" width="{CELL - 8}" '
            f'height="{BAR * count / longest:.1f}" rx="1.5"/>'
        )
    counts = solution.token_counts
    features = int(np.count_nonzero(solution.feature_counts == 0))
    unused = "" if not features else f", {features} feature{'s' * (features > 1)} unused"
    spread = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    title = f"{name}: {said}; {spread} features per token{unused}; total score {solution.objective:.1f}"
    return (
        f'<figure><svg class="allocation" viewBox="-1 -1 {wide + GAP + BAR + 2} {high + GAP + BAR + 2}" role="img" '
        f'aria-label="{title}"><title>{title}</title>{"".join(parts)}</svg>'
        f"<figcaption><b>{name}</b>{said.capitalize()}.<br>{spread} features per token{unused}. "
        f"Total score {solution.objective:.1f}.</figcaption></figure>"
    )


def picture() -> str:
    """The four panels side by side."""
    matrix = scores()
    panels = [panel(name, said, matrix, al.solve(problem)) for name, (problem, said) in problems(matrix).items()]
    return '<div class="panels" data-search-exclude>\n' + "\n".join(panels) + "\n</div>\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(picture(), encoding="utf-8")
    print(TARGET)
