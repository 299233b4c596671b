"""Every argument of every public function against wrong values: refused by name, or solved; never another error."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

import allocation as al
from allocation.arguments import shown

SCORES = np.arange(6.0).reshape(2, 3)
PROBLEM = al.token_choice(SCORES, 1)
SOFT = al.soft_solve(PROBLEM, 0.5)
LIMITS = ("budget", "token_caps", "token_floors", "feature_caps", "feature_floors", "token_groups", "feature_groups")


class Hostile:
    """Calls itself an array and is none."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no\narray")

    @property
    def shape(self) -> Any:
        raise ZeroDivisionError


class Unwalkable:
    """Calls itself iterable and is not."""

    def __iter__(self) -> Any:
        raise RuntimeError("no\nwalk")


class Unmeasured(Unwalkable):
    """Has not even a number of dimensions."""

    @property
    def ndim(self) -> int:
        raise ZeroDivisionError("no measure")


PARTS = ("budget", "tokens", "features", "token_groups", "feature_groups")
ANSWER = {name: getattr(al.solve(PROBLEM), name) for name in ("tokens", "features", "values", "prices")}


def prices_with(part: str, price: Any) -> al.Prices:
    """Right prices but for one part."""
    return al.Prices(**{**vars(ANSWER["prices"]), part: price})


def wrong_values() -> list[Any]:
    """Wrong types, shapes, signs and numbers; some are right for some arguments."""
    endless: list[Any] = []
    endless.append(endless)
    masked = np.ma.masked_array(SCORES, SCORES > 3)
    return [
        *(
            None,
            ...,
            object(),
            Hostile(),
            Unwalkable(),
            Unmeasured(),
            int,
            len,
            np,
            "abc",
            "",
            b"ab",
            "x" * 10_000,
            {1, 2},
            {1: 2},
            endless,
        ),
        *(float("nan"), float("inf"), -float("inf"), -1, -(10**40), 10**40, 2**63 - 1, 2**62, 1.5, 1.0, 1e308, 1j),
        *(True, np.True_, np.int64(-3), np.float16(2), np.array(2), np.array("x"), np.array(None), range(3), [], ()),
        *(
            [1, 2, 3],
            [1, 2],
            [1, -1],
            [1.0, np.nan],
            [None, 1],
            ["a", "b"],
            [[1], [2, 3]],
            [[1, 2], [3, 4]],
            (2, 3),
            [1e308, 1e308],
        ),
        *(np.zeros((2, 2, 2)), np.array([2**63] * 3, np.uint64), np.array([2**62] * 3), np.array([1, None], object)),
        *(np.array(["2020"], "M8[D]"), np.array([1, 2], "m8[D]"), np.zeros((2, 3), [("a", "f4")]), SCORES, SCORES.T),
        *(SCORES.astype(np.longdouble), SCORES.astype(complex), SCORES * np.nan, -SCORES, np.matrix(SCORES), masked),
        *(sparse.csr_array(SCORES), torch.tensor(1), torch.tensor([1, 2]), torch.tensor([1.5, 2.0]), torch.ones(2, 3)),
        *(torch.ones(2, 3, requires_grad=True), torch.ones(2, requires_grad=True), torch.ones(2, 3, device="meta")),
        *(torch.eye(3)[:2].to_sparse(), torch.ones(2, 3).to(torch.float8_e4m3fn), torch.ones(2, 3, dtype=torch.bool)),
        *(torch._neg_view(torch.ones(2, 3)), torch.ones(2, 3, dtype=torch.complex64).conj()),
        *(al.Group([0]), [al.Group([0])], PROBLEM, al.solve(PROBLEM), al.solve(PROBLEM).prices, al.TopSelection),
    ]


