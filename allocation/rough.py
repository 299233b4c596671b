"""Scores that are known roughly, within a bound, and exactly where somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from allocation.arguments import array_of, is_on_device, number_of, shown
from allocation.arrays import Array, Indices, Mask, Reals
from allocation.errors import InvalidProblemError
from allocation.scores import FLOAT_TYPES, DenseScores
from allocation.validation import dense_scores, score_vector

# By how much rounding in float64 may widen a bound before it counts as violated: relative to the bound, to the score.
_ROUNDING = (2.0**-40, 2.0**-50)
# Scores asked for at once where all are wanted.
_AT_ONCE = 1 << 20


class Rough(DenseScores):
    """A matrix of scores from a cheap product, with a bound on its error and a function for the exact ones.

    ::

        | exact(i, j) - approximate_ij |  <=  per_token_i * per_feature_j + relative * | approximate_ij |

    Pass it to `Problem` where a matrix of scores is expected. `solve` asks for the scores that the bounds leave open,
    and returns the answer for the exact ones, bit for bit as if all had been given (of tied answers with limits on both
    sides, one of the same value); ``stats["evaluated"]`` says how many it asked for. `verify`, `select_stream` and
    `exceeding` do so too. What reads every score asks for every one: ``problem.scores``, `soft_solve`,
    `to_linear_program`, and the intervals of prices where there are floors, groups or limits on both sides.

    Parameters
    ----------
    approximate : (tokens, features) array or CPU tensor of floats
        -inf forbids a match. Not copied when contiguous: leave it unchanged while it is in use.
    error : (per_token, per_feature) or (per_token, per_feature, relative)
        Vectors of finite numbers of 0 or more, or one number for all; `relative` is one number, 0 by default.
    exact : function of (tokens, features)
        The scores of so many pairs, as floats, from two int64 vectors; the same whenever asked. Called with many pairs
        at a time.

    Raises
    ------
    InvalidProblemError
        If an argument does not fit, and, while solving, if a score breaks the bound; the message names the pair.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> x, w = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]])
    >>> rough = al.Rough((x @ w).astype(np.float16), (1e-3, 1.0), lambda i, j: (x[i] * w.T[j]).sum(1))
    >>> al.solve(al.token_choice(rough, k=1)).values
    array([2.5, 3. ])
    """

    approximate: DenseScores
    exact: Callable[[Indices, Indices], ArrayLike]
    per_token: Reals
    per_feature: Reals
    relative: float
    # what has been found out about the scores, by whoever found it out
    memory: dict[str, Any]

    def __init__(
        self,
        approximate: ArrayLike,
        error: tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, float],
        exact: Callable[[Indices, Indices], ArrayLike],
    ) -> None:
        if is_on_device(approximate):
            raise InvalidProblemError("approximate: expected main memory, found a matrix on a CUDA device")
        matrix = dense_scores(approximate, "approximate")
        if matrix.is_integer:
            raise InvalidProblemError(f"approximate: expected floats, found {matrix.type}; integers are exact")
        if not callable(exact):
            raise InvalidProblemError(f"exact: expected a function of (tokens, features), found {shown(exact)}")
        if not isinstance(error, (tuple, list)) or len(error) not in (2, 3):
            raise InvalidProblemError(
                f"error: expected (per_token, per_feature) or (per_token, per_feature, relative), found {shown(error)}"
            )
        relative = number_of(error[2], "error[2]") if len(error) == 3 else 0.0
        if relative < 0:
            raise InvalidProblemError(f"error[2]: expected 0 or more, found {relative}")
        fields = {
            "approximate": matrix,
            "exact": exact,
            "per_token": _bounds(error[0], "error[0]", matrix.shape[0]),
            "per_feature": _bounds(error[1], "error[1]", matrix.shape[1]),
            "relative": relative,
            "memory": {},
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tokens, number of features."""
        return self.approximate.shape

    @property
    def n_edges(self) -> int:
        """Entries of the matrix, forbidden ones included."""
        return self.approximate.n_edges

    @property
    def size_text(self) -> str:
        """Its extent, as a problem shows it."""
        return f"{super().size_text}, rough {self.approximate.type}"

    @property
    def not_in_parts(self) -> str | None:
        """Why processes cannot hold such scores in parts: not yet."""
        return "`ranks=` takes exact scores: pass them instead of a Rough"

    @property
    def is_integer(self) -> bool:
        """False: exact scores are floats."""
        return False

    @cached_property
    def type(self) -> str:  # type: ignore[override]
        """The number type of the exact scores, which one of them tells."""
        return self._all.type if self.n_edges == 0 else self._asked(np.zeros(1, np.int64), np.zeros(1, np.int64))[1]

    @cached_property
    def array(self) -> Array:
        """Every exact score, asked for when first read."""
        return self._all.array

    @cached_property
    def _all(self) -> DenseScores:
        tokens, features = self.shape
        if self.n_edges == 0:
            return DenseScores(np.empty(self.shape, np.float32), "float32")
        array: Array | None = None
        allowed = self.approximate.allowed()
        for start in range(0, allowed.size, _AT_ONCE):
            ids = allowed[start : start + _AT_ONCE]
            values = self.evaluate(*self.ends(ids))
            if array is None:
                array = np.full(tokens * features, -np.inf, values.dtype)
            array[ids] = values
        whole = np.full(tokens * features, -np.inf, np.float32) if array is None else array
        return DenseScores(whole.reshape(self.shape), whole.dtype.name)

    def __repr__(self) -> str:
        return f"Rough({self.size_text})"  # what is only shown asks for nothing

    def allowed(self) -> Indices:
        """Ids of all edges that are not forbidden."""
        return self.approximate.allowed()

    def count_allowed(self, tokens: Mask, features: Mask) -> int:
        """How many allowed edges join these tokens with these features."""
        return self.approximate.count_allowed(tokens, features)

    def errors_at(self, tokens: Indices, features: Indices, approximate: Reals) -> Reals:
        """The bound on the error of some pairs, whose approximate scores are given."""
        bound: Reals = self.per_token[tokens] * self.per_feature[features]
        return bound + self.relative * np.abs(approximate) if self.relative else bound

    def evaluate(self, tokens: Indices, features: Indices) -> Array:
        """The exact scores of allowed pairs, compared with the bound."""
        values, _ = self._asked(tokens, features)
        near = self.approximate.values_at(self.find(tokens, features)).astype(np.float64)
        bound = self.errors_at(tokens, features, near)
        off = np.abs(values.astype(np.float64) - near)
        wrong = np.flatnonzero(~(off <= bound + _ROUNDING[0] * bound + _ROUNDING[1] * np.abs(near)))
        if wrong.size:
            at = wrong[0]
            raise InvalidProblemError(
                f"error: expected a bound on |exact - approximate|, found that {wrong.size} of {values.size} scores "
                f"asked for break it, the first at token {tokens[at]}, feature {features[at]}: exact "
                f"{float(values[at]):.9g}, approximate {near[at]:.9g}, bound {bound[at]:.3g}"
            )
        return values

    def _asked(self, tokens: Indices, features: Indices) -> tuple[Array, str]:
        """Scores from the function, as numbers NumPy computes with; and their type."""
        values, kind = score_vector(self.exact(tokens, features), "exact(tokens, features)", tokens.size)
        if kind not in FLOAT_TYPES:
            raise InvalidProblemError(f"exact(tokens, features): expected floats, found {kind}")
        return values, "float32" if kind == "bfloat16" else kind


def _bounds(value: Any, name: str, size: int) -> Reals:
    """A float64 vector of finite numbers of 0 or more."""
    array = array_of(value, name, f"a number or {size} numbers")
    if array.dtype.kind not in "iuf" or array.shape not in ((), (size,)):
        raise InvalidProblemError(f"{name}: expected a number or {size} numbers, found {shown(value)}")
    numbers = np.broadcast_to(array.astype(np.float64), (size,))
    wrong = np.flatnonzero(~((numbers >= 0) & (numbers < np.inf)))
    if wrong.size:
        raise InvalidProblemError(f"{name}: expected finite numbers of 0 or more, found {numbers[wrong[0]]}")
    return numbers
