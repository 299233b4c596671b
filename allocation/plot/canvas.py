"""What all pictures share: the Axes, the colours, whole-numbered ticks, the legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from allocation.arguments import shown
from allocation.errors import InvalidProblemError
from allocation.problem import Problem
from allocation.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe and Ito 2008: readers with any colour vision tell them apart.
BLUE, SKY, ORANGE, VERMILLION, GREEN = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73"
INK, GREY, PALE = "#222222", "#7f7f7f", "#dcdcdc"


def checked_solution(solution: Any, problem: Problem | None = None) -> Solution:
    """The argument `solution` of a picture, which must be one, and of the problem beside it."""
    if not isinstance(solution, Solution):
        raise InvalidProblemError(f"solution: expected an allocation.Solution, found {shown(solution)}")
    if problem is not None and solution.shape != problem.shape:
        raise InvalidProblemError(
            f"solution: expected one of shape {problem.shape} as the problem, found {shown(solution)}"
        )
    return solution


def axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The Axes given, or those of a new figure, without the box."""
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError:
        raise ModuleNotFoundError("al.plot needs matplotlib: run `pip install 'sae-allocation[plot]'`") from None
    if ax is not None and getattr(ax, "name", None) != "rectilinear":
        raise InvalidProblemError(f"ax: expected matplotlib Axes of the usual kind, found {shown(ax)}")
    if ax is None:
        _, ax = pyplot.subplots(figsize=size, layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(color=GREY, labelcolor=INK)
    return ax


def whole_ticks(ax: Axes, axis: Literal["x", "y", "both"]) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    for name in ("x", "y"):
        if axis in (name, "both"):
            getattr(ax, f"{name}axis").set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend(ax: Axes) -> None:
    """One line above the picture, where it hides nothing."""
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False, fontsize=9, columnspacing=1.4)
