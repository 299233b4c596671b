"""The allocation problem: which token is matched with which feature, under limits on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allocation.arguments import (
    LARGEST,
    LARGEST_INTEGER,
    WIDE,
    array_of,
    count_of,
    index_vector,
    refusal_of_entries,
    shown,
)
from allocation.arrays import Indices
from allocation.errors import InvalidProblemError
from allocation.nesting import nesting_of
from allocation.notebook import card
from allocation.ranks import Part
from allocation.scores import DenseScores, EdgeScores, Scores, ScoresLike
from allocation.validation import dense_scores, edge_scores

_LIMITS = (
    "budget",
    "token_caps",
    "token_floors",
    "feature_caps",
    "feature_floors",
    "token_groups",
    "feature_groups",
)


@dataclass(frozen=True, eq=False)
class Group:
    """A set of tokens (or of features) whose matches together are limited.

    Parameters
    ----------
    members : integer indices or a boolean mask
        Tokens if the group is passed in ``token_groups``, features if in ``feature_groups``.
    cap, floor : int, optional
        Most and fewest matches of the whole group.

    Examples
    --------
    >>> import allocation as al
    >>> al.Group([0, 1, 2], cap=4)
    Group(3 members, cap=4)
    """

    members: Any
    cap: int | None = None
    floor: int | None = None

    def __repr__(self) -> str:
        limits = [f"{name}={value}" for name in ("floor", "cap") if (value := getattr(self, name)) is not None]
        return f"Group({', '.join([f'{np.size(self.members)} members', *limits])})"


@dataclass(frozen=True, eq=False, init=False)
class Problem:
    """Maximum-score matching of tokens with features under limits on both sides.

    ::

        maximise   sum_ij S_ij A_ij     over A in {0, 1}^(tokens x features)
        subject to sum_ij A_ij <= budget
                   token_floors_i   <= sum_j A_ij <= token_caps_i
                   feature_floors_j <= sum_i A_ij <= feature_caps_j
                   floor_g <= sum over group g <= cap_g,     A_ij = 0 where S_ij = -inf

    Limits are upper limits: a match of score at most 0 is returned only if a floor needs it. The groups of
    each side must be laminar, that is nested, equal or disjoint; then the optimum of the linear programme is integral
    (Edmonds 1970) and every solver returns an exact one.

    Parameters
    ----------
    scores : (tokens, features) array or detached tensor
        float16, bfloat16, float32, float64 or integers; -inf forbids a match. float64 only within +-1e280, so that
        objectives and prices stay finite; integers only within +-2^50 where sums of scores decide, that is with
        floors, groups, or caps on both sides. Not copied when contiguous: leave it unchanged while the problem is in
        use.
    budget : int, optional
        Most matches in all.
    token_caps, token_floors, feature_caps, feature_floors : int or integer vector, optional
        Most and fewest matches of each token and of each feature.
    token_groups, feature_groups : sequence of Group, optional
        Limits on sets of tokens, and on sets of features.
    part : Part, optional
        Says that the scores are a block of a matrix whose other blocks other processes hold, for ``solve(ranks=)``. All
        limits are then those of the whole matrix, the same on every rank. What is wrong with entries of a block, such
        as a NaN, is said by `solve`, on all ranks.

    Raises
    ------
    InvalidProblemError
        If an argument has a wrong type, shape, sign or a NaN; the message names it and the place.

    Examples
    --------
    >>> import allocation as al
    >>> problem = al.Problem([[3.0, 1.0], [2.0, -1.0]], budget=2, feature_caps=1)
    >>> problem
    Problem(2 tokens x 2 features, float64, budget=2, feature_caps=1)
    >>> al.solve(problem).objective
    4.0
    """

    matrix: Scores
    budget: int | None
    token_caps: Indices | None
    token_floors: Indices | None
    feature_caps: Indices | None
    feature_floors: Indices | None
    token_groups: tuple[Group, ...]
    feature_groups: tuple[Group, ...]
    part: Part | None
    # what is wrong with entries of a part, which `solve` says on all ranks
    flaw: InvalidProblemError | None

    def __init__(
        self,
        scores: ScoresLike,
        budget: int | None = None,
        token_caps: ArrayLike | None = None,
        token_floors: ArrayLike | None = None,
        feature_caps: ArrayLike | None = None,
        feature_floors: ArrayLike | None = None,
        token_groups: Sequence[Group] = (),
        feature_groups: Sequence[Group] = (),
        part: Part | None = None,
    ) -> None:
        if part is not None and not isinstance(part, Part):
            raise InvalidProblemError(f"part: expected an allocation.Part, found {shown(part)}")
        matrix, flaw = (scores, None) if isinstance(scores, Scores) else _matrix_of(scores, part)
        tokens, features = matrix.shape if part is None else part.of(matrix.shape)[1]
        fields: dict[str, Any] = {
            "matrix": matrix,
            "budget": None if budget is None else count_of(budget, "budget"),
            "token_caps": limits_of(token_caps, "token_caps", tokens),
            "token_floors": limits_of(token_floors, "token_floors", tokens),
            "feature_caps": limits_of(feature_caps, "feature_caps", features),
            "feature_floors": limits_of(feature_floors, "feature_floors", features),
            "token_groups": _groups(token_groups, "token_groups", tokens),
            "feature_groups": _groups(feature_groups, "feature_groups", features),
            "part": part,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if matrix.is_integer and matrix.type in ("int64", "uint64") and not self._comparisons_decide:
            try:
                _refuse_wide_integers(matrix)
            except InvalidProblemError as error:
                flaw = error
                if part is None:
                    raise
        object.__setattr__(self, "flaw", flaw)

    @classmethod
    def from_edges(
        cls, tokens: ArrayLike, features: ArrayLike, scores: ArrayLike, shape: tuple[int, int], **limits: Any
    ) -> Problem:
        """A problem on candidate edges only; every other pair is forbidden.

        Parameters
        ----------
        tokens, features : integer vectors
            The two ends of each edge, in any order, without repetition.
        scores : vector of the same length
        shape : (tokens, features)
        **limits
            The limits of `Problem`: ``budget=``, ``token_caps=`` and so on; and its ``part=``.

        Examples
        --------
        >>> import allocation as al
        >>> al.solve(al.Problem.from_edges([0, 1], [2, 0], [1.5, 2.0], shape=(2, 3), budget=1)).tokens
        array([1])
        """
        try:
            return cls(edge_scores(tokens, features, scores, shape), **limits)
        except InvalidProblemError as error:
            if error.entries is None or limits.get("part") is None:
                raise
            none = np.empty(0, np.int64)
            size = int(shape[0]), int(shape[1])
            problem = cls(EdgeScores(none, none, np.empty(0, np.float32), size, "float32"), **limits)
            object.__setattr__(problem, "flaw", error)
            return problem

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tokens, number of features; of a part its own."""
        return self.matrix.shape

    @property
    def limits(self) -> dict[str, Any]:
        """All limits by name, as the constructor takes them."""
        return {name: value for name, value in vars(self).items() if name in _LIMITS}

    @property
    def has_floors(self) -> bool:
        """Whether any token, feature or group has a floor."""
        floors = (
            self.token_floors,
            self.feature_floors,
            *(g.floor for g in (*self.token_groups, *self.feature_groups)),
        )
        return any(floor is not None for floor in floors)

    @property
    def _comparisons_decide(self) -> bool:
        """Whether the best matches are found by comparing scores: a budget, and caps on one side."""
        floors_or_groups = (
            self.token_floors,
            self.feature_floors,
            self.token_groups or None,
            self.feature_groups or None,
        )
        one_side = self.token_caps is None or self.feature_caps is None
        return one_side and all(limit is None for limit in floors_or_groups)

    @property
    def scores(self) -> NDArray[Any]:
        """The scores as a NumPy array: the matrix, or one entry per candidate edge. bfloat16 comes as float32."""
        return self.matrix.numbers if self.matrix.type == "bfloat16" else self.matrix.array

    def on_host(self) -> Problem:
        """The same problem with a copy of the scores in main memory; itself where they are there already."""
        if (matrix := self.matrix.on_host()) is self.matrix:
            return self
        return self.with_scores(matrix)

    def with_scores(self, scores: ScoresLike) -> Problem:
        """The same limits on other scores.

        Parameters
        ----------
        scores : (tokens, features) array, or what another problem holds as its matrix

        Returns
        -------
        Problem

        Examples
        --------
        >>> import allocation as al
        >>> al.token_choice([[1.0, 2.0]], k=1).with_scores([[4.0, 3.0]])
        Problem(1 tokens x 2 features, float64, token_caps=1)
        """
        return Problem(scores, **self.limits, part=self.part)

    def __repr__(self) -> str:
        limits = [f"{name}={text}" for name, text in self._limit_texts("..") if not name.endswith("groups")]
        limits += [f"{text} {name}" for name, text in self._limit_texts("..") if name.endswith("groups")]
        limits += [] if self.part is None else [f"part of {self.part}"]
        return f"Problem({', '.join([self._size_text, *limits])})"

    def _repr_html_(self) -> str:
        limits = [(name.replace("_", " "), text) for name, text in self._limit_texts(" to ")]
        limits += [] if self.part is None else [("part of", str(self.part))]
        return card("Problem", [("scores", self._size_text), *limits], "" if limits else "No limits.")

    @property
    def _size_text(self) -> str:
        return f"{self.matrix.size_text}, {self.matrix.type}"

    def _limit_texts(self, to: str) -> list[tuple[str, str]]:
        """Every limit that is given: its name, and its number or its range or how many there are."""
        texts = [] if self.budget is None else [("budget", str(self.budget))]
        for name in ("token_caps", "token_floors", "feature_caps", "feature_floors"):
            limits = getattr(self, name)
            if limits is not None:
                texts.append((name, _span(limits, to)))
        groups = (("token_groups", self.token_groups), ("feature_groups", self.feature_groups))
        return texts + [(name, str(len(members))) for name, members in groups if members]


