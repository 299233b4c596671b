"""What a problem accepts, and the one sentence with which it refuses everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import allocation as al

SCORES = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": [1.0, 2.0]}, r"scores: expected a matrix of shape \(tokens, features\), found 1 dimension"),
        ({"scores": [[1, "a"]]}, r"scores: expected float16.* found dtype <U"),
        ({"scores": [[1.0], [1.0, 2.0]]}, "scores: expected a numeric matrix, found list"),
        ({"scores": SCORES > 1}, "scores: expected .* integers, found dtype bool"),
        ({"scores": SCORES.astype(complex)}, "scores: .* found dtype complex128"),
        ({"scores": SCORES.astype(np.longdouble)}, "scores: .* found dtype"),
        ({"scores": None}, "scores: expected a numeric matrix, found None"),
        ({"scores": torch.ones(2, 2, requires_grad=True)}, r"requires grad; pass scores.detach\(\).*choice\(scores\)"),
        ({"scores": torch.ones(2, 2, dtype=torch.bool)}, "scores: expected .* integers, found dtype torch.bool"),
        ({"scores": torch.ones(2, 2, device="meta")}, "scores: expected a tensor on the CPU .* found one on meta"),
        ({"budget": -1}, "budget: expected 0 or more, found -1"),
        ({"budget": 2.0}, "budget: expected an integer, found 2.0"),
        ({"budget": True}, "budget: expected an integer, found True"),
        ({"budget": np.nan}, "budget: expected an integer, found nan"),
        ({"token_caps": [1, 2, 3]}, r"token_caps: expected an integer or 2 integers, found shape \(3,\)"),
        ({"token_caps": [1, -2]}, r"token_caps\[1\]: expected 0 or more, found -2"),
        ({"token_floors": [0.5, 1.0]}, "token_floors: expected integers, found dtype float64"),
        ({"feature_caps": "many"}, "feature_caps: expected an integer, found"),
        ({"feature_caps": [[1], [2, 3]]}, "feature_caps: expected an integer or a vector of 3 integers"),
        ({"feature_floors": True}, "feature_floors: expected an integer, found True"),
        ({"token_groups": al.Group([0])}, "token_groups: expected a sequence of Group, found Group"),
        ({"token_groups": [[0, 1]]}, r"token_groups\[0\]: expected a Group, found list"),
        (
            {"token_groups": [al.Group([0, 2])]},
            r"token_groups\[0\].members\[1\]: expected an index from 0 to 1, found 2",
        ),
        ({"feature_groups": [al.Group([True, False])]}, r"expected a boolean mask of length 3, found length 2"),
        ({"feature_groups": [al.Group([0.5])]}, "expected integer indices or a boolean mask, found float64"),
        ({"feature_groups": [al.Group([0], cap=-1)]}, r"feature_groups\[0\].cap: expected 0 or more, found -1"),
        (
            {"token_groups": [al.Group(([0], [1, 2]), cap=1)]},
            "expected a set of one side, found a pair.*fractional vertices",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(al.InvalidProblemError, match=message):
        al.Problem(**{"scores": SCORES, **arguments})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, torch.bfloat16])
@pytest.mark.parametrize(("bad", "name"), [(np.nan, "NaN"), (-np.nan, "NaN"), (np.inf, r"\+inf")])
def test_nan_and_infinity_are_refused_with_count_and_place(dtype: Any, bad: float, name: str) -> None:
    scores = np.zeros((300, 400), np.float32)
    scores[7, 9] = scores[200, 3] = bad
    scores[0, 0] = -np.inf
    given = torch.from_numpy(scores).to(dtype) if isinstance(dtype, torch.dtype) else scores.astype(dtype)
    with pytest.raises(al.InvalidProblemError, match=f"2 entries are {name}, the first at token 7, feature 9"):
        al.mutual_choice(given, 3)


@pytest.mark.parametrize("bad", [1.01e280, -1e300, np.finfo(np.float64).max, np.finfo(np.float64).min])
def test_scores_whose_sums_may_overflow_are_refused_wherever_they_come_in(bad: float) -> None:
    scores = np.zeros((300, 400))
    scores[7, 9] = scores[200, 3] = bad
    scores[0, 0], scores[0, 1], scores[0, 2] = -np.inf, 1e280, -1e280
    sentence = "expected scores within .*, found that 2 entries are beyond 1e\\+280, the first at token {}, feature {}"
    for given_scores in (scores, torch.from_numpy(scores)):
        with pytest.raises(al.InvalidProblemError, match="^scores: " + sentence.format(7, 9)):
            al.mutual_choice(given_scores, 3)
    with pytest.raises(al.InvalidProblemError, match=r"^chunks\[1\]: " + sentence.format(2, 9)):
        al.select_stream([scores[:5], scores[5:]], budget=3)
    with pytest.raises(
        al.InvalidProblemError, match=r"^scores: expected scores within .* 1 entries are beyond 1e\+280"
    ):
        al.Problem.from_edges([0, 1], [1, 0], [0.0, bad], (2, 2))


def test_crossing_groups_are_named_and_laminar_ones_accepted() -> None:
    groups = [al.Group(range(6), cap=9), al.Group([0, 1, 2], cap=4), al.Group([1, 2]), al.Group([2, 1], floor=1)]
    problem = al.Problem(np.zeros((6, 2)), token_groups=[*groups, al.Group([4, 5]), al.Group([], cap=0)])
    assert [len(group.members) for group in problem.token_groups] == [6, 3, 2, 2, 2, 0]
    with pytest.raises(al.InvalidProblemError, match=r"groups\[3\] and token_groups\[4\] cross: they share 1 .* 2"):
        al.Problem(np.zeros((6, 2)), token_groups=[*groups, al.Group([2, 3])])


@given(st.lists(st.sets(st.integers(0, 5)), max_size=4))
def test_laminarity_is_decided_as_by_pairs(families: list[set[int]]) -> None:
    laminar = all(a <= b or b <= a or not a & b for a in families for b in families)
    groups = [al.Group(sorted(members)) for members in families]
    if laminar:
        al.Problem(np.zeros((2, 6)), feature_groups=groups)
        return
    with pytest.raises(al.InvalidProblemError, match="cross") as caught:
        al.Problem(np.zeros((2, 6)), feature_groups=groups)
    first, second = (int(part[0]) for part in str(caught.value).split("feature_groups[")[1:])
    a, b = families[first], families[second]
    assert a & b
    assert not a <= b
    assert not b <= a


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (([0, 0], [1, 1], [1.0, 2.0]), r"expected each edge once, found \(token 0, feature 1\) twice"),
        (([0, 2], [1, 1], [1.0, 2.0]), r"tokens\[1\]: expected an index below shape\[0\] = 2, found 2"),
        (([0], [1, 1], [1.0, 2.0]), "tokens, features, scores: expected vectors of one length"),
        (([0], [1], [np.nan]), "1 entries are NaN"),
    ],
)
def test_bad_edges_are_named(edges: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(al.InvalidProblemError, match=message):
        al.Problem.from_edges(*edges, shape=(2, 3))


SUMS_DECIDE: list[dict[str, Any]] = [
    {"token_caps": 1, "feature_caps": 1},
    {"budget": 2, "token_floors": 1},
    {"feature_floors": [0, 0, 1]},
    {"token_groups": [al.Group([0, 1], cap=1)]},
    {"feature_groups": [al.Group([0, 1], cap=1)], "token_caps": 1},
]


@pytest.mark.parametrize("limits", SUMS_DECIDE)
@pytest.mark.parametrize("entry", [2**50 + 1, -(2**50) - 1, 2**60, 2**63 - 1, -(2**63), 2**64 - 1])
def test_integers_that_sums_would_round_are_refused_where_sums_decide(limits: dict[str, Any], entry: int) -> None:
    base = np.sign(entry) * 2**50
    scores = np.array([[base, base, base], [base, entry, entry]], np.uint64 if entry >= 2**63 else np.int64)
    message = (
        r"scores: expected integers within \+-2\^50 beside .* 2 entries are beyond, the first at token 1, feature 1"
    )
    with pytest.raises(al.InvalidProblemError, match=message):
        al.Problem(scores, **limits)
    tokens, features = np.indices(scores.shape).reshape(2, -1)
    with pytest.raises(al.InvalidProblemError, match=message):
        al.Problem.from_edges(tokens, features, scores.reshape(-1), scores.shape, **limits)
    for few in (scores[:1], scores.astype(np.float64)):
        fewer = {name: limit for name, limit in limits.items() if name != "token_groups"}
        problem = al.Problem(few, **(fewer or {"feature_floors": 1}))
        assert al.verify(problem, al.solve(problem)).optimal
    assert al.solve(al.Problem(scores, budget=1, token_caps=1)).values.tolist() == ([scores.max()] if entry > 0 else [])


def test_scores_are_not_copied_and_views_are_accepted() -> None:
    assert np.shares_memory(al.token_choice(SCORES, 1).scores, SCORES)
    tensor = torch.rand(4, 5)
    assert np.shares_memory(al.token_choice(tensor, 1).scores, tensor.numpy())
    np.testing.assert_array_equal(al.token_choice(SCORES[:, ::-2], 1).scores, SCORES[:, ::-2])
    np.testing.assert_array_equal(al.token_choice(SCORES.astype(">f8"), 1).scores, SCORES)


WRONG = st.one_of(
    st.none(), st.integers(-3, 3), st.floats(), st.text(max_size=2), st.booleans(), st.binary(max_size=2),
    st.lists(st.one_of(st.integers(-2, 4), st.floats(), st.none(), st.text(max_size=1)), max_size=4),
    st.just(object()), st.just(np.array(["x"])), st.just(np.array([2**63], np.uint64)), st.just({1: 2}),
)  # fmt: skip
NAMES = ("budget", "token_caps", "token_floors", "feature_caps", "feature_floors", "token_groups", "feature_groups")


@given(st.dictionaries(st.sampled_from(NAMES), WRONG, max_size=3), st.one_of(st.just(SCORES), WRONG))
def test_any_argument_is_accepted_or_refused_by_name(arguments: dict[str, Any], scores: Any) -> None:
    """No wrong type, shape, sign or NaN gives another exception; what is accepted is solved or found infeasible."""
    try:
        problem = al.Problem(scores, **arguments)
    except al.InvalidProblemError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert message.split(":")[0].split("[")[0].split(".")[0] in ("scores", *NAMES)
        return
    solution = al.solve(problem, throw=False)
    if solution.status is al.Status.OPTIMAL:
        assert al.verify(problem, solution).optimal
    else:
        assert solution.status is al.Status.INFEASIBLE
        assert "floor" in str(solution.error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: al.solve(SCORES), "problem: expected an allocation.Problem, found ndarray"),
        (lambda: al.solve(al.token_choice(SCORES, 1), al.TopSelection), "solver: expected a solver object"),
        (lambda: al.solve(al.token_choice(SCORES, 1), workers=0), "workers: expected 1 or more threads, found 0"),
    ],
)
def test_solve_names_what_it_was_given(call: Any, message: str) -> None:
    with pytest.raises(al.InvalidProblemError, match=message):
        call()


def test_problems_and_solutions_read_well_at_a_prompt() -> None:
    problem = al.Problem(SCORES, budget=3, token_caps=[1, 2], token_groups=[al.Group([0, 1], cap=2)])
    assert repr(problem) == "Problem(2 tokens x 3 features, float64, budget=3, token_caps=1..2, 1 token_groups)"
    text = repr(al.solve(al.mutual_choice(SCORES, 2)))
    assert text.startswith("Solution(2 tokens x 3 features, 2 matches, objective 9, budget price 3, OPTIMAL by")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("name", ["token_caps", "token_floors", "feature_caps", "feature_floors"])
def test_limits_come_in_every_integer_type(name: str, dtype: Any) -> None:
    limits = np.array([1, 2], dtype)
    for vector in (limits, torch.from_numpy(limits.astype(np.int32))):
        assert getattr(al.Problem(np.ones((2, 2)), **{name: vector}), name).tolist() == [1, 2]
    largest = np.full(2, np.iinfo(dtype).max, dtype)
    assert getattr(al.Problem(np.ones((2, 2)), **{name: largest}), name)[0] == min(np.iinfo(dtype).max, 2**63 - 1)
