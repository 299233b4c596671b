"""What a solver returns: the matches, their value, and the price of every limit."""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from allocation.arguments import array_of, in_memory, matches_in_words, shown
from allocation.arrays import Indices
from allocation.errors import InvalidProblemError
from allocation.exact_sums import rounded_sum
from allocation.masked import MaskedMatches
from allocation.notebook import card, spread
from allocation.problem import Problem

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Real: TypeAlias = float | NDArray[np.float64]


class Status(enum.Enum):
    """How a solve ended; the value is the sentence to read."""

    OPTIMAL = "The allocation is optimal and the prices prove it."
    INFEASIBLE = "No allocation satisfies every floor and cap: relax one of those that the error names."
    UNSUPPORTED = "The solver does not solve this combination of constraints: use solver=al.Auto()."
    NOT_CERTIFIED = "The solver stopped without a proof of optimality: allow more seconds, or use another solver."

    def __repr__(self) -> str:
        return f"<Status.{self.name}: {self.value}>"


class Price:
    """The price of one limit, or of a vector of limits, with the interval of all optimal prices.

    Attributes
    ----------
    value : float or float64 vector
        One jointly optimal choice: with the other `.value`s it proves the answer optimal.
    lower, upper : the same shape
        ``V(b + 1) - V(b)`` and ``V(b) - V(b - 1)``: what one more and one less of this limit is worth. Computed when
        first asked for. A pickle, and what another process gets, has those that were computed; the others are NaN.

    Examples
    --------
    >>> import allocation as al
    >>> al.solve(al.mutual_choice([[4.0, 3.0, 1.0]], budget=2)).prices.budget
    Price(1.0 in [1.0, 3.0])
    """

    def __init__(self, value: Real, bounds: tuple[Real, Real] | Callable[[], tuple[Real, Real]] | None = None) -> None:
        self.value = value
        # an absent limit has price 0 and the interval [0, 0]
        self._bounds = (value, value) if bounds is None else bounds

    @property
    def _interval(self) -> tuple[Real, Real]:
        if callable(self._bounds):
            self._bounds = self._bounds()
        return self._bounds

    @property
    def lower(self) -> Real:
        """Value of one more unit of the limit."""
        return self._interval[0]

    @property
    def upper(self) -> Real:
        """Value of the last unit of the limit; +inf where one less is infeasible."""
        return self._interval[1]

    def __getstate__(self) -> dict[str, Any]:
        # what computes intervals holds on to the scores and stays behind
        known = not callable(self._bounds)
        return {"value": self.value, "_bounds": self._bounds if known else _unknown(self.value)}

    def __copy__(self) -> Price:
        return Price(self.value, self._bounds)

    def __deepcopy__(self, memo: dict[int, Any]) -> Price:
        return Price(copy.deepcopy(self.value, memo), self._bounds)

    def __repr__(self) -> str:
        if np.ndim(self.value) == 0:
            if callable(self._bounds):  # what is only shown starts no search
                return f"Price({self.value})"
            return f"Price({self.value} in [{self.lower}, {self.upper}])"
        values = np.asarray(self.value)
        span = f", {values.min():.4g} to {values.max():.4g}" if values.size else ""
        return f"Price({values.size} values{span}, {np.count_nonzero(values)} not zero)"


@dataclass(frozen=True)
class Prices:
    """Dual variables of every limit; sensitivities of the optimal value.

    At an optimum ``S_ij - budget - tokens_i - features_j - (groups of i) - (groups of j)`` is at least 0 on every
    selected match and at most 0 on every other allowed one. A price is positive only where a cap is reached and
    negative only where a floor is.
    """

    budget: Price
    tokens: Price
    features: Price
    token_groups: Price
    feature_groups: Price

    def _repr_html_(self) -> str:
        # the values alone: what is only shown starts no search for intervals
        rows = [(name.replace("_", " "), _told(price.value)) for name, price in vars(self).items()]
        return card("Prices", rows, "What one more unit of each limit is worth: above 0 at a cap, below 0 at a floor.")

    def without_intervals(self) -> Prices:
        """The values alone, intervals NaN: what to keep for a warm start, since intervals hold on to the scores."""
        return Prices(*(Price(price.value, _unknown(price.value)) for price in vars(self).values()))


