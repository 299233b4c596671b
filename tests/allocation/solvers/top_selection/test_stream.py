"""Blocks of rows give the answer of the stacked matrix, bit for bit, in one reading and little memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import allocation as al
from allocation.solvers.top_selection import stream, survivors
from tests.allocation.strategies import limits, score_matrices


def assert_same(streamed: al.Solution, whole: al.Solution) -> None:
    for name in ("tokens", "features", "values"):
        one, two = getattr(streamed, name), getattr(whole, name)
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    for name in ("budget", "tokens", "features"):
        for part in ("value", "lower", "upper"):
            np.testing.assert_array_equal(
                getattr(getattr(streamed.prices, name), part), getattr(getattr(whole.prices, name), part)
            )


@st.composite
def streams(draw: st.DrawFn) -> tuple[Any, list[Any], dict[str, Any]]:
    scores = draw(score_matrices(max_side=7, min_side=1))
    cuts = sorted(draw(st.lists(st.integers(0, len(scores)), max_size=3)))
    kind = draw(st.sampled_from(["budget", "feature_caps", "both"]))
    given: dict[str, Any] = {}
    if kind != "budget":
        given["feature_caps"] = draw(limits(scores.shape[1], 5))
    if kind != "feature_caps":
        given["budget"] = draw(st.integers(0, scores.size + 2))
    return scores, np.split(scores, cuts), given


@given(streams(), st.integers(1, 6), st.integers(1, 6))
def test_bit_identical_however_small_the_memory(
    case: tuple[Any, list[Any], dict[str, Any]], surplus: int, batch: int
) -> None:
    scores, blocks, limits = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "SURPLUS", surplus)
        patch.setattr(survivors, "BATCH", batch)
        streamed = al.select_stream(blocks, **limits)
    problem = al.Problem(scores, **limits)
    assert_same(streamed, al.solve(problem))
    assert al.verify(problem, streamed).optimal


def test_bfloat16_and_half_blocks() -> None:
    scores = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    for kind in (torch.bfloat16, torch.float16):
        narrow = scores.to(kind)
        for bounds in ({"budget": 500}, {"feature_caps": 7}):
            assert_same(al.select_stream(narrow.split(33), **bounds), al.solve(al.Problem(narrow, **bounds)))


ROWS, COLUMNS = 8192, 2048
LIMITS = ({"budget": 900_000}, {"feature_caps": 400}, {"budget": 60_000, "feature_caps": 40})


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 MiB of scores: a `.npy` file and two safetensors shards."""
    folder = tmp_path_factory.mktemp("scores")
    scores = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32)
    np.save(folder / "scores.npy", scores)
    for number, half in enumerate(np.split(scores, 2)):
        save_file({"scores": half}, folder / f"{number}.safetensors")
    return folder


class Shards:
    """The rows of safetensors shards, in blocks; counts its readings."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.readings = folder, 0

    def __iter__(self) -> Iterator[Any]:
        self.readings += 1
        for path in sorted(self.folder.glob("*.safetensors")):
            with safe_open(path, framework="numpy") as shard:
                rows = shard.get_slice("scores")
                for start in range(0, rows.get_shape()[0], 1024):
                    yield rows[start : start + 1024]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_whatever_holds_the_rows_they_are_read_once_in_bounded_memory(on_disk: Path, limits: dict[str, int]) -> None:
    """64 MiB beyond one block and the answer, which here holds up to 5 % of the scores."""
    mapped = np.load(on_disk / "scores.npy", mmap_mode="r")
    readings = [0]

    def generator() -> Iterator[Any]:
        readings[0] += 1
        for start in range(0, ROWS, 1000):
            yield mapped[start : start + 1000]

    shards = Shards(on_disk)
    whole = al.solve(al.Problem(np.array(mapped), **limits))
    for chunks, block_bytes in ((mapped, 1 << 24), (generator, 1000 * COLUMNS * 4), (shards, 1024 * COLUMNS * 4)):
        tracemalloc.start()
        streamed = al.select_stream(chunks, **limits)
        held, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        answer = streamed.tokens.nbytes + streamed.features.nbytes + streamed.values.nbytes
        assert peak <= 64 * 2**20 + block_bytes + answer
        assert held <= answer + 2**20, "nothing but the answer is kept"
        assert_same(streamed, whole)
        assert streamed.stats["passes"] == 1
    assert shards.readings == readings[0] == 1


@pytest.mark.parametrize(
    ("chunks", "limits", "message"),
    [
        (iter([np.eye(2)]), {"budget": 1}, "found list_iterator, which can be read only once; pass a list"),
        ((b for b in [np.eye(2)]), {"budget": 1}, "found generator, which can be read only once"),
        (3, {"budget": 1}, "chunks: expected blocks of rows, found 3"),
        ([np.eye(2)], {}, "budget, feature_caps: expected at least one of them"),
        (
            [np.eye(2), np.eye(3)],
            {"budget": 1},
            r"chunks\[1\]: expected 2 features of type float64, as in the first, found 3 of float64",
        ),
        ([np.eye(2), np.eye(2, dtype=np.float32)], {"budget": 1}, r"chunks\[1\]: expected 2 .* found 2 of float32"),
        ([np.eye(2)], {"feature_caps": [1, 2, 3]}, "feature_caps: expected an integer or 2 integers"),
        (
            [np.eye(2), np.eye(2) * np.nan],
            {"budget": 1},
            r"chunks\[1\]: expected finite scores, .* found that 4 entries are NaN",
        ),
        (np.ones(2), {"budget": 1}, r"expected blocks of rows, found one ndarray of shape \(2,\)"),
        (lambda: 3, {"budget": 1}, "expected blocks of rows, found 3"),
        ("rows", {"budget": 1}, "chunks: expected blocks of rows, found 'rows'"),
    ],
)
def test_streams_that_cannot_be_read_are_named(chunks: Any, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(al.InvalidProblemError, match=message):
        al.select_stream(chunks, **limits)


def test_no_blocks_give_an_empty_answer() -> None:
    assert al.select_stream([], budget=3).tokens.size == 0
    assert al.select_stream([], feature_caps=[1, 2]).shape == (0, 2)


def test_no_chunk_has_as_many_features_as_caps() -> None:
    assert al.select_stream([], feature_caps=np.array([1, 2])).shape == (0, 2)