def checked_problem(problem: Any, with_ranks: bool = False) -> Problem:
    """The argument `problem` of a function, which must be one, and whole but for a function that takes ranks."""
    if not isinstance(problem, Problem):
        raise InvalidProblemError(f"problem: expected an allocation.Problem, found {shown(problem)}")
    if problem.part is not None and not with_ranks:
        raise InvalidProblemError(
            f"problem: expected a whole one, found a part of {problem.part}; pass ranks= to `solve` or `verify`"
        )
    return problem


def _matrix_of(scores: Any, part: Part | None) -> tuple[Scores, InvalidProblemError | None]:
    """The scores, checked; and what is wrong with entries of a part, which is for all ranks to know."""
    try:
        return dense_scores(scores), None
    except InvalidProblemError as error:
        if error.entries is None or part is None:
            raise
        rows, columns = map(int, scores.shape if hasattr(scores, "shape") else np.shape(scores))
        return DenseScores(np.zeros((rows, columns), np.float32), "float32"), error


def token_choice(scores: ScoresLike, k: ArrayLike) -> Problem:
    """Each token takes its best features: the TopK activation.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_j A_ij <= k for every token i

    Parameters
    ----------
    scores : (tokens, features) array
    k : int or (tokens,) integer vector
        Most features of a token.

    Source: Gao et al. 2024, arXiv 2406.04093.

    Examples
    --------
    >>> import allocation as al
    >>> al.solve(al.token_choice([[3, 1, 2], [0, 5, 4]], k=1)).features
    array([0, 1])
    """
    return Problem(scores, token_caps=k)