def _told(value: Real) -> str:
    """One price, or the range of several."""
    values = np.asarray(value)
    if values.ndim == 0:
        return f"{float(values):.6g}"
    if values.size == 0:
        return "none"
    return f"{values.min():.4g} to {values.max():.4g}, {np.count_nonzero(values):,} of {values.size:,} not zero"


def checked_prices(prices: Any, name: str) -> Prices:
    """The values in main memory and float64, refused where they are no numbers; callers check the sizes."""
    checked: dict[str, Price] = {}
    for part in Prices.__dataclass_fields__:
        price: Any = getattr(prices, part, None)
        if not hasattr(price, "value"):
            raise InvalidProblemError(f"{name}.{part}: expected a Price, found {shown(price)}")
        value = array_of(price.value, f"{name}.{part}.value", "a number or a vector of numbers")
        if value.dtype.kind not in "iuf" or value.ndim > 1 or (part == "budget" and value.size != 1):
            wanted = "a number" if part == "budget" else "a number or a vector of numbers"
            raise InvalidProblemError(f"{name}.{part}.value: expected {wanted}, found {shown(price.value)}")
        checked[part] = Price(float(value.reshape(())) if part == "budget" else value.astype(np.float64))
    return Prices(**checked)


def _unknown(value: Real) -> tuple[Real, Real]:
    """The interval of a price of which only the value is kept."""
    size = np.shape(value)
    unknown: Real = np.full(size, np.nan) if size else np.nan
    return unknown, unknown


