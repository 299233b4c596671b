"""Processes that hold blocks of one matrix of scores: what they must be able to do, and which block each has."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from allocation.arguments import LARGEST, count_of, shown
from allocation.arrays import Array
from allocation.errors import InvalidProblemError

# Longest that a thread waits for the others of `thread_ranks`, in seconds.
PATIENCE = 600.0


@dataclass(frozen=True)
class Part:
    """Which block of the whole matrix some scores are.

    Parameters
    ----------
    tokens, features : (first, total), optional
        Number of the block's first token (feature) in the whole matrix, and how many there are in all; without, the
        block holds all of them. Its own size is that of the scores.

    Examples
    --------
    >>> import allocation as al
    >>> al.Problem([[3.0, 1.0]], budget=2, part=al.Part(tokens=(4, 8)))
    Problem(1 tokens x 2 features, float64, budget=2, part of 8 tokens from 4)
    """

    tokens: tuple[int, int] | None = None
    features: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for side in ("tokens", "features"):
            given = getattr(self, side)
            if given is None:
                continue
            if not isinstance(given, (tuple, list)) or len(given) != 2:
                raise InvalidProblemError(f"part.{side}: expected (first, total), found {shown(given)}")
            pair = tuple(count_of(number, f"part.{side}[{at}]") for at, number in enumerate(given))
            object.__setattr__(self, side, pair)

    def __str__(self) -> str:
        sides = (("tokens", self.tokens), ("features", self.features))
        return " and ".join(f"{given[1]} {side} from {given[0]}" for side, given in sides if given) or "itself"

    def of(self, shape: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """First token and feature of a block of this shape, and the shape of the whole; refused where it sticks out."""
        firsts, totals = [], []
        for side, size, given in zip(("tokens", "features"), shape, (self.tokens, self.features), strict=True):
            first, total = (0, size) if given is None else given
            if first + size > total:
                raise InvalidProblemError(
                    f"part.{side}: expected a block within the {total} of the whole, found {size} from {first} on"
                )
            firsts.append(first)
            totals.append(total)
        if totals[0] * totals[1] > LARGEST:
            raise InvalidProblemError(f"part: expected fewer than 2^63 pairs, found {totals[0]} x {totals[1]}")
        return (firsts[0], firsts[1]), (totals[0], totals[1])


@runtime_checkable
class Ranks(Protocol):
    """Processes that work together, as each of them sees it: what `solve` and `verify` need of an engine.

    Every rank calls the same methods in the same order. `mpi_ranks` and ``sae_torch.parallel.ranks`` are two such
    engines, `thread_ranks` one for tests; another takes these four members.

    Attributes
    ----------
    index : int
        Number of this rank, from 0.
    count : int
        How many ranks there are.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> class One:
    ...     index, count = 0, 1
    ...     def sum(self, values):
    ...         return values
    ...     def gather(self, values):
    ...         return [values]
    >>> problem = al.Problem([[3.0, 1.0]], budget=1, part=al.Part())
    >>> al.solve(problem, ranks=One()).features
    array([0])
    """

    @property
    def index(self) -> int:
        """Number of this rank, from 0."""

    @property
    def count(self) -> int:
        """How many ranks there are."""

    def sum(self, values: Array) -> Array:
        """The sum over all ranks, element by element, of int64 vectors of one size; the same on every rank."""

    def gather(self, values: Array) -> Sequence[Array]:
        """The vectors of all ranks in their order, of one dtype of NumPy's and any sizes; the same on every rank."""


def checked_ranks(ranks: Any) -> Ranks:
    """The argument `ranks` of a function, which must have what the protocol names."""
    if isinstance(ranks, type) or not isinstance(ranks, Ranks):
        raise InvalidProblemError(
            f"ranks: expected an object with index, count, sum and gather, such as al.mpi_ranks(comm), found "
            f"{shown(ranks)}"
        )
    return ranks


class _OneRank:
    """A world of one process."""

    index, count = 0, 1

    def sum(self, values: Array) -> Array:
        return values

    def gather(self, values: Array) -> Sequence[Array]:
        return [values]


