"""What ranks agree on before they work together: that all were given the same, and whose error is raised on all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np

from allocation.arguments import TOO_LARGE, WIDE, refusal_of_entries
from allocation.arrays import Indices
from allocation.errors import InfeasibleError, InvalidProblemError, NotCertifiedError, UnsupportedProblemError
from allocation.problem import Problem
from allocation.ranks import Part, Ranks
from allocation.scores import FLOAT_TYPES, DenseScores, EdgeScores, Scores

T = TypeVar("T")
Columns: TypeAlias = dict[str, Indices]

TYPES = (*FLOAT_TYPES, "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLAWS = ("NaN", "+inf", TOO_LARGE, WIDE)
# Errors that one rank may meet and all raise as they are; all others are named in a `RuntimeError`.
ERRORS = (InvalidProblemError, InfeasibleError, UnsupportedProblemError, NotCertifiedError)
# What each rank tells the others of its block.
PLACE = (("first_token", "first_feature"), ("tokens", "features"), ("all_tokens", "all_features"))
FLAW = ("flaw", "flaws", "flaw_token", "flaw_feature")
ROW = ("failed", *PLACE[0], *PLACE[1], *PLACE[2], "type", "n_edges", "is_edges", *FLAW, "digest")


@dataclass(frozen=True, eq=False)
class Blocks:
    """The ranks and their blocks.

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


def agreed_blocks(ranks: Ranks, checked: Callable[[], tuple[Problem, dict[str, str], T]]) -> tuple[Blocks, Problem, T]:
    """The blocks of all ranks; and this rank's problem with scores of the type that all have. Else an error on all.

    `checked` returns the problem, all else that must be the same by name, and what is passed on.
    """
    found, error = attempt(lambda: _described(*checked()))
    row = [1] + [0] * (len(ROW) - 1) if found is None else found[1]
    every = np.stack(ranks.gather(np.array(row, np.int64)))
    columns = dict(zip(ROW, every.T, strict=True))
    if columns["failed"].any():
        raise_first(ranks, error)
    assert found is not None
    problem, _, digests, rest = found
    _refuse_different_wholes(columns)
    if (columns["digest"] != columns["digest"][0]).any():
        _refuse_different(ranks, digests)
    _refuse_flaws(columns)
    type_name, is_edges = _common_type(columns)
    matrix = _of_type(problem.matrix, type_name, is_edges)
    problem = problem if matrix is problem.matrix else problem.with_scores(matrix)
    firsts, sizes, wholes = (np.stack([columns[name] for name in pair], axis=1) for pair in PLACE)
    whole = int(wholes[0, 0]), int(wholes[0, 1])
    return Blocks(ranks, firsts, sizes, whole, int(columns["n_edges"].sum())), problem, rest


def attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What it returns, or the error it raises, whichever: the other ranks must not wait."""
    try:
        return work(), None
    except Exception as error:
        return None, error


def together(ranks: Ranks, work: Callable[[], T]) -> T:
    """What each rank works out alone; where one meets an error, all raise that of the first such rank."""
    result, own = attempt(work)
    raise_first(ranks, own)
    return cast(T, result)


def raise_first(ranks: Ranks, own: Exception | None) -> None:
    """The error of the first rank that has one, on all; nothing where none has."""
    kind = next((number for number, error in enumerate(ERRORS) if isinstance(own, error)), -1)
    text = b"" if own is None else json.dumps([kind, type(own).__name__, str(own)]).encode()
    for rank, part in enumerate(ranks.gather(np.frombuffer(text, np.uint8))):
        first = np.asarray(part).tobytes()
        if own is not None and first == text:
            raise own
        if first:
            kind, name, message = json.loads(first.decode())
            raise ERRORS[kind](message) if kind >= 0 else RuntimeError(f"rank {rank} failed: {name}: {message}")


def texts_of_all(ranks: Ranks, own: list[str]) -> list[str]:
    """The sentences of all ranks, in their order."""
    parts = ranks.gather(np.frombuffer(json.dumps(own).encode(), np.uint8))
    return [text for part in parts for text in json.loads(np.asarray(part).tobytes().decode())]


def no_edges(shape: tuple[int, int], kind: str) -> EdgeScores:
    """Scores of some type without an edge, to hold limits."""
    none = np.empty(0, np.int64)
    values: Any = np.empty(0, np.float32 if kind == "bfloat16" else kind)
    return EdgeScores(none, none, values, shape, kind)


def _described(problem: Problem, names: dict[str, str], rest: T) -> tuple[Problem, list[int], dict[str, str], T]:
    """What the others have to know of a rank's problem: a row of numbers, and short names for its arguments."""
    (first, whole), matrix = (problem.part or Part()).of(problem.shape), problem.matrix
    if matrix.not_in_parts is not None:
        raise UnsupportedProblemError(matrix.not_in_parts)
    flaw = (-1, 0, 0, 0)
    if problem.flaw is not None and problem.flaw.entries is not None:
        kind, count, (token, feature) = problem.flaw.entries
        flaw = (FLAWS.index(kind), count, token + first[0], feature + first[1])
    digests = _digests(problem, names)
    digest = np.frombuffer(hashlib.blake2b("".join(digests.values()).encode(), digest_size=8).digest(), np.int64)
    place = (*first, *problem.shape, *whole)
    row = [0, *place, TYPES.index(matrix.type), matrix.n_edges, matrix.dense is None, *flaw, int(digest[0])]
    return problem, row, digests, rest