def no_price(size: int | None = None) -> Price:
    """The price of an absent limit: 0, or a vector of zeros."""
    return Price(0.0 if size is None else np.broadcast_to(np.float64(0.0), (size,)))


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """An optimal allocation.

    Of a problem on a CUDA device, matches and values are there too: CuPy arrays, or tensors where CuPy is not installed
    (``torch.from_dlpack`` reads both); prices are in main memory.

    A pickle holds the matches in main memory, and of the prices' intervals those that were computed.

    Where a large share of all pairs are matches, `tokens` and `features` are found when first asked for, which takes
    about as long as the solve: until then a pair costs one bit.

    Of a failed solve (``throw=False``) `tokens`, `features`, `values` and all that derives from them raise the error.

    Attributes
    ----------
    tokens, features : int64 vectors
        The matches, sorted by (token, feature).
    values : vector
        Their scores, in the scores' own type (float32 for bfloat16).
    prices : Prices
        Dual prices with intervals.
    status : Status
        Its value is a sentence.
    shape : (tokens, features)
    stats : mapping
        Solver name, why it was chosen, passes over the scores, seconds.
    error : Exception or None
        Of a failed solve.
    """

    shape: tuple[int, int]
    status: Status
    stats: Mapping[str, Any]
    error: Exception | None = None
    _matches: tuple[Indices, Indices, NDArray[Any]] | MaskedMatches | None = field(default=None)
    _prices: Prices | None = field(default=None)
    # makes current where the matches are: what is computed from them later has to follow the same stream
    _scope: Callable[[], AbstractContextManager[None]] = field(default=nullcontext)
    # of the whole problem, where other ranks hold matches too
    _objective: float | None = field(default=None)

    @classmethod
    def optimal(
        cls,
        problem: Problem,
        matches: tuple[Indices, Indices, NDArray[Any]] | MaskedMatches,
        prices: Prices,
        stats: Mapping[str, Any] | None = None,
    ) -> Solution:
        """The answer of a solver: what it found, and the prices that prove it.

        Parameters
        ----------
        problem : Problem
        matches : (tokens, features, values)
            int64 vectors sorted by (token, feature), and the scores there.
        prices : Prices
        stats : mapping, optional
            Figures of the search, such as passes over the scores and seconds.
        """
        return cls(problem.shape, Status.OPTIMAL, stats or {}, None, matches, prices)

    def __getstate__(self) -> dict[str, Any]:
        # in main memory, where any process can read it
        return {**vars(self.on_host()), "_scope": nullcontext}

    def __copy__(self) -> Solution:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Solution:
        with self._scope():
            matches = copy.deepcopy(self._matches, memo)
        return replace(
            self, stats=copy.deepcopy(self.stats, memo), _matches=matches, _prices=copy.deepcopy(self._prices, memo)
        )

    @property
    def tokens(self) -> Indices:
        """Token of each match."""
        return self._answer[0]

    @property
    def features(self) -> Indices:
        """Feature of each match."""
        return self._answer[1]

    @property
    def values(self) -> NDArray[Any]:
        """Score of each match."""
        return self._answer[2] if self._masked is None else self._masked.values

    @property
    def prices(self) -> Prices:
        """Dual prices."""
        if self.error is not None or self._prices is None:
            raise self.error or RuntimeError(self.status.value)
        return self._prices

    @property
    def _answer(self) -> tuple[Indices, Indices, NDArray[Any]]:
        if self.error is not None or self._matches is None:
            raise self.error or RuntimeError(self.status.value)
        if isinstance(self._matches, MaskedMatches):
            return (*self._matches.ends, self._matches.values)
        return self._matches

    @property
    def _masked(self) -> MaskedMatches | None:
        return self._matches if isinstance(self._matches, MaskedMatches) else None

    @cached_property
    def objective(self) -> float:
        """Sum of the selected scores, correctly rounded; over ranks, those of all."""
        if self._objective is not None:
            return self._objective
        return rounded_sum(self.on_host().values)

    @cached_property
    def token_counts(self) -> Indices:
        """Matches of every token."""
        return self._counts(0)

    @cached_property
    def feature_counts(self) -> Indices:
        """Matches of every feature."""
        return self._counts(1)

    def _counts(self, side: int) -> Indices:
        if self._masked is not None:
            return self._masked.counts(side)
        with self._scope():
            counts: Indices = counts_of(self._answer[side], self.shape[side])
        return counts

    def on_host(self) -> Solution:
        """The same solution with its matches in main memory; itself where they are there already."""
        if self._matches is None or self._masked is not None or isinstance(self._answer[0], np.ndarray):
            return self
        with self._scope():
            tokens, features, values = map(in_memory, self._answer)
        return replace(self, _matches=(tokens, features, values), _scope=nullcontext)

    def mask(self) -> NDArray[np.bool_]:
        """The allocation as a dense boolean matrix."""
        if self._masked is not None:
            return self._masked.mask
        with self._scope():
            mask: NDArray[np.bool_] = _falses(self.shape, self.tokens)
            mask[self.tokens, self.features] = True
        return mask

    def to_scipy(self) -> csr_array:
        """The selected scores as a SciPy CSR array; a selected score of 0 is kept as an explicit entry."""
        from scipy.sparse import csr_array

        here = self.on_host()
        offsets = np.concatenate([[0], np.cumsum(here.token_counts)])
        values = here.values.astype(np.float32) if here.values.dtype == np.float16 else here.values
        return csr_array((values, here.features, offsets), shape=self.shape)

    def __repr__(self) -> str:
        size = f"{self.shape[0]} tokens x {self.shape[1]} features"
        if self.error is not None:
            return f"Solution({size}, {self.status.name}: {self.error})"
        return (
            f"Solution({size}, {matches_in_words(len(self.values))}, objective {self.objective:.6g}, "
            f"budget price {self.prices.budget.value:.4g}, {self.status.name} by {self.stats.get('solver')})"
        )

    def _repr_html_(self) -> str:
        if self.error is not None:
            return card("Solution", [("status", self.status.name), ("error", str(self.error))], self.status.value)
        rows = [
            ("matches", f"{len(self.values):,} of {self.shape[0]:,} tokens x {self.shape[1]:,} features"),
            ("objective", f"{self.objective:.10g}"),
            ("budget price", f"{self.prices.budget.value:.6g}"),
            ("per token", spread(self.on_host().token_counts)),
            ("per feature", spread(self.on_host().feature_counts)),
            ("solver", f"{self.stats.get('solver')}: {self.stats.get('reason')}"),
        ]
        return card("Solution", rows, self.status.value)


def counts_of(ends: Any, size: int) -> Any:
    """How often each number below `size` occurs, where the numbers are."""
    if type(ends).__module__ == "torch":
        return ends.bincount(minlength=size)
    return np.bincount(ends, minlength=size).astype(np.int64)  # which CuPy answers for its own arrays


def _falses(shape: tuple[int, int], like: Any) -> Any:
    """A matrix of False where `like` is."""
    if type(like).__module__ == "torch":
        return like.new_zeros(shape, dtype=bool)
    return np.zeros_like(like, dtype=bool, shape=shape)
