"""How the ranks' blocks make up the whole matrix, and what all of them must agree on before they begin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from allocation.arguments import TOO_LARGE, WIDE, refusal_of_entries
from allocation.arrays import Array, Indices, Mask
from allocation.errors import InfeasibleError, InvalidProblemError, NotCertifiedError, UnsupportedProblemError
from allocation.problem import Problem
from allocation.ranks import Part, Ranks
from allocation.scores import FLOAT_TYPES, DenseScores, EdgeScores

T = TypeVar("T")

TYPES = (*FLOAT_TYPES, "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLAWS = ("NaN", "+inf", TOO_LARGE, WIDE)
# Errors that one rank may meet and all raise.
ERRORS = (InvalidProblemError, InfeasibleError, UnsupportedProblemError, NotCertifiedError)


@dataclass(frozen=True, eq=False)
class Layout:
    """The ranks and the grid of their blocks.

    Attributes
    ----------
    firsts, sizes : (ranks, 2) int64
        First token and feature of every rank's block, and how many of each it has.
    whole : (int, int)
        Tokens and features in all.
    edges : int
        Entries of all blocks, forbidden ones included.
    """

    ranks: Ranks
    firsts: Indices
    sizes: Indices
    whole: tuple[int, int]
    edges: int

    @cached_property
    def filled(self) -> Mask:
        """Which ranks have entries, or could have: tokens and features."""
        return np.asarray((self.sizes > 0).all(axis=1))

    @cached_property
    def places(self) -> Indices:
        """Where in the grid each rank's tokens and features are; -1 of a side on which it has none."""
        places = np.full(self.firsts.shape, -1)
        for side in (0, 1):
            firsts = np.unique(self.firsts[self.filled, side])
            own = np.flatnonzero((self.sizes[:, side] > 0) & np.isin(self.firsts[:, side], firsts))
            places[own, side] = np.searchsorted(firsts, self.firsts[own, side])
        return places

    @property
    def first(self) -> tuple[int, int]:
        """First token and feature of this rank's block."""
        token, feature = self.firsts[self.ranks.index]
        return int(token), int(feature)

    def is_cut(self, axis: int) -> bool:
        """Whether several ranks hold the same tokens (axis 0) or features (1)."""
        places = self.places[:, axis]
        return bool(np.bincount(places[places >= 0]).max(initial=0) > 1)

    def same_lines(self, axis: int) -> Indices:
        """The ranks that hold the same tokens (axis 0) or features (1) as this one, in the order of their entries."""
        own = self.places[self.ranks.index, axis]
        same = np.flatnonzero(self.places[:, axis] == own) if own >= 0 else np.array([self.ranks.index])
        return same[np.argsort(self.places[same, 1 - axis], kind="stable")]


def agreed(problem: Problem, what: str, ranks: Ranks) -> tuple[Layout, Problem]:
    """The layout of all blocks; and the problem with scores of the type that all have. Else an error on every rank.

    `what` names all else that must be the same, such as the solver.
    """
    (first, whole), matrix = (problem.part or Part()).of(problem.shape), problem.matrix
    flaw = (-1, 0, 0, 0)
    if problem.flaw is not None and problem.flaw.entries is not None:
        kind, count, (token, feature) = problem.flaw.entries
        flaw = (FLAWS.index(kind), count, token + first[0], feature + first[1])
    digests = _digests(problem, what)
    together = np.frombuffer(hashlib.blake2b("".join(digests.values()).encode(), digest_size=8).digest(), np.int64)
    type_number = -1 if matrix.not_in_parts is not None else TYPES.index(matrix.type)
    own = [*first, *problem.shape, *whole, type_number, matrix.n_edges, matrix.dense is None, *flaw]
    every = np.stack(ranks.gather(np.array([*own, together[0]], np.int64)))
    layout = Layout(ranks, every[:, :2], every[:, 2:4], whole, int(every[:, 7].sum()))
    _refuse_different_wholes(every)
    if (every[:, 13] != every[0, 13]).any():
        _refuse_different(ranks, digests)
    _refuse_gaps(layout)
    if (every[:, 6] < 0).any():
        raise UnsupportedProblemError(matrix.not_in_parts or "another rank holds scores that `ranks=` does not take")
    _refuse_different_types(every)
    flawed = every[every[:, 9] >= 0]
    if flawed.size:
        worst = flawed[flawed[:, 9] == flawed[:, 9].min()]
        token, feature = worst[np.lexsort((worst[:, 12], worst[:, 11]))[0], 11:13]
        raise refusal_of_entries("scores", int(worst[:, 10].sum()), FLAWS[worst[0, 9]], (int(token), int(feature)))
    return layout, problem.with_scores(_of_type(matrix, TYPES[_typed(every)[0, 6]]))


def together(ranks: Ranks, work: Callable[[], T]) -> T:
    """What each rank works out alone; where one meets an error, all raise that of the first such rank."""
    result: T | None = None
    own: Exception | None = None
    try:
        result = work()
    except ERRORS as error:
        own = error
    text = b"" if own is None else json.dumps([ERRORS.index(type(own)), str(own)]).encode()
    for part in ranks.gather(np.frombuffer(text, np.uint8)):
        if part.size:
            kind, message = json.loads(part.tobytes().decode())
            raise own if own is not None and str(own) == message else ERRORS[kind](message)
    assert result is not None
    return result


