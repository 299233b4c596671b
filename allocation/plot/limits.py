"""Limits side by side: loads against caps and floors, prices with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from allocation.arguments import shown
from allocation.arrays import Indices
from allocation.errors import InvalidProblemError
from allocation.plot.canvas import BLUE, GREEN, GREY, SKY, VERMILLION, axes, checked_solution, legend, whole_ticks
from allocation.problem import Problem, checked_problem
from allocation.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to so many bars each has its index below it.
LABELLED = 40


def load(
    problem: Problem, solution: Solution, side: Literal["features", "tokens"] = "features", ax: Axes | None = None
) -> Axes:
    """Matches of every token or feature beside its cap and floor, largest cap first, then largest load.

    Parameters
    ----------
    problem : Problem
    solution : Solution
    side : {"features", "tokens"}
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.feature_choice([[3.0, 1.0, -2.0], [0.5, 2.0, 1.0]], caps=1)
    >>> al.plot.load(problem, al.solve(problem)).get_ylabel()
    'matches'
    """
    name = _one_of(side, "side", ("tokens", "features"))[:-1]
    problem = checked_problem(problem)
    solution = checked_solution(solution, problem)
    counts = (solution.token_counts, solution.feature_counts)[side == "features"]
    caps, floors = getattr(problem, f"{name}_caps"), getattr(problem, f"{name}_floors")
    order = np.lexsort((-counts, np.zeros_like(counts) if caps is None else -caps))
    counts = counts[order]
    ax = axes(ax, (6.4, 3.6))
    _bars(ax, counts, color=SKY, label="load")
    if caps is not None and np.any(counts == caps[order]):
        _bars(ax, np.where(counts == caps[order], counts, 0), color=BLUE, label="load at its cap")
    top, edges = int(counts.max(initial=1)), np.arange(counts.size + 1) - 0.5
    for limits, colour, word in ((caps, VERMILLION, "cap"), (floors, GREEN, "floor")):
        if limits is not None and counts.size:
            steps = np.minimum(limits[order], 10 * top)
            ax.stairs(steps, edges, baseline=None, color=colour, linewidth=1.8, label=word)
            top = max(top, int(steps[steps <= 3 * top].max(initial=0)))
    whole_ticks(ax, "y")
    ax.set(ylabel="matches", xlim=(-0.5, max(edges[-1], 0.5)), ylim=(0, 1.12 * top))
    _label_bars(ax, order, name)
    legend(ax)
    return ax


def prices(
    solution: Solution,
    block: Literal["features", "tokens", "feature_groups", "token_groups"] = "features",
    ax: Axes | None = None,
) -> Axes:
    """The price of every limit of one kind with the interval of all optimal prices, largest first.

    Parameters
    ----------
    solution : Solution
    block : {"features", "tokens", "feature_groups", "token_groups"}
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Notes
    -----
    A price is positive where a cap binds, negative where a floor does. An arrow is an interval without an upper end.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.feature_choice([[3.0, 1.0, -2.0], [0.5, 2.0, 1.0]], caps=1)
    >>> al.plot.prices(al.solve(problem)).get_ylabel()
    'price'
    """
    names = ("features", "tokens", "feature_groups", "token_groups")
    price = getattr(checked_solution(solution).prices, _one_of(block, "block", names))
    value = np.asarray(price.value, np.float64)
    lower, upper = (np.broadcast_to(np.asarray(end, np.float64), value.shape) for end in (price.lower, price.upper))
    order = np.lexsort((-upper, -value))
    value, lower, upper = value[order], lower[order], upper[order]
    ax = axes(ax, (6.4, 3.6))
    x, many_bars = np.arange(value.size), value.size > LABELLED
    finite = np.concatenate([value, lower[np.isfinite(lower)], upper[np.isfinite(upper)], [0.0]])
    margin = 0.08 * float(np.ptp(finite)) or 1.0
    ground, ceiling = float(finite.min()) - margin, float(finite.max()) + margin
    ax.axhline(0, color=GREY, linewidth=0.8)
    ends = np.maximum(lower, ground), np.minimum(upper, ceiling)
    ax.vlines(x, *ends, color=SKY, linewidth=1.0 if many_bars else 4.0, label="optimal prices")
    for beyond, edge, arrow in ((upper > ceiling, ceiling, "^"), (lower < ground, ground, "v")):
        if beyond.any():  # an unclipped artist without points would still claim room in a grid of Axes
            clipped_x = x[beyond]
            size = 4 if many_bars else 8
            ax.plot(clipped_x, np.full(clipped_x.size, edge), arrow, color=SKY, clip_on=False, markersize=size)
    for chosen, colour, word in (
        (value > 0, VERMILLION, "cap binds"),
        (value < 0, GREEN, "floor binds"),
        (value == 0, GREY, "no price"),
    ):
        if chosen.any():
            ax.plot(x[chosen], value[chosen], "o", markersize=2.5 if many_bars else 6, color=colour, label=word)
    ax.set(ylabel="price", xlim=(-0.6, max(value.size - 0.4, 0.6)), ylim=(ground, ceiling))
    _label_bars(ax, order, block.removesuffix("s").replace("_", " "))
    legend(ax)
    return ax


def _bars(ax: Axes, heights: Indices, **style: Any) -> None:
    """Bars from 0 as one shape, with gaps between them where they are few."""
    half = 0.43 if heights.size <= LABELLED else 0.5
    middle = np.arange(heights.size)
    outline = np.zeros(max(2 * heights.size - 1, 0), np.int64)
    outline[::2] = heights
    edges = np.stack([middle - half, middle + half], axis=1).reshape(-1)
    ax.stairs(outline, edges if heights.size else [0.0], fill=True, **style)


def _label_bars(ax: Axes, order: Indices, name: str) -> None:
    """Indices below the bars, or their number where they are too many to read."""
    if order.size > LABELLED:
        ax.set_xlabel(f"{order.size:,} {name}s, sorted")
        whole_ticks(ax, "x")
        return
    ax.set_xticks(np.arange(order.size), [str(index) for index in order], fontsize=8 if order.size > 20 else None)
    ax.set_xlabel(name)


def _one_of(value: str, name: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InvalidProblemError(f"{name}: expected {', '.join(map(repr, known))}, found {shown(value)}")
    return value
