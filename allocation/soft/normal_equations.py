"""The linear system of the soft problem: counts against prices, `C diag(D) C^T y = b` over the tight limits.

`D` holds the slope of every edge, `C` the incidence of lines (tokens, features, all edges together) with edges. The
lines of one side share no edge, so one side is eliminated exactly, and a Schur complement on the other, bordered by the
budget, remains. The system may be singular and is then consistent up to rounding: a ridge of relative size `ridge`
bounds the solution along what the system does not see, and refinement removes its effect elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Mask, Reals

# A line whose edges have less slope together is flat: its price moves nothing.
NO_MASS = 1e-200
# Largest Schur complement that is factorised at once; larger ones are first tried by conjugate gradients.
DIRECT = 256
CONJUGATE_STEPS = 300
# Relative accuracy that sums in float32 allow, and the ridge that hides their rounding.
SINGLE = 1e-4
# Slopes of at most this share of entries are kept as a sparse matrix; ones below this share of the largest are 0.
SPARSE, NEGLIGIBLE = 0.1, 1e-30


def slope_matrix(slopes: Reals) -> Any:
    """The slopes as they are, or as a SciPy CSR array where few matter."""
    if slopes.size < 1 << 16:
        return slopes
    significant = slopes > NEGLIGIBLE * slopes.max()
    if np.count_nonzero(significant) > SPARSE * slopes.size:
        return slopes
    from scipy.sparse import csr_array

    tokens, features = np.nonzero(significant)
    return csr_array((slopes[significant].astype(np.float64), (tokens, features)), shape=slopes.shape)


def _rows(slopes: Any, y: Reals) -> Reals:
    """`slopes @ y` in the slopes' own type, which a product with float64 would copy."""
    return np.asarray((slopes @ y.astype(slopes.dtype, copy=False)).astype(np.float64, copy=False))


def _columns(y: Reals, slopes: Any) -> Reals:
    """`y @ slopes` likewise."""
    return np.asarray((y.astype(slopes.dtype, copy=False) @ slopes).astype(np.float64, copy=False))


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """`C diag(D) C^T` restricted to some lines: one vector entry per line, tokens, then features, then the budget.

    Lines that are not `free`, and those without slope mass, have entry 0 in every solution.
    """

    slopes: Any  # (tokens, features), dense or CSR
    masses: Reals  # sums of the slopes over each line
    free: Mask

    @cached_property
    def used(self) -> Mask:
        """The lines of the system."""
        return self.free & (self.masses > NO_MASS)

    def apply(self, y: Reals) -> Reals:
        """The product with `y`; entries of other lines are read as 0 and returned as 0."""
        tokens = self.slopes.shape[0]
        y = np.where(self.used, y, 0.0)
        a, b, w = y[:tokens], y[tokens:-1], y[-1]
        rows = self.masses[:tokens] * (a + w) + _rows(self.slopes, b)
        columns = self.masses[tokens:-1] * (b + w) + _columns(a, self.slopes)
        total = self.masses[:tokens] @ a + self.masses[tokens:-1] @ b + self.masses[-1] * w
        return np.where(self.used, np.concatenate([rows, columns, [total]]), 0.0)

    def solve(self, b: Reals, ridge: float, tolerance: float, refinements: int = 0) -> Reals:
        """`y` with `(C diag(D) C^T + ridge * diag) y = b`; each refinement shrinks the ridge's effect by about `ridge`.

        `tolerance` is the relative accuracy at which an iterative solution may stop.
        """
        if self.slopes.dtype == np.float32:
            ridge, tolerance = max(ridge, SINGLE), max(tolerance, SINGLE)
        y = self._schur.solve(b, ridge, tolerance)
        for _ in range(refinements):
            y = y + self._schur.solve(b - self.apply(y), ridge, tolerance)
        return y

    @cached_property
    def _schur(self) -> _Schur:
        tokens = self.slopes.shape[0]
        sides = [slice(0, tokens), slice(tokens, self.masses.size - 1)]
        turned = np.count_nonzero(self.used[sides[0]]) > np.count_nonzero(self.used[sides[1]])
        if turned:
            sides.reverse()
        return _Schur(self.slopes.T if turned else self.slopes, self.masses, self.used, sides[0], sides[1])


