"""Charts as inline SVG that follow the page's colours, light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 70, 12, 12, 46


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Parameters
    ----------
    name : str
        For the legend.
    x, y : Sequence[float]
        Its points; points that a log axis cannot show are left out.
    colour : int
        CSS class suffix: 1 to 8, or 0 for the colour of the text.
    dashed : bool
        Whether it is a fitted or reference line.
    points : Sequence[str]
        What each point is, where they are drawn as dots.
    ringed : Sequence[bool]
        For each dot whether a ring is drawn around it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int
    dashed: bool = False
    points: Sequence[str] = ()
    ringed: Sequence[bool] = ()


@dataclass(frozen=True)
class Axis:
    """One axis.

    Parameters
    ----------
    label : str
        Quantity and unit.
    log : bool
        Whether it is logarithmic.
    tick : Callable[[float], str]
        Text of a tick.
    include : Sequence[float]
        Values that the range covers beside the points, for charts that are compared.
    """

    label: str
    log: bool = False
    tick: Callable[[float], str] = lambda value: f"{value:g}"
    include: Sequence[float] = ()


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool
    start: float
    end: float

    def __call__(self, value: float) -> float:
        low, high, value = (self.low, self.high, value) if not self.log else _logs(self.low, self.high, value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def line_chart(series: Sequence[Series], x: Axis, y: Axis, title: str) -> Markup:
    """Lines over two axes.

    Parameters
    ----------
    series : Sequence[Series]
        What is drawn, in order.
    x, y : Axis
        The axes; their ranges cover all points.
    title : str
        What the chart shows, for readers who do not see it.

    Raises
    ------
    ValueError
        If no point can be shown.
    """
    shown = [
        (s, [(a, b) for a, b in zip(s.x, s.y, strict=True) if (a > 0 or not x.log) and (b > 0 or not y.log)])
        for s in series
    ]
    points = [point for _, found in shown for point in found]
    if not points:
        raise ValueError(f"chart {title!r} has no point that its axes can show")
    across = _scale([a for a, _ in points], x, LEFT, WIDTH - RIGHT)
    up = _scale([b for _, b in points], y, HEIGHT - BOTTOM, TOP)
    lines = [
        f'<polyline class="line c{s.colour}{" dashed" if s.dashed else ""}" points="'
        + " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in found)
        + '"/>'
        for s, found in shown
    ]
    marks = [
        (ring, s.colour, across(a), up(b), text)
        for s in series
        for a, b, text, ring in zip(s.x, s.y, s.points, s.ringed, strict=bool(s.points))
        if (a > 0 or not x.log) and (b > 0 or not y.log)
    ]
    # those with a ring last, so that no other hides them
    dots = [
        f'<circle class="dot-mark c{colour}{" ringed" if ring else ""}" cx="{at:.1f}" cy="{height:.1f}" '
        f'r="{6 if ring else 3.5}"><title>{escape(text)}</title></circle>'
        for ring, colour, at, height, text in sorted(marks, key=lambda mark: mark[0])
    ]
    return _figure(title, [*_axes(across, up, x, y), *lines, *dots])


def bar_chart(
    heights: Sequence[float], x: Axis, y: Axis, title: str, colour: int, marked: tuple[float, str] | None = None
) -> Markup:
    """Bars at 0, 1, 2, ... with an optional vertical line.

    Parameters
    ----------
    heights : Sequence[float]
        Height of each bar.
    x, y : Axis
        The axes; y starts at 0.
    title : str
        What the chart shows, for readers who do not see it.
    colour : int
        CSS class suffix, 1 to 8.
    marked : tuple[float, str] or None
        Position and label of a vertical line.
    """
    across = _Scale(-0.5, max(len(heights), 1) - 0.5, False, LEFT, WIDTH - RIGHT)
    up = _Scale(0.0, 1.08 * max([*heights, 1e-12]), False, HEIGHT - BOTTOM, TOP)
    width = max(across(1) - across(0) - 0.5, 0.6)
    parts = [
        f'<rect class="bar c{colour}" x="{across(i) - width / 2:.1f}" y="{up(height):.1f}" width="{width:.1f}" '
        f'height="{up(0) - up(height):.1f}"/>'
        for i, height in enumerate(heights)
        if height > 0
    ]
    if marked is not None:
        position, label = marked
        at = across(position)
        anchor = "end" if at > (LEFT + WIDTH) / 2 else "start"
        offset = -5 if anchor == "end" else 5
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="label" x="{at + offset:.1f}" y="{TOP + 12}" text-anchor="{anchor}">{escape(label)}</text>'
        )
    return _figure(title, [*_axes(across, up, x, y), *parts])


def legend(series: Sequence[Series]) -> Markup:
    """Names of the lines beside a sample of each; a list, so that it wraps on a narrow page."""
    items = "".join(
        '<li><svg class="swatch" viewBox="0 0 28 10" aria-hidden="true">'
        f'<line class="line c{s.colour}{" dashed" if s.dashed else ""}" x1="1" x2="27" y1="5" y2="5"/></svg>'
        f"{escape(s.name)}</li>"
        for s in series
    )
    return Markup(f'<ul class="legend">{items}</ul>')


def _figure(title: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _axes(across: _Scale, up: _Scale, x: Axis, y: Axis) -> list[str]:
    floor, left = HEIGHT - BOTTOM, LEFT
    parts = []
    for value in up.ticks():
        at = up(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{at + 4:.1f}" text-anchor="end">{y.tick(value)}</text>')
    for value in across.ticks():
        at = across(value)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{floor + 17}" text-anchor="middle">{x.tick(value)}</text>')
    middle, centre = (left + WIDTH - RIGHT) / 2, (TOP + floor) / 2
    parts += [
        f'<line class="axis" x1="{left}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>',
        f'<text class="label" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.label)}</text>',
        f'<text class="label" transform="translate(12 {centre}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.label)}</text>",
    ]
    return parts


def _scale(values: Sequence[float], axis: Axis, start: float, end: float) -> _Scale:
    low, high = min([*values, *axis.include]), max([*values, *axis.include])
    if axis.log:
        low, high = (low, high) if high > low else (low / 2, high * 2)
    else:
        room = 0.04 * (high - low) or max(abs(high), 1.0) * 0.5
        low, high = (0.0 if 0 <= low <= room * 5 else low - room), high + room
    return _Scale(low, high, axis.log, start, end)


def _logs(*values: float) -> tuple[float, ...]:
    return tuple(math.log10(value) for value in values)


def _linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    # rounded, so that 3 * 0.1 is shown as 0.3
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # a tenth of a thousandth of room, so that the ends themselves are not lost to rounding
    within = [10.0**d for d in decades if low * 0.9999 <= 10.0**d <= high * 1.0001]
    if len(within) >= 3:
        return within
    return [m * 10.0**d for d in decades for m in (1, 2, 5) if low * 0.9999 <= m * 10.0**d <= high * 1.0001]