def mutual_choice(scores: ScoresLike, budget: int) -> Problem:
    """The best matches of the whole batch: some tokens take many features, others few.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= budget

    Parameters
    ----------
    scores : (tokens, features) array
    budget : int
        Most matches of the batch, usually k times the number of tokens.

    Source: Ayonrinde 2024, arXiv 2411.02124; the same operator as BatchTopK (Bussmann et al. 2024, arXiv
    2412.06410).

    Examples
    --------
    >>> import allocation as al
    >>> al.solve(al.mutual_choice([[3, 1, 2], [0, 5, 4]], budget=3)).token_counts
    array([1, 2])
    """
    return Problem(scores, budget=budget)


def feature_choice(scores: ScoresLike, caps: ArrayLike) -> Problem:
    """Each feature takes its best tokens, as many as its quota allows.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_i A_ij <= m_j for every feature j

    Parameters
    ----------
    scores : (tokens, features) array
    caps : int or (features,) integer vector
        The quotas `m_j`, for instance from `uniform_quotas` or `zipf_quotas`.

    Source: Ayonrinde 2024, arXiv 2411.02124.

    Examples
    --------
    >>> import allocation as al
    >>> al.solve(al.feature_choice([[3, 1, 2], [0, 5, 4]], caps=[1, 1, 0])).mask().astype(int)
    array([[1, 0, 0],
           [0, 1, 0]])
    """
    return Problem(scores, feature_caps=caps)