def _digests(problem: Problem, what: str) -> dict[str, str]:
    """A short name for each limit, equal where the limits are."""

    def digest(value: Any) -> str:
        if isinstance(value, np.ndarray):
            same = value.size > 0 and value.strides == (0,)  # one number for all
            value = (value.shape, value[:1].tobytes() if same else value.tobytes())
        return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()

    digests = {"solver, warm_start, throw": digest(what)}
    for name, limit in problem.limits.items():
        if name.endswith("groups"):
            limit = [(group.members.tobytes(), group.cap, group.floor) for group in limit]
        digests[name] = digest(limit)
    return digests


def _refuse_different(ranks: Ranks, digests: dict[str, str]) -> None:
    """All ranks say which argument differs, and where first."""
    parts = ranks.gather(np.frombuffer(json.dumps(digests).encode(), np.uint8))
    every = [json.loads(part.tobytes().decode()) for part in parts]
    for name, value in every[0].items():
        for rank, others in enumerate(every):
            if others[name] != value:
                raise InvalidProblemError(f"{name}: expected the same on every rank, found another on rank {rank}")
    raise InvalidProblemError("problem: expected the same limits on every rank, found others")


def _refuse_different_wholes(every: Indices) -> None:
    other = np.flatnonzero((every[:, 4:6] != every[0, 4:6]).any(axis=1))
    if other.size:
        found, first = every[other[0], 4:6], every[0, 4:6]
        raise InvalidProblemError(
            f"part: expected one whole matrix, found {first[0]} x {first[1]} on rank 0 and {found[0]} x {found[1]} on "
            f"rank {other[0]}"
        )


def _refuse_gaps(layout: Layout) -> None:
    """The blocks must be those of a grid, each once."""
    filled = layout.filled
    missing = "part: expected blocks that make up the whole matrix, as a grid does, each on one rank, found that "
    if not filled.any():
        if min(layout.whole) > 0:
            raise InvalidProblemError(f"{missing}all are empty")
        return
    for side, name in enumerate(("token", "feature")):
        firsts, at = np.unique(layout.firsts[filled, side], return_index=True)
        sizes = layout.sizes[filled, side]
        for first, size in zip(firsts, sizes[at], strict=True):
            if (sizes[layout.firsts[filled, side] == first] != size).any():
                raise InvalidProblemError(f"{missing}blocks of different sizes begin at {name} {first}")
        ends = np.concatenate([[0], firsts + sizes[at]])
        starts = np.concatenate([firsts, [layout.whole[side]]])
        wrong = np.flatnonzero(ends != starts)
        on_grid = (layout.places[:, side] >= 0) & np.isin(layout.sizes[:, side], sizes)
        off_grid = np.flatnonzero((layout.sizes[:, side] > 0) & ~on_grid)
        if off_grid.size:
            raise InvalidProblemError(f"{missing}the empty block of rank {off_grid[0]} has {name}s of no other")
        if wrong.size:
            end, start = ends[wrong[0]], starts[wrong[0]]
            none = f"{name} {end} is" if start == end + 1 else f"{name}s {end} to {start - 1} are"
            what = f"{none} in none" if start > end else f"{name} {start} is in two"
            raise InvalidProblemError(f"{missing}{what}")
    places = layout.places[filled]
    counts = np.bincount(places[:, 0] * (places[:, 1].max() + 1) + places[:, 1])
    full = (places[:, 0].max() + 1) * (places[:, 1].max() + 1)
    if counts.max() > 1 or counts.size < full or counts.min() == 0:
        raise InvalidProblemError(f"{missing}{'a block is on two ranks' if counts.max() > 1 else 'a block is missing'}")


def _typed(every: Indices) -> Indices:
    """The rows of ranks that have entries; one where none has."""
    filled = every[every[:, 7] > 0]
    return filled if filled.size else every[:1]


def _refuse_different_types(every: Indices) -> None:
    filled = _typed(every)
    other = np.flatnonzero((filled[:, [6, 8]] != filled[0, [6, 8]]).any(axis=1))
    if other.size:
        one, another = filled[0], filled[other[0]]
        kinds = [f"{TYPES[row[6]]}{' edges' if row[8] else ''}" for row in (one, another)]
        raise InvalidProblemError(f"scores: expected one type on every rank, found {kinds[0]} and {kinds[1]}")


def _of_type(matrix: Any, name: str) -> Any:
    """The scores; those of an empty block in the type that all have."""
    if matrix.type == name:
        return matrix
    kind: Any = np.dtype(np.int16 if name == "bfloat16" else name)
    if matrix.dense is None:
        none = np.empty(0, np.int64)
        return EdgeScores(none, none, np.empty(0, np.float32 if name == "bfloat16" else kind), matrix.shape, name)
    return DenseScores(np.empty(matrix.shape, kind), name)


def gathered(layout: Layout, values: Array, among: Indices) -> list[Array]:
    """The vectors of some ranks, in the order given."""
    parts = layout.ranks.gather(values)
    return [parts[rank] for rank in among]