def calls() -> dict[str, Callable[[Any], Any]]:
    """Label -> a call with one argument replaced. The label is what a message must name."""
    found: dict[str, Callable[[Any], Any]] = {"scores": lambda v: al.solve(al.Problem(v))}
    for name in LIMITS:
        found[name] = lambda v, n=name: al.solve(al.Problem(SCORES, **{n: v}))
        both = {"token_caps": 1, "feature_caps": 1}
        found[f"{name} two-sided"] = lambda v, n=name, b=both: al.solve(al.Problem(SCORES, **{**b, n: v}))
    for name in ("members", "cap", "floor"):
        found[f"token_groups[0] {name}"] = lambda v, n=name: al.solve(
            al.Problem(SCORES, token_groups=[al.Group(**{"members": [0], n: v})])
        )
    for name in ("tokens", "features", "scores", "shape"):
        edges = {"tokens": [0, 1], "features": [1, 2], "scores": [1.0, 2.0], "shape": (2, 3)}
        found[f"{name} from_edges"] = lambda v, n=name, e=edges: al.solve(al.Problem.from_edges(**{**e, n: v}))
    for name in ("problem", "solver", "throw", "warm_start", "workers", "max_seconds"):
        balanced = al.balanced_choice(SCORES, 2, token_caps=1, feature_caps=1)
        found[f"{name} solve"] = lambda v, n=name, p=balanced: al.solve(**{"problem": p, n: v})
    for name in ("chunks", "budget", "feature_caps"):
        found[f"{name} select_stream"] = lambda v, n=name: al.select_stream(**{"chunks": [SCORES], "budget": 2, n: v})
    found["chunks[1] select_stream"] = lambda v: al.select_stream([SCORES, v], budget=2)
    for name in ("problem", "temperature", "form"):
        soft = {"problem": PROBLEM, "temperature": 0.5}
        found[f"{name} soft_solve"] = lambda v, n=name, s=soft: al.soft_solve(**{**s, n: v})
    for part in PARTS:
        for what, made in (("part", lambda v: v), ("value", al.Price)):
            found[f"warm_start.{part} {what}"] = lambda v, p=part, m=made: al.solve(
                al.balanced_choice(SCORES, 2, token_caps=1, feature_caps=1), warm_start=prices_with(p, m(v))
            )
            found[f"solution.prices.{part} {what}"] = lambda v, p=part, m=made: al.verify(
                PROBLEM, SimpleNamespace(**{**ANSWER, "prices": prices_with(p, m(v))})
            )
    for part in ("tokens", "features", "values"):
        found[f"solution.{part} verify"] = lambda v, p=part: al.verify(PROBLEM, SimpleNamespace(**{**ANSWER, p: v}))
    found["cotangent"] = SOFT.vjp
    found["problem verify"] = lambda v: al.verify(v, al.solve(PROBLEM))
    found["solution verify"] = lambda v: al.verify(PROBLEM, v)
    found["problem to_linear_program"] = al.to_linear_program
    for name in ("total", "features", "tokens"):
        sizes = {"total": 4, "features": 3, "tokens": 4}
        found[f"{name} uniform_quotas"] = lambda v, n=name, s=sizes: al.uniform_quotas(**{**s, n: v})
    for name in ("total", "features", "alpha", "beta", "tokens"):
        curve = {"total": 4, "features": 3, "alpha": 1.0, "beta": 1.0}
        found[f"{name} zipf_quotas"] = lambda v, n=name, c=curve: al.zipf_quotas(**{**c, n: v})
    for name in ("weights", "total", "most"):
        found[f"{name} apportion"] = lambda v, n=name: al.apportion(**{"weights": [1, 2], "total": 3, n: v})
    found["densities fit_zipf"] = al.fit_zipf
    found["tail fit_zipf"] = lambda v: al.fit_zipf(np.arange(1, 9) / 10, tail=v)
    found["densities QuotaLedger"] = al.QuotaLedger
    found["owed QuotaLedger"] = lambda v: al.QuotaLedger([0.5, 0.2], owed=v)
    found["tokens QuotaLedger"] = lambda v: al.QuotaLedger([0.5, 0.2]).allot(v)
    return found


CALLS = calls()


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # of np.matrix
@pytest.mark.parametrize("label", CALLS)
def test_any_value_is_accepted_or_refused_by_name(label: str) -> None:
    name, refused = label.split()[0], 0
    for value in wrong_values():
        try:
            CALLS[label](value)
        except (al.InvalidProblemError, al.InfeasibleError) as error:
            text, refused = str(error), refused + 1
            limit = name.split("_")[0].rstrip("s")  # infeasible problems are told by limits: "the floors of tokens 0"
            assert limit in text or "from_edges" in text, text
            assert "\n" not in text
            assert len(text) < 400
    assert refused, "some of the values are wrong for every argument"


def test_the_problem_with_a_value_is_named() -> None:
    for scores, message in (
        (np.ma.masked_array(SCORES, SCORES > 3), "scores: .* masked entries, which would be read; fill them"),
        (
            sparse.csr_array(SCORES),
            "scores: expected a dense matrix, found a sparse one; pass its entries to Problem.from_edges",
        ),
        (
            torch.eye(3).to_sparse(),
            r"scores: expected a dense tensor, found a sparse one; pass scores.to_dense\(\), or its entries",
        ),
        ({1, 2}, "scores: expected a numeric matrix, found set"),
        (Hostile(), "scores: expected a numeric matrix, found Hostile: no$"),
    ):
        with pytest.raises(al.InvalidProblemError, match=message):
            al.Problem(scores)
    with pytest.raises(
        al.InvalidProblemError, match="members: expected a vector of indices or a boolean mask, found set"
    ):
        al.Problem(SCORES, token_groups=[al.Group({0, 1})])
    lazily_negated = torch._neg_view(torch.tensor([[1.0, -2.0]]))
    assert al.solve(al.token_choice(lazily_negated, 2)).features.tolist() == [1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "1.5"),
        (np.float16(2), "2.0"),
        ("x" * 99, "'" + "x" * 59 + "..."),
        (int, "the class int"),
        (np.zeros((2, 3)), "ndarray of shape (2, 3)"),
        (torch.ones(4), "Tensor of shape (4,)"),
        ([1, 2], "list"),
        (Hostile(), "Hostile"),
    ],
)
def test_values_are_shown_in_a_few_words(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("floors", [2**62, 2**63 - 1, [2**62, 2**62, 0]])
@pytest.mark.parametrize("others", [{}, {"feature_caps": 1}, {"budget": 2**63 - 1, "feature_floors": 2**62}])
def test_sums_of_huge_limits_do_not_overflow(floors: Any, others: dict[str, Any]) -> None:
    problem = al.Problem(np.ones((3, 4)), token_floors=floors, token_groups=[al.Group([0, 1], cap=2**63 - 1)], **others)
    failed = al.solve(problem, throw=False)
    assert failed.status is al.Status.INFEASIBLE
    numbers = [int(number) for number in re.findall(r"-?\d+", str(failed.error))]
    assert min(numbers) >= 0, failed.error