@dataclass(frozen=True, eq=False)
class _Schur:
    """The system with one side eliminated: unknowns are the lines of `remaining_side`, and the budget."""

    slopes: Any  # remaining side x eliminated side
    masses: Reals
    used: Mask
    remaining_side: slice
    eliminated_side: slice

    @cached_property
    def _outside(self) -> Reals:
        """Mass of each remaining line, and of all, beyond the eliminated lines: sums, as differences would cancel."""
        beyond = ~self.used[self.eliminated_side]
        if not beyond.any():
            return np.zeros(self.slopes.shape[0] + 1)
        return np.append(_rows(self.slopes, beyond.astype(np.float64)), self.masses[self.eliminated_side][beyond].sum())

    @cached_property
    def _scale(self) -> Reals:
        """Makes the diagonal 1, so that the ridge and the rounding are alike for lines of any mass; 0 if not used."""
        used = np.append(self.used[self.remaining_side], self.used[-1])
        return np.where(
            used, 1.0 / np.sqrt(np.maximum(np.append(self.masses[self.remaining_side], self.masses[-1]), NO_MASS)), 0.0
        )

    def solve(self, b: Reals, ridge: float, tolerance: float) -> Reals:
        """One entry per line of the whole problem."""
        grown = 1.0 + ridge
        eliminated_used = self.used[self.eliminated_side]
        inverse = np.where(eliminated_used, 1.0 / (grown * np.maximum(self.masses[self.eliminated_side], NO_MASS)), 0.0)
        pushed = np.where(eliminated_used, b[self.eliminated_side], 0.0) * inverse
        right = np.append(
            b[self.remaining_side] - _rows(self.slopes, pushed),
            b[-1] - b[self.eliminated_side][eliminated_used].sum() / grown,
        )
        z = self._scale * self._reduced(self._scale * right, inverse, ridge, tolerance)
        y = np.empty_like(b)
        y[self.remaining_side], y[-1] = z[:-1], z[-1]
        y[self.eliminated_side] = (
            pushed - inverse * _columns(z[:-1], self.slopes) - np.where(eliminated_used, z[-1] / grown, 0.0)
        )
        return y

    def _border(self, ridge: float) -> Reals:
        """The budget's row after the elimination: against the remaining lines, and its own entry."""
        masses = np.append(self.masses[self.remaining_side], self.masses[-1])
        border: Reals = self._outside + ridge / (1.0 + ridge) * (masses - self._outside)
        border[-1] += ridge * self.masses[-1]
        return border

    def _reduced(self, right: Reals, inverse: Reals, ridge: float, tolerance: float) -> Reals:
        """The scaled system: by conjugate gradients if large, else or failing that by factorisation."""
        lines = np.flatnonzero(self._scale)
        if lines.size > DIRECT:
            z = self._conjugate_gradients(right, inverse, ridge, tolerance)
            if z is not None:
                return z
        z = np.zeros_like(right)
        if lines.size:
            from scipy.linalg import cho_factor, cho_solve

            matrix = self._matrix(lines, inverse, ridge)
            factor: Any = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
            z[lines] = cho_solve(factor, right[lines], check_finite=False)
        return z

    def _matrix(self, lines: NDArray[np.int64], inverse: Reals, ridge: float) -> Reals:
        scale, total = self._scale[lines], bool(self.used[-1])
        remaining, eliminated = (lines[:-1] if total else lines), np.flatnonzero(inverse)
        root = self.slopes[remaining][:, eliminated]
        if isinstance(root, np.ndarray):
            root = root * np.sqrt(inverse[eliminated])
            root *= scale[: remaining.size, None]
            product = root @ root.T
        else:
            root = root.multiply(np.sqrt(inverse[eliminated])).multiply(scale[: remaining.size, None]).tocsr()
            product = (root @ root.T).toarray()
        matrix = np.zeros((lines.size, lines.size))
        matrix[: remaining.size, : remaining.size] = -product
        matrix[np.arange(remaining.size), np.arange(remaining.size)] += 1.0 + ridge
        if total:
            border = self._border(ridge)[lines] * scale * scale[-1]
            matrix[-1, :] = matrix[:, -1] = border
        return matrix

    def _conjugate_gradients(self, right: Reals, inverse: Reals, ridge: float, tolerance: float) -> Reals | None:
        """The scaled system by products with the slopes; None if it does not converge soon."""
        border = self._border(ridge)
        diagonal = (1.0 + ridge) * self.masses[self.remaining_side]

        def product(z: Reals) -> Reals:
            y = self._scale * z
            through = _rows(self.slopes, inverse * _columns(y[:-1], self.slopes))
            lines = diagonal * y[:-1] - through + border[:-1] * y[-1]
            image: Reals = self._scale * np.append(lines, border @ y)
            return image

        z = np.zeros_like(right)
        residual, direction = right, right
        size = float(residual @ residual)
        goal = tolerance**2 * size
        for _ in range(CONJUGATE_STEPS):
            if size <= goal:
                return z
            image = product(direction)
            curvature = float(direction @ image)
            if curvature <= 0:
                return None
            z = z + size / curvature * direction
            residual = residual - size / curvature * image
            size, previous = float(residual @ residual), size
            direction = residual + size / previous * direction
        return None
