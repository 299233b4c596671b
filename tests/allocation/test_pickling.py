"""Answers outlive the process that found them: pickles, copies, other processes, checkpoints of torch."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.cuda.scores import DeviceScores
from tests.allocation.cuda.host_device import HostDevice
from tests.allocation.strategies import any_case, nested, one_sided


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def checkpointed(value: Any) -> Any:
    file = io.BytesIO()
    torch.save({"kept": value}, file)
    file.seek(0)
    return torch.load(file, weights_only=False)["kept"]


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": pickled,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "torch.save": checkpointed,
}


def parts(prices: al.Prices, *names: str) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(getattr(price, name)) for price in vars(prices).values() for name in names]


def assert_equal(one: list[Any], two: list[Any]) -> None:
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@given(st.one_of(one_sided(), nested(), any_case(agreed=True)))
@settings(max_examples=25)
def test_a_copy_is_the_same_answer(copied: Callable[[Any], Any], case: tuple[Any, dict[str, Any]]) -> None:
    problem = al.Problem(case[0], **case[1])
    solution = al.solve(problem, throw=False)
    again = copied(solution)
    assert repr(again) == repr(solution)
    assert again.status is solution.status
    if solution.status is not al.Status.OPTIMAL:
        assert type(again.error) is type(solution.error)
        with pytest.raises(al.InfeasibleError):
            _ = again.tokens
        return
    assert al.verify(copied(problem), again) == al.verify(problem, solution)
    assert_equal([again.tokens, again.features, again.values], [solution.tokens, solution.features, solution.values])
    assert again.objective == solution.objective
    assert_equal(parts(again.prices, "value"), parts(solution.prices, "value"))
    warm = al.solve(problem, warm_start=copied(solution.prices.without_intervals()))
    assert al.verify(problem, warm).optimal
    assert warm.objective == pytest.approx(solution.objective, rel=1e-12, abs=1e-12)
    # intervals that were computed go along; those that were not are unknown to what has left the scores behind
    ends = parts(solution.prices, "lower", "upper")
    assert_equal(parts(copied(solution).prices, "lower", "upper"), ends)
    late = parts(again.prices, "lower", "upper")
    for known, end in zip(late, ends, strict=True):
        assert np.array_equal(known, end) or (copied in (pickled, checkpointed) and np.isnan(known).all())


def test_a_pickle_leaves_the_scores_behind() -> None:
    scores = np.random.default_rng(0).normal(size=(300, 200))
    for limits in ({"budget": 9}, {"token_floors": 1, "token_caps": 1}, {"token_caps": 1, "feature_caps": 2}):
        solution = al.solve(al.Problem(scores, **limits))
        assert len(pickle.dumps(solution)) < scores.nbytes / 10
        soft = al.soft_solve(al.Problem(scores, budget=9), 0.5)
        assert_equal([pickled(soft).allocation], [soft.allocation])


def _solved(problem: al.Problem) -> al.Solution:
    return al.solve(problem)


def test_another_process_returns_its_answer() -> None:
    problem = al.balanced_choice(np.arange(12.0).reshape(3, 4), budget=4, token_caps=2, feature_caps=2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        solution = pool.apply(_solved, (problem,))
    assert al.verify(problem, solution).optimal


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_an_answer_on_a_device_is_pickled_in_main_memory(copied: Callable[[Any], Any]) -> None:
    device = HostDevice()
    scores = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    problem = al.Problem(DeviceScores(device.put(scores), "float32", device), budget=4)
    solution = al.solve(problem)
    again = copied(solution)
    assert al.verify(al.Problem(scores, budget=4), again).optimal
    assert isinstance(again.tokens, np.ndarray)