def _digests(problem: Problem, names: dict[str, str]) -> dict[str, str]:
    """A short name for each argument, equal where the arguments are."""

    def digest(value: Any) -> str:
        if isinstance(value, np.ndarray):
            same = value.size > 0 and bool((value == value[0]).all())  # one number for all, however it was given
            value = (value.shape, value[:1].tobytes() if same else value.tobytes())
        return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()

    digests = {name: digest(text) for name, text in names.items()}
    for name, limit in problem.limits.items():
        if name.endswith("groups"):
            limit = [(group.members.tobytes(), group.cap, group.floor) for group in limit]
        digests[name] = digest(limit)
    return digests


def _refuse_different(ranks: Ranks, digests: dict[str, str]) -> None:
    """All ranks say which argument differs, and where first."""
    parts = ranks.gather(np.frombuffer(json.dumps(digests).encode(), np.uint8))
    every = [json.loads(np.asarray(part).tobytes().decode()) for part in parts]
    for name, value in every[0].items():
        for rank, others in enumerate(every):
            if others.get(name) != value:
                raise InvalidProblemError(f"{name}: expected the same on every rank, found another on rank {rank}")
    raise InvalidProblemError("problem: expected the same limits on every rank, found others")


def _refuse_different_wholes(columns: Columns) -> None:
    tokens, features = columns["all_tokens"], columns["all_features"]
    other = np.flatnonzero((tokens != tokens[0]) | (features != features[0]))
    if other.size:
        rank = other[0]
        raise InvalidProblemError(
            f"part: expected one whole matrix, found {tokens[0]} x {features[0]} on rank 0 and {tokens[rank]} x "
            f"{features[rank]} on rank {rank}"
        )


def _refuse_flaws(columns: Columns) -> None:
    """The error of one process about entries that are no scores: the worst kind, and the first of that."""
    if (columns["flaw"] < 0).all():
        return
    worst = columns["flaw"][columns["flaw"] >= 0].min()
    count, token, feature = (
        columns[name][columns["flaw"] == worst] for name in ("flaws", "flaw_token", "flaw_feature")
    )
    at = np.lexsort((feature, token))[0]
    raise refusal_of_entries("scores", int(count.sum()), FLAWS[worst], (int(token[at]), int(feature[at])))


def _common_type(columns: Columns) -> tuple[str, bool]:
    """The number type of all scores, and whether they are edges; those of empty blocks may be of any."""
    typed = np.flatnonzero(columns["n_edges"] > 0)
    filled = np.flatnonzero((columns["tokens"] > 0) & (columns["features"] > 0))
    number = columns["type"][typed[0] if typed.size else 0]
    form = columns["is_edges"][filled[0] if filled.size else 0]
    other = [*typed[columns["type"][typed] != number], *filled[columns["is_edges"][filled] != form]]
    if other:
        found = TYPES[columns["type"][other[0]]] if columns["n_edges"][other[0]] else TYPES[number]
        kinds = [f"{TYPES[number]}{' edges' * int(form)}", f"{found}{' edges' * int(columns['is_edges'][other[0]])}"]
        raise InvalidProblemError(f"scores: expected one type on every rank, found {kinds[0]} and {kinds[1]}")
    return TYPES[number], bool(form)


def _of_type(matrix: Scores, name: str, is_edges: bool) -> Scores:
    """The scores; those of an empty block in the type and form that all have."""
    if matrix.type == name and (matrix.dense is None) == is_edges:
        return matrix
    if is_edges:
        return no_edges(matrix.shape, name)
    return DenseScores(np.empty(matrix.shape, np.int16 if name == "bfloat16" else name), name)