def balanced_choice(
    scores: ScoresLike,
    budget: int | None = None,
    token_caps: ArrayLike | None = None,
    token_floors: ArrayLike | None = None,
    feature_caps: ArrayLike | None = None,
    feature_floors: ArrayLike | None = None,
) -> Problem:
    """Limits on both sides at once: no token and no feature goes short or takes too much.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= budget,
                 token_floors <= sum_j A_ij <= token_caps,   feature_floors <= sum_i A_ij <= feature_caps

    Parameters are those of `Problem`. Not a top-selection: the two sides compete.

    Examples
    --------
    >>> import allocation as al
    >>> al.solve(al.balanced_choice([[3, 1], [2, 0]], token_caps=1, feature_caps=1)).objective
    3.0
    """
    return Problem(scores, budget, token_caps, token_floors, feature_caps, feature_floors)


def limits_of(value: Any, name: str, size: int) -> Indices | None:
    """A read-only vector of non-negative integers of length `size`, from a vector or one integer for all."""
    if value is None:
        return None
    if isinstance(value, int):
        return np.broadcast_to(np.int64(count_of(value, name)), (size,))
    array = array_of(value, name, f"an integer or a vector of {size} integers")
    if array.ndim == 0:
        return np.broadcast_to(np.int64(count_of(array[()], name)), (size,))
    if array.shape != (size,):
        raise InvalidProblemError(f"{name}: expected an integer or {size} integers, found shape {array.shape}")
    if size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise InvalidProblemError(f"{name}: expected integers, found dtype {array.dtype}")
    negative = np.flatnonzero(array < 0)
    if negative.size:
        raise InvalidProblemError(f"{name}[{negative[0]}]: expected 0 or more, found {array[negative[0]]}")
    if array.dtype == np.uint64:
        array = np.minimum(array, LARGEST)
    limits: Indices = array.astype(np.int64)
    limits.setflags(write=False)
    return limits


def _refuse_wide_integers(matrix: Scores) -> None:
    """Prices are float64 sums of scores, which would round such integers."""
    with matrix.scope():
        xp = matrix.namespace
        entries = xp.reshape(matrix.array, (-1,))
        if matrix.n_edges == 0 or (
            int(xp.max(entries)) <= LARGEST_INTEGER and int(xp.min(entries)) >= -LARGEST_INTEGER
        ):
            return
        wide = matrix.get(xp.nonzero((entries > LARGEST_INTEGER) | (entries < -LARGEST_INTEGER))[0])
    token, feature = matrix.ends(wide[:1])
    raise refusal_of_entries("scores", wide.size, WIDE, (int(token[0]), int(feature[0])))


def _groups(groups: Any, name: str, size: int) -> tuple[Group, ...]:
    if isinstance(groups, Group) or not isinstance(groups, Sequence):
        raise InvalidProblemError(f"{name}: expected a sequence of Group, found {shown(groups)}")
    checked = [_group(group, f"{name}[{number}]", size) for number, group in enumerate(groups)]
    nesting_of([group.members for group in checked], size, name)  # refuses groups that cross
    return tuple(checked)


def _group(group: Any, label: str, size: int) -> Group:
    """The group with its members as sorted indices."""
    if not isinstance(group, Group):
        raise InvalidProblemError(f"{label}: expected a Group, found {shown(group)}")
    if isinstance(group.members, tuple) and len(group.members) == 2 and any(map(np.ndim, group.members)):
        raise InvalidProblemError(
            f"{label}: expected a set of one side, found a pair. A block of tokens x features crosses both families, "
            "and then the linear programme has fractional vertices: no exact integral answer in general"
        )
    members = index_vector(group.members, f"{label}.members", size)
    members = np.unique(members) if members.size > 1 else members
    members.setflags(write=False)
    cap = None if group.cap is None else count_of(group.cap, f"{label}.cap")
    floor = None if group.floor is None else count_of(group.floor, f"{label}.floor")
    return Group(members, cap, floor)


def _span(limits: Indices, to: str) -> str:
    if limits.size == 0:
        return "[]"
    low, high = int(limits.min()), int(limits.max())
    return str(low) if low == high else f"{low}{to}{high}"
