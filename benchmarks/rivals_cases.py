"""The problems of the comparison with rivals: sizes, limits, seeds, and who else solves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import allocation as al
from benchmarks import rivals_families as families
from benchmarks import rivals_others as others
from benchmarks.rivals_others import INFEASIBLE, Answer, Rival

SEED = 0
# Where an extra changes what we do: our own time without any stands among the rivals.
WITH_EXTRAS = ("assignment", "assignment, structured", "transportation", "rank one", "sparse matching")


@dataclass(frozen=True)
class Case:
    """One row: what we do, what rivals do, and how far two totals may be apart.

    `ours` returns the total score; `check` runs once outside the timing, proves the answer and names
    the solver.
    """

    group: str
    family: str
    size: str
    ours: Rival
    check: Callable[[], str]
    rivals: dict[str, Rival] = field(default_factory=dict)
    slack: float = 0.0
    nbytes: int = 0


def _case(
    group: str, family: str, problem: al.Problem, rivals: dict[str, Rival | None], slack: float = 0.0, size: str = ""
) -> Case:
    """A case solved by `al.solve` and proved by `al.verify`."""

    def ours() -> Answer:
        solution = al.solve(problem, throw=False)
        return INFEASIBLE if solution.status is al.Status.INFEASIBLE else solution.objective

    def check() -> str:
        solution = al.solve(problem, throw=False)
        if solution.status is not al.Status.INFEASIBLE:
            certificate = al.verify(problem, solution)
            assert certificate.optimal, certificate
        return str(solution.stats["solver"])

    known = {name: rival for name, rival in rivals.items() if rival is not None}
    if group in WITH_EXTRAS:
        known["ours, plain install"] = others.plain_install(problem)
    size = size or " x ".join(map(str, problem.shape))
    return Case(group, family, size, ours, check, known, slack, problem.scores.nbytes)


def _scaled(size: int, scale: float, least: int = 8) -> int:
    return max(least, round(size * scale))


def square_assignments(scale: float) -> Iterator[Case]:
    for n in (1000, 2000):
        yield from _square(_scaled(n, scale), "assignment", families.ASSIGNMENT)


def structured_assignments(scale: float) -> Iterator[Case]:
    for n in (1000, 2000):
        yield from _square(_scaled(n, scale), "assignment, structured", families.STRUCTURED)


def _square(n: int, group: str, known: dict[str, families.Family]) -> Iterator[Case]:
    for name, family in known.items():
        scores = family(np.random.default_rng(SEED), (n, n))
        problem = al.Problem(scores, token_caps=1, token_floors=1, feature_caps=1, feature_floors=1)
        rivals = {"linear_sum_assignment": others.assignment(scores), "lap": others.lapjv(scores)}
        yield _case(group, name, problem, rivals, 1e-12 * n * float(np.abs(scores).max()))


def _transport_limits(shape: tuple[int, int]) -> dict[str, Any]:
    tokens, features = shape
    return {
        "budget": 10 * tokens, "token_caps": 16, "token_floors": 4,
        "feature_caps": 2 * 10 * tokens // features, "feature_floors": 2,
    }  # fmt: skip


def transportation(scale: float) -> Iterator[Case]:
    for shape in ((200, 300), (300, 400)):
        shape = (_scaled(shape[0], scale), _scaled(shape[1], scale))
        limits = _transport_limits(shape)
        if scale < 0.2:  # caps of a tiny problem
            limits = {"budget": 3 * shape[0], "token_caps": 4, "token_floors": 1, "feature_caps": 5}
        known = {"normal": families.normal, **families.ASSIGNMENT, **families.STRUCTURED, **families.RANK_ONE}
        for name, family in known.items():
            scores = family(np.random.default_rng(SEED), shape)
            rivals = {"OR-tools": others.min_cost_flow(scores, limits)}
            yield _case("transportation", name, al.Problem(scores, **limits), rivals, _lost(scores, limits["budget"]))


def rank_one_with_budget(scale: float) -> Iterator[Case]:
    for shape in ((300, 300), (1000, 1000), (1000, 4000)):
        shape = (_scaled(shape[0], scale), _scaled(shape[1], scale))
        limits = {"budget": 8 * shape[0], "token_caps": 16, "feature_caps": max(1, 16 * shape[0] // shape[1])}
        for name, family in families.RANK_ONE.items():
            scores = family(np.random.default_rng(SEED), shape)
            rivals = {"OR-tools": others.min_cost_flow(scores, limits)}
            yield _case("rank one", name, al.Problem(scores, **limits), rivals, _lost(scores, limits["budget"]))


def _lost(scores: np.ndarray, matches: int) -> float:
    """What the integers of OR-tools may lose of the total."""
    unit = others.unit_of(scores)
    return 1e-9 * float(np.abs(scores).max()) if unit == 1.0 else unit * matches


def far_scales(scale: float) -> Iterator[Case]:
    shape = (_scaled(1000, scale), _scaled(400, scale))
    limits = {"token_caps": 6, "token_floors": 1, "feature_caps": 16, "feature_floors": 2}
    scores = families.twelve_orders(np.random.default_rng(SEED), shape)
    yield _case("scales twelve orders apart", "normal", al.Problem(scores, **limits), {})


def infeasible(scale: float) -> Iterator[Case]:
    """One set of features asks for a little more than the tokens may give it: only its cut tells."""
    for shape in ((256, 280), (400, 425)):
        shape = (_scaled(shape[0], scale), _scaled(shape[1], scale))
        for name, family in {"normal": families.normal, "integers 1..100": families.integers_to(100)}.items():
            rng = np.random.default_rng(SEED)
            scores = family(rng, shape)
            some = rng.permutation(shape[1])[: shape[1] // 2]
            floors = np.zeros(shape[1], np.int64)
            floors[some] = 4
            # the caps of all tokens together reach one less than these floors
            caps = np.full(shape[0], (4 * some.size - 1) // shape[0])
            caps[: (4 * some.size - 1) % shape[0]] += 1
            limits = {"token_caps": caps, "feature_floors": floors, "feature_caps": 8}
            rivals = {"OR-tools": others.min_cost_flow(scores, limits)}
            yield _case("infeasible, by one", name, al.Problem(scores, **limits), rivals)
            hidden = scores.astype(np.float64)
            few = rng.permutation(shape[0])[: shape[0] // 4]
            closed = np.ones(shape[0], bool)
            closed[few] = False
            hidden[np.ix_(closed, some)] = -np.inf  # these features have a quarter of the tokens
            limits = {"token_caps": -(-4 * some.size // few.size) - 1, "feature_floors": floors, "feature_caps": 8}
            rivals = {"OR-tools": others.min_cost_flow(hidden, limits)}
            yield _case("infeasible, hidden in a block", name, al.Problem(hidden, **limits), rivals)


def sparse_matchings(scale: float) -> Iterator[Case]:
    for n in (2000, 5000, 20000):
        n = _scaled(n, scale)
        rng = np.random.default_rng(SEED)
        diagonal = np.arange(n), rng.permutation(n)  # so that a perfect matching exists
        ends = np.repeat(np.arange(n), min(9, n - 1)), rng.integers(0, n, n * min(9, n - 1))
        flat = np.unique(np.concatenate([diagonal[0] * n + diagonal[1], ends[0] * n + ends[1]]))
        yield _sparse("10 edges each", rng, flat, n)
        band = (np.arange(n)[:, None] + np.arange(-1, 2)).reshape(-1)
        rows = np.repeat(np.arange(n), 3)
        inside = (band >= 0) & (band < n)
        yield _sparse("bands of 3", rng, rows[inside] * n + band[inside], n)


def _sparse(name: str, rng: np.random.Generator, flat: np.ndarray, n: int) -> Case:
    scores = rng.random(flat.size)
    limits = dict.fromkeys(("token_caps", "token_floors", "feature_caps", "feature_floors"), 1)
    problem = al.Problem.from_edges(flat // n, flat % n, scores, (n, n), **limits)
    rivals = {"min_weight_full_bipartite_matching": others.sparse_assignment(problem),
              "OR-tools": others.sparse_flow(problem)}  # fmt: skip
    return _case("sparse matching", name, problem, rivals, n / others.LEVELS, f"{n}, {flat.size} edges")


def intervals(scale: float) -> Iterator[Case]:
    """All intervals beside the solve itself."""
    for name, shape, documents in (("64 documents", (1024, 4096), 64), ("1,000 groups", (2000, 256), 1000)):
        shape = (_scaled(shape[0], scale), _scaled(shape[1], scale))
        documents = min(documents, shape[0] // 2)
        scores = families.normal(np.random.default_rng(SEED), shape).astype(np.float32)
        parts = np.array_split(np.arange(shape[0]), documents)
        groups = [al.Group(part, cap=12 * part.size) for part in parts]
        problem = al.Problem(scores, token_caps=16, token_groups=groups, feature_caps=max(2, 16 * shape[0] // shape[1]))
        plain = _case("intervals", name, problem, {})

        def ours(problem: al.Problem = problem) -> Answer:
            solution = al.solve(problem)
            solution.prices.tokens.lower  # noqa: B018 - the first interval asked for computes all
            return solution.objective

        yield Case("intervals", name, plain.size, ours, plain.check, {"the solve": plain.ours}, 0.0, plain.nbytes)


def pairs_of_tokens(scale: float) -> Iterator[Case]:
    for n in (2000, 8000, 32000):
        n = _scaled(n, scale, 16)
        scores = families.normal(np.random.default_rng(SEED), (n, 32)).astype(np.float32)
        groups = [al.Group([i, i + 1], cap=3) for i in range(0, n - 1, 2)]
        problem = al.Problem(scores, token_groups=groups, feature_caps=max(1, n // 32))
        yield _case("groups of two", "normal", problem, {})


def half_of_all(scale: float) -> Iterator[Case]:
    n, columns, k = _scaled(1_000_000, scale), 64, 32
    scores = families.normal(np.random.default_rng(SEED), (n, columns)).astype(np.float32)
    sides: dict[str, tuple[dict[str, Any], Rival]] = {
        "rows": ({"token_caps": k}, lambda: float(np.argpartition(scores, columns - k, axis=1)[0, 0])),
        "columns": ({"feature_caps": n // 2}, lambda: float(np.argpartition(scores, n // 2, axis=0)[0, 0])),
        "whole": ({"budget": n * k}, lambda: float(np.partition(scores.reshape(-1), n * k)[0])),
    }
    for name, (limits, partition) in sides.items():
        problem = al.Problem(scores, **limits)
        rival = "np.partition" if name == "whole" else "np.argpartition"
        plain = _case("half of all entries", name, problem, {rival: partition}, float("inf"))
        yield plain

        def read(problem: al.Problem = problem) -> Answer:
            solution = al.solve(problem)
            solution.tokens  # noqa: B018 - where each match is, which the rivals tell too but for the whole matrix
            return solution.objective

        yield replace(plain, family=f"{name}, with positions", ours=read)


def soft_twin(scale: float) -> Iterator[Case]:
    """Shares instead of matches, from warm to cold."""
    shape = (_scaled(2048, scale), _scaled(8192, scale))
    scores = families.normal(np.random.default_rng(SEED), shape).astype(np.float32)
    caps = {"token_caps": 32, "feature_caps": max(1, 40 * shape[0] // shape[1])}
    problem = al.Problem(scores, budget=28 * shape[0], **caps)
    for form, temperature in (("entropy", 0.05), ("entropy", 0.005), ("clipped", 0.05)):

        def ours(form: str = form, temperature: float = temperature) -> Answer:
            return al.soft_solve(problem, temperature, form).objective

        def check(form: str = form, temperature: float = temperature) -> str:
            others.prove_soft(problem, al.soft_solve(problem, temperature, form))
            return "soft_solve"

        size = " x ".join(map(str, shape))
        yield Case("soft twin", f"{form}, {temperature:g}", size, ours, check, nbytes=scores.nbytes)


def cliff(scale: float) -> Iterator[Case]:
    """Just below and just above the size where all edges are candidates."""
    tokens = _scaled(256, scale)
    limits = {"budget": 10 * tokens, "token_caps": 16, "token_floors": 4, "feature_caps": 20, "feature_floors": 2}
    rng = np.random.default_rng(SEED)
    scores = rng.standard_normal((tokens, tokens + 1))
    above = _case("cliff", "", al.Problem(scores, **limits), {})
    below = al.Problem(np.ascontiguousarray(scores[:, :-2]), **limits)
    yield _case("cliff", "normal", below, {above.size: above.ours}, float("inf"))


# Groups without a rival: another build of this package is theirs, if `--against` names one.
AGAINST = ("scales", "pairs", "soft")
GROUPS: dict[str, Callable[[float], Iterator[Case]]] = {
    "assignment": square_assignments,
    "structured": structured_assignments,
    "transportation": transportation,
    "rank-one": rank_one_with_budget,
    "scales": far_scales,
    "infeasible": infeasible,
    "sparse": sparse_matchings,
    "intervals": intervals,
    "pairs": pairs_of_tokens,
    "half": half_of_all,
    "soft": soft_twin,
    "cliff": cliff,
}
