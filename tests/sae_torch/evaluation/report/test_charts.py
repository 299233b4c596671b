from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sae_torch.evaluation.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Series,
    bar_chart,
    legend,
    line_chart,
)


def points(svg: str) -> list[list[tuple[float, float]]]:
    lines = [element.get("points", "") for element in ElementTree.fromstring(svg).iter("polyline")]
    return [[(float(x), float(y)) for x, y in re.findall(r"([-\d.]+),([-\d.]+)", line)] for line in lines]


def ticks(svg: str) -> list[str]:
    return [
        element.text or "" for element in ElementTree.fromstring(svg).iter("text") if element.get("class") == "tick"
    ]


@given(
    some.lists(some.tuples(some.floats(1e-9, 1e9), some.floats(1e-9, 1e9)), min_size=1, max_size=30),
    some.booleans(),
    some.booleans(),
)
def test_every_point_lies_inside_and_ticks_are_few(values: list[tuple[float, float]], log_x: bool, log_y: bool) -> None:
    x, y = zip(*values, strict=True)
    svg = line_chart([Series("one", x, y, 1)], Axis("x", log_x), Axis("y", log_y), "title")
    (line,) = points(svg)
    assert len(line) == len(values)
    for a, b in line:
        assert LEFT - 0.1 <= a <= WIDTH - RIGHT + 0.1
        assert TOP - 0.1 <= b <= HEIGHT - BOTTOM + 0.1
    assert len(ticks(svg)) <= 45


def test_larger_is_further_right_and_higher_up() -> None:
    ((low, high),) = points(line_chart([Series("one", [1, 10], [0.2, 0.1], 1)], Axis("x"), Axis("y"), "title"))
    assert low[0] < high[0]
    assert low[1] < high[1]  # SVG counts downwards


def test_a_power_law_is_straight_on_log_axes() -> None:
    ranks = [1, 10, 100, 1000]
    svg = line_chart([Series("law", ranks, [r**-0.5 for r in ranks], 1)], Axis("x", True), Axis("y", True), "title")
    (line,) = points(svg)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(line)]
    assert max(slopes) - min(slopes) < 0.01
    assert ticks(svg)[-4:] == ["1", "10", "100", "1000"]


def test_points_that_a_log_axis_cannot_show_are_left_out() -> None:
    svg = line_chart([Series("one", [1, 2, 3], [0.0, 0.1, 0.2], 1)], Axis("x"), Axis("y", True), "title")
    assert len(points(svg)[0]) == 2
    with pytest.raises(ValueError, match="'empty' has no point"):
        line_chart([Series("one", [1], [0.0], 1)], Axis("x"), Axis("y", True), "empty")


def test_bars_are_as_high_as_their_shares() -> None:
    svg = bar_chart([0.1, 0.0, 0.4], Axis("x"), Axis("y"), "title", 2, (2.0, "budget <2>"))
    root = ElementTree.fromstring(svg)
    heights = [float(bar.get("height", "")) for bar in root.iter("rect")]
    assert len(heights) == 2
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3)
    assert any(text.text == "budget <2>" for text in root.iter("text"))


def test_text_is_escaped_and_the_chart_is_named() -> None:
    svg = line_chart([Series("a", [0, 1], [0, 1], 1)], Axis("<x>"), Axis("y & z"), 'the "title" <b>')
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'the "title" <b>'
    assert {"<x>", "y & z"} <= {text.text for text in root.iter("text")}
    assert "&lt;b&gt;" in legend([Series("<b>", [], [], 1)])
