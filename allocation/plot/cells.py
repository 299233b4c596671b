"""The matrix with its matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from allocation.arrays import Reals
from allocation.plot.canvas import BLUE, INK, ORANGE, PALE, axes, checked_solution, whole_ticks
from allocation.problem import Problem, checked_problem
from allocation.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Beyond so many tokens or features a cell stands for a block of them.
CELLS = 64


def matrix(problem: Problem, solution: Solution | None = None, ax: Axes | None = None) -> Axes:
    """The scores as colours and the matches as dots.

    Colours run from negative (orange) through 0 (white) to positive (blue); forbidden matches are grey. A large matrix
    is shown in blocks: the best score of each, and a dot whose area is the share of the block that is matched.

    Parameters
    ----------
    problem : Problem
    solution : Solution, optional
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.token_choice([[3.0, 1.0, -2.0], [0.5, 2.0, 1.0]], k=1)
    >>> ax = al.plot.matrix(problem, al.solve(problem))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('feature', 'token')
    """
    rows, columns = checked_problem(problem).shape
    solution = None if solution is None else checked_solution(solution, problem)
    ax = axes(ax, (6.4, 6.0 * min(max(rows / max(columns, 1), 0.4), 1.3)))
    from matplotlib.colors import LinearSegmentedColormap

    step = max(1, -(-max(rows, columns) // CELLS))
    best = _block_maxima(problem, step)
    shown = np.ma.masked_equal(best, -np.inf)
    low, high = (float(shown.min()), float(shown.max())) if shown.count() else (0.0, 0.0)
    reach = max(-low, high) or 1.0
    colours = LinearSegmentedColormap.from_list("scores", [ORANGE, "white", BLUE]).with_extremes(bad=PALE)
    extent = (-0.5, best.shape[1] * step - 0.5, best.shape[0] * step - 0.5, -0.5)
    image = ax.imshow(
        shown, cmap=colours, vmin=-reach, vmax=reach, extent=extent, aspect="auto", interpolation="nearest"
    )
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.85, pad=0.02)
    bar.set_label("score" if step == 1 else f"best score of {step} x {step} pairs")
    bar.ax.set_ylim(min(low, 0.0), max(high, 0.0) or reach)
    bar.outline.set_visible(False)
    if solution is not None:
        blocks = np.stack([solution.tokens, solution.features]) // step
        (token, feature), counts = np.unique(blocks, axis=1, return_counts=True)
        area = (0.45 * _cell_points(ax, best.shape)) ** 2 * counts / (1 if step == 1 else counts.max(initial=1))
        middle = (step - 1) / 2
        edge = {"edgecolor": "white", "linewidth": 0.8} if step == 1 else {"linewidth": 0}
        ax.scatter(feature * step + middle, token * step + middle, s=np.maximum(area, 1.0), color=INK, **edge)
        count = f"{solution.tokens.size:,} match{'' if solution.tokens.size == 1 else 'es'}"
        ax.set_title(f"{count}, objective {solution.objective:.6g}", fontsize=10, loc="left")
    ax.set(xlabel="feature", ylabel="token", xlim=extent[:2], ylim=extent[2:])
    whole_ticks(ax, "both")
    return ax


def _block_maxima(problem: Problem, step: int) -> Reals:
    """The best score of every block of `step` tokens and features, -inf where all are forbidden."""
    shape = [max(1, -(-size // step)) for size in problem.shape]
    best = np.full(shape, -np.inf)
    rows, columns = problem.shape
    if (matrix := problem.matrix.dense) is None:
        tokens, features, scores = problem.matrix.matches(problem.matrix.allowed())
        np.maximum.at(best, (tokens // step, features // step), scores.astype(np.float64))
    elif rows and columns:
        for line in range(shape[0]):
            block = matrix.rows(line * step, min((line + 1) * step, rows)).max(axis=0).astype(np.float64)
            best[line] = np.maximum.reduceat(block, np.arange(0, columns, step))
    return best


def _cell_points(ax: Axes, shape: tuple[int, ...]) -> float:
    """The smaller side of a cell in points."""
    box = ax.get_window_extent()
    return 72 / ax.figure.dpi * min(box.width / shape[1], box.height / shape[0])