ALONE: Ranks = _OneRank()


class _Meeting:
    """Where the threads of `thread_ranks` leave their arrays and take those of the others."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=PATIENCE)
        self.left: list[Array] = [np.empty(0)] * count

    def exchange(self, index: int, values: Array) -> list[Array]:
        self.left[index] = values
        self.barrier.wait()
        parts = list(self.left)
        self.barrier.wait()  # nobody writes again before all have read
        return parts


class _ThreadRanks:
    def __init__(self, meeting: _Meeting, index: int, count: int) -> None:
        self.index, self.count, self._meeting = index, count, meeting

    def sum(self, values: Array) -> Array:
        return np.asarray(np.sum(self._meeting.exchange(self.index, values), axis=0, dtype=values.dtype))

    def gather(self, values: Array) -> Sequence[Array]:
        return self._meeting.exchange(self.index, np.array(values))

    def abort(self) -> None:
        """Let no thread wait any longer: each that does gets `threading.BrokenBarrierError`."""
        self._meeting.barrier.abort()


def thread_ranks(count: int) -> list[Any]:
    """So many ranks for as many threads of this process: to try and to test what needs several.

    Parameters
    ----------
    count : int
        1 or more.

    Returns
    -------
    list of Ranks
        One for each thread. Their ``abort()`` ends the waiting of all, for a thread that fails outside `solve`.

    Examples
    --------
    >>> import allocation as al, numpy as np
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> scores = np.array([[4.0, 3.0], [2.0, 5.0]])
    >>> def features_of(ranks):
    ...     part = al.Part(tokens=(ranks.index, 2))
    ...     problem = al.Problem(scores[ranks.index :][:1], budget=3, part=part)
    ...     return al.solve(problem, ranks=ranks).features.tolist()
    >>> with ThreadPoolExecutor(2) as threads:
    ...     list(threads.map(features_of, al.thread_ranks(2)))
    [[0, 1], [1]]
    """
    if (count := count_of(count, "count")) < 1:
        raise InvalidProblemError("count: expected 1 or more ranks, found 0")
    meeting = _Meeting(count)
    return [_ThreadRanks(meeting, index, count) for index in range(count)]


class _MpiRanks:
    def __init__(self, comm: Any) -> None:
        self._comm, self.index, self.count = comm, comm.Get_rank(), comm.Get_size()

    def sum(self, values: Array) -> Array:
        total = np.empty_like(values)
        self._comm.Allreduce(np.ascontiguousarray(values), total)
        return total

    def gather(self, values: Array) -> Sequence[Array]:
        own = np.ascontiguousarray(values)
        sizes = np.empty(self.count, np.int64)
        self._comm.Allgather(np.array([own.nbytes], np.int64), sizes)
        together = np.empty(int(sizes.sum()), np.uint8)
        # as bytes: MPI has no name for every number type of NumPy
        self._comm.Allgatherv(own.view(np.uint8), [together, sizes])
        ends = np.cumsum(sizes)
        return [together[end - size : end].view(own.dtype) for end, size in zip(ends, sizes, strict=True)]


def mpi_ranks(comm: Any) -> Ranks:
    """The processes of an MPI communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        For instance ``MPI.COMM_WORLD`` under ``mpiexec -n 4 python script.py``. mpi4py is the caller's to install; it
        is not imported here.

    Raises
    ------
    InvalidProblemError
        If `comm` is no communicator.

    Examples
    --------
    >>> import allocation as al
    >>> from mpi4py import MPI  # doctest: +SKIP
    >>> al.mpi_ranks(MPI.COMM_WORLD).count  # doctest: +SKIP
    4
    """
    needed = ("Get_rank", "Get_size", "Allreduce", "Allgather", "Allgatherv")
    if isinstance(comm, type) or not all(hasattr(comm, name) for name in needed):
        raise InvalidProblemError(f"comm: expected a communicator of mpi4py, found {shown(comm)}")
    return _MpiRanks(comm)
