"""Prices of the soft problem: damped Newton steps on its dual, from a high temperature down to the one asked."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from allocation.arrays import Mask, Reals
from allocation.soft.dual import Dual, LinePrices, Point
from allocation.soft.forms import Entropy

# Counts are met to this share of a cap (or of 1): about the rounding of a sum of shares.
TOLERANCE = 1e-13
# What points in float32 can tell.
ROUGH_TOLERANCE = 1e-4
# Below this residual, as many steps without a better one mean that rounding allows no more.
PRECISE, PATIENCE = 1e-9, 6
COOLING = 0.25
# On the way down a price need only come this close, in temperatures; where nothing is fractional, counts this close.
NEAR, NEAR_COUNT = 0.5, 0.25
# Relative accuracy of the tangent along which prices are predicted, and of early Newton steps.
ROUGH = 1e-2
# Longest step of a price, in temperatures; doubled while steps of that length succeed.
REACH = 8.0
MOST_STEPS = 500
RIDGE, MOST_RIDGE = 1e-10, 100.0
# The slope along a step may turn by this share: convexity then says that the dual fell, or nearly.
OVERSHOT = 0.1
HALVINGS = 8
# Rounds of guessing which prices stop at 0.
ACTIVE_SETS = 8
# A sum of shares and its slack are off by about this share of the sum.
ROUNDING = 1e-15
# Fine parts above this are too coarse for the last digits of a count.
FINE = 4096.0


def minimise(dual: Dual, temperature: float) -> tuple[Point, int]:
    """The point of optimal prices at the temperature, found by cooling, and the number of Newton steps."""
    prices, steps = _cooled(dual, temperature)
    point, taken = _descend(dual, prices, lambda point: point.residual <= TOLERANCE)
    return point, steps + taken


def _cooled(dual: Dual, temperature: float) -> tuple[LinePrices, int]:
    """Prices near the optimal ones at the temperature, and the number of Newton steps."""
    stages = max(0, math.ceil(math.log(max(dual.best, temperature) / temperature / 4) / -math.log(COOLING)))
    zero = np.zeros(dual.caps.size)
    prices, steps = LinePrices(zero, zero, temperature / COOLING**stages), 0
    for stage in range(stages, 0, -1):
        rough = dual.roughly(prices.temperature)
        point, taken = _descend(rough, prices, _is_near)
        prices = _predicted(rough, point).at(temperature / COOLING ** (stage - 1))
        steps += taken
    rough = dual.roughly(temperature)
    if rough is not dual:
        point, taken = _descend(rough, prices, lambda point: point.residual <= ROUGH_TOLERANCE)
        prices, steps = point.prices, steps + taken
    return prices, steps


def _is_near(point: Point) -> bool:
    """Whether the prices are close enough to go on at a lower temperature."""
    return not np.any(point.wrong > np.maximum(NEAR * point.masses, NEAR_COUNT))


def _predicted(dual: Dual, point: Point) -> LinePrices:
    """The prices after the temperature falls, along the tangent of their path."""
    step = point.equations(point.free).solve(dual.warming(point), RIDGE, ROUGH)
    return point.prices.moved(np.clip((1.0 - COOLING) * step, -REACH, REACH))


def _descend(dual: Dual, prices: LinePrices, is_done: Callable[[Point], bool]) -> tuple[Point, int]:
    """Newton steps at one temperature until the point is good enough or rounding ends the progress."""
    point = dual.point(prices)
    ridge, reach, curved = RIDGE, REACH, True
    best, best_step = point, 0
    for step in range(MOST_STEPS):
        best, best_step = (point, step) if point.residual < best.residual else (best, best_step)
        if is_done(point):
            return point, step
        if best.residual < PRECISE and step - best_step > PATIENCE:
            return best, step
        if np.abs(point.prices.fine).max() > FINE:
            point = dual.point(point.prices.at(point.prices.temperature))
        point = _settled(dual, point, (point.wrong > NEAR_COUNT) & (point.wrong > REACH * point.masses))
        aim = _curved_aim(point) if curved else point.slack
        full = _newton_step(point, aim, ridge)
        trial, share = _search(dual, point, np.clip(full, -reach, reach))
        if trial is not None:
            reach = 2 * reach if share == 1.0 and np.abs(full).max() > reach else max(share * reach, REACH)
            # aims of each line by itself may have no common answer: after a step of little gain comes a plain one
            gained = trial.residual < 0.5 * point.residual or not curved
            ridge, point, curved = max(ridge / 10, RIDGE), trial, gained and isinstance(dual.form, Entropy)
        elif curved:
            curved = False
        elif np.any(point.wrong > NEAR_COUNT):
            point = _settled(dual, point, point.wrong > NEAR_COUNT)
        elif ridge < MOST_RIDGE:
            ridge = max(ridge * 100, 1e-6)
        else:
            return best, step
    return best, MOST_STEPS


def _settled(dual: Dual, point: Point, lines: Mask) -> Point:
    """The point after an exact move of each of some prices, side by side: for lines whose slopes say too little."""
    tokens = dual.scores.shape[0]
    for side in (slice(0, tokens), slice(tokens, -1), slice(-1, None)):
        chosen = np.flatnonzero(lines[side] & (point.wrong[side] > NEAR_COUNT))
        if chosen.size:
            step = np.zeros_like(dual.caps)
            step[side][chosen] = dual.line_moves(point.prices, side, chosen)
            point = dual.point(point.prices.moved(step))
    return point


def _search(dual: Dual, point: Point, step: Reals) -> tuple[Point | None, float]:
    """The point after the step or a share of it, if the dual falls along it."""
    share = 1.0
    for _ in range(HALVINGS):
        trial = dual.point(point.prices.moved(share * step))
        moved = trial.prices.fine - point.prices.fine
        moved_lines = np.flatnonzero(moved)
        slope_before = float(point.slack[moved_lines] @ moved[moved_lines])
        slope_after = float(trial.slack[moved_lines] @ moved[moved_lines])
        if slope_before >= 0:
            break
        if slope_after <= -OVERSHOT * slope_before:
            return trial, share
        share *= min(max(slope_before / (slope_before - slope_after), 0.1), 0.5)
    return None, share


def _curved_aim(point: Point) -> Reals:
    """The slack of each line as a Newton step should see it: minus the line's mass times the move that it needs.

    Shares below 1/2 fall about as `exp(-d)` when a price moves by `d`, and the rest of shares above 1/2 grows as
    `exp(d)`. With `P` and `Q` the mass of the two, the move solves `P exp(-d) - Q exp(d) = slack + P - Q`. Near the
    optimum that is the slack itself; far from it one step instead of many.
    """
    above = point.masses_above
    below = point.masses - above
    rest = point.slack + below - above
    rounding = ROUNDING * (1.0 + point.counts)
    rest[np.abs(rest) < rounding] = 0.0
    above, below = np.maximum(above, rounding), np.maximum(below, rounding)
    root = np.sqrt(rest**2 + 4 * below * above)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = np.where(rest >= 0, 2 * below / (rest + root), (root - rest) / (2 * above))
        log_overshoot = np.log(point.counts / point.caps)
        move = np.where(np.abs(log_overshoot) > 0.5, log_overshoot, np.log(factor))
        aim: Reals = np.where(point.free & np.isfinite(move), -point.masses * move, point.slack)
    return aim


def _newton_step(point: Point, aim: Reals, ridge: float) -> Reals:
    """The step of every price towards a gradient of 0, with prices that reach 0 stopped there."""
    fine, lowest = point.prices.fine, point.prices.lowest
    precision = min(ROUGH, point.residual)
    limited = np.isfinite(point.caps)
    all_limited_equations = point.equations(limited)
    at_zero = ~point.free
    for _ in range(ACTIVE_SETS):
        stopped = np.where(at_zero, lowest - fine, 0.0)
        pushed = all_limited_equations.apply(stopped) if stopped.any() else 0.0
        right = np.where(at_zero, 0.0, -(aim + pushed))
        step = np.where(at_zero, stopped, point.equations(~at_zero).solve(right, ridge, precision))
        hits = ~at_zero & (fine + step < lowest)
        leaves_zero = at_zero & limited
        if leaves_zero.any():
            leaves_zero &= aim + all_limited_equations.apply(step) < 0
        if not (hits.any() or leaves_zero.any()):
            break
        at_zero = (at_zero | hits) & ~leaves_zero
    return np.maximum(step, lowest - fine)
