"""The parts of a one-sided search: positions of masks, the exact best of groups, rows in several runs, hints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocation import threads
from allocation.arrays import true_positions
from allocation.solvers.top_selection import ranking
from allocation.solvers.top_selection.lines import select_columns, select_rows
from allocation.solvers.top_selection.ranking import finish
from allocation.threads import map_blocks, map_runs

SHAPE = (1100, 2051)  # several blocks, two runs per thread; no whole number of words in a row


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0])), max_size=5), st.data())
def test_places_are_the_true_entries(parts: list[tuple[int, float]], data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    masks = [rng.random((size, 3)) < share for size, share in parts]
    everything = np.concatenate([np.empty(0, bool), *(mask.reshape(-1) for mask in masks)])
    np.testing.assert_array_equal(true_positions(masks), np.flatnonzero(everything))
    true = int(everything.sum())
    np.testing.assert_array_equal(true_positions(masks, true), np.flatnonzero(everything))
    if true > 8:
        assert true_positions(masks, true // 8 - 1) is None


@given(st.data())
@pytest.mark.parametrize("spare", [0, ranking.SPARE])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int64])
def test_finish_takes_the_first_of_the_largest_of_every_group(kind: Any, spare: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    count, size = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 60))
    # squares make groups of unlike size; few values make ties
    groups = (rng.random(size) ** 4 * count).astype(np.int64)
    if data.draw(st.booleans()):
        groups.sort()
    flat = np.sort(rng.choice(1000, size, replace=False))
    values = rng.integers(1, data.draw(st.sampled_from([2, 4, 100])), size).astype(kind)
    caps = rng.integers(0, 12, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SPARE", spare)
        found = finish(values, flat, groups, caps)
    taken: list[int] = []
    for group in range(count):
        members = np.flatnonzero(groups == group)
        best = flat[members[np.argsort(-values[members].astype(np.float64), kind="stable")]]
        taken += best[: caps[group]].tolist()
        assert found.last[group] == (best[: caps[group]][-1] if caps[group] and best.size else -1)
        assert found.refused[group] == (best[caps[group]] if best.size > caps[group] else -1)
    assert found.flat.tolist() == sorted(taken)


def mixed_rows() -> np.ndarray[Any, Any]:
    """Rows of every kind side by side: generic, tied, all equal, without and with few positive entries."""
    rng = np.random.default_rng(5)
    scores = rng.standard_normal(SHAPE).astype(np.float32)
    scores[3::50] = 1.5
    scores[4::50] = rng.integers(0, 3, scores[4::50].shape)
    scores[5::50] = -1
    scores[6::50, 7:] = 0
    scores[7::50] = np.sort(scores[7::50], axis=1)[:, ::-1]
    return scores


def by_sorting_rows(scores: np.ndarray[Any, Any], caps: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """Positions taken, and per row the last taken and the first refused positive one, by full stable sorts."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    flat = order + np.arange(len(scores))[:, None] * scores.shape[1]
    positive = (ranked > 0).sum(axis=1)
    taken = np.minimum(positive, caps)
    chosen = np.arange(scores.shape[1]) < taken[:, None]
    rows = np.arange(len(scores))
    last = np.where(taken > 0, flat[rows, np.maximum(taken - 1, 0)], -1)
    refused = np.where(positive > taken, flat[rows, np.minimum(taken, scores.shape[1] - 1)], -1)
    return np.sort(flat[chosen]), last, refused


HINTS = {"none": None, "close": 0.97, "too high": 3.0, "too low": 1e-3, "some too high": None, "far too low": 1e-30}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("caps", ["equal", "mixed", "many"])
def test_rows_are_exact_whatever_the_hint(caps: str, hint: str, workers: int) -> None:
    scores = mixed_rows()
    rng = np.random.default_rng(11)
    wanted = {
        "equal": np.full(SHAPE[0], 9),
        "mixed": rng.integers(0, 30, SHAPE[0]),
        "many": np.full(SHAPE[0], SHAPE[1] // 3),
    }[caps]
    flat, last, refused = by_sorting_rows(scores, wanted)
    price = np.where(refused >= 0, scores.reshape(-1)[refused], np.float32(1))
    if hint == "some too high":
        at = price * rng.choice(np.array([0.97, 5.0], np.float32), SHAPE[0], p=[0.9, 0.1])
    else:
        at = None if HINTS[hint] is None else price * np.float32(HINTS[hint])
    found = select_rows(scores, wanted, workers, at)
    np.testing.assert_array_equal(found.flat, flat)
    np.testing.assert_array_equal(found.last, last)
    np.testing.assert_array_equal(found.refused, refused)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
def test_runs_are_all_rows_in_order(rows: int, workers: int) -> None:
    nbytes, block = 20 * threads.SERIAL_BYTES * rows // 1000, threads.BLOCK_BYTES
    runs = map_runs(lambda run: run, rows, nbytes, workers)
    flat = [bounds for run in runs for bounds in run]
    assert [start for start, _ in flat] == [0, *(stop for _, stop in flat[:-1])][: len(flat)]
    assert sum(stop - start for start, stop in flat) == rows
    assert map_blocks(lambda start, stop: (start, stop), rows, nbytes, workers) == flat
    assert all(len(run) * block <= threads.RUN_BYTES for run in runs)
    if rows == 1000 and workers > 1:
        assert len(runs) >= 2 * workers - 1


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_columns_are_exact_where_few_groups_hold_all_that_is_large(tied: bool, workers: int) -> None:
    """Entries that share eight of 64 groups leave the bracket far below them: more reach it than are worth keeping."""
    rng = np.random.default_rng(2)
    scores = rng.random((1024, 300)).astype(np.float32)
    large = np.arange(1024) % 64 < 8
    scores[large] += 10
    if tied:
        scores[large, ::3] = 10.5
    found = select_columns(scores, np.full(300, 8), workers)
    rank = np.argsort(np.argsort(-scores, axis=0, kind="stable"), axis=0, kind="stable")
    np.testing.assert_array_equal(found.flat, np.flatnonzero(rank < 8))
    assert (rank.reshape(-1)[found.last] == 7).all()
    assert (rank.reshape(-1)[found.refused] == 8).all()
