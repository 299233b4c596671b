"""Several real processes against one: the same matches, losses and weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import sae_torch as st
from tests.sae_torch.parallel.processes import Processes

TYPES = ("bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2)
    yield processes
    processes.close()


def drawn(rank: int, case: int, kind: str) -> np.ndarray[Any, Any]:
    """A vector of any bits, often empty."""
    rng = np.random.default_rng([rank, case])
    size = int(rng.integers(0, 40)) * int(rng.integers(0, 2))
    if kind == "bool":
        return rng.integers(0, 2, size).astype(bool)
    return rng.integers(0, 256, size * np.dtype(kind).itemsize, dtype=np.uint8).view(kind)


def gather_drawn(rank: int) -> list[list[bytes]]:
    ranks = st.parallel.ranks()
    found = []
    for case in range(40):
        parts = ranks.gather(drawn(rank, case, TYPES[case % len(TYPES)]))
        assert all(part.dtype == TYPES[case % len(TYPES)] for part in parts)
        found.append([part.tobytes() for part in parts])
    return found


def test_gathered_vectors_are_those_of_all_ranks_bit_for_bit(two: Processes) -> None:
    expected = [[drawn(rank, case, TYPES[case % len(TYPES)]).tobytes() for rank in range(2)] for case in range(40)]
    assert two.run(gather_drawn) == [expected, expected]


def sum_drawn(rank: int) -> list[bytes]:
    ranks = st.parallel.ranks()
    assert (ranks.index, ranks.count) == (rank, 2)
    rng = np.random.default_rng(rank)
    whole = ranks.sum(rng.integers(-(2**62), 2**62, (3, 50)))
    real = ranks.sum(rng.normal(size=1000) * 10.0 ** rng.integers(-300, 300, 1000))
    assert ranks.sum(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(st.InputError, match="values: expected int64 or float64, found float32"):
        ranks.sum(np.zeros(1, np.float32))
    return [whole.tobytes(), real.tobytes()]


def test_sums_are_exact_and_the_same_on_every_rank(two: Processes) -> None:
    one, other = two.run(sum_drawn)
    assert one == other
    rngs = [np.random.default_rng(rank) for rank in range(2)]
    assert one[0] == (sum(rng.integers(-(2**62), 2**62, (3, 50)) for rng in rngs)).tobytes()
    assert one[1] == (sum(rng.normal(size=1000) * 10.0 ** rng.integers(-300, 300, 1000) for rng in rngs)).tobytes()


def meshes_of(rank: int) -> list[Any]:
    with pytest.raises(st.InputError, match=r"found 2 x 2 = 4 with WORLD_SIZE = 2"):
        st.parallel.mesh(data=2, features=2)
    shapes = [(2, 1), (1, 2)]
    grids = [st.parallel.mesh(data=data, features=features) for data, features in shapes]
    assert [tuple(grid.shape) for grid in grids] == shapes
    return [(grid["data"].get_local_rank(), grid["features"].get_local_rank()) for grid in grids]


def test_a_mesh_has_data_and_features(two: Processes) -> None:
    assert two.run(meshes_of) == [[(0, 0), (0, 0)], [(1, 0), (0, 1)]]


def test_a_mesh_of_one_process_needs_no_process_group() -> None:
    assert tuple(st.parallel.mesh().shape) == (1, 1)
    assert not torch.distributed.is_initialized()
    with pytest.raises(st.InputError, match="data: expected a positive number of processes, found 0"):
        st.parallel.mesh(data=0)
    with pytest.raises(st.InputError, match=r"found 2 x 1 = 2 with WORLD_SIZE = 1"):
        st.parallel.mesh(data=2)


@pytest.mark.slow
def test_processes_of_torchrun_meet() -> None:
    program = """
import sae_torch as st
mesh = st.parallel.mesh(data=2)
print("count", st.parallel.ranks(mesh["data"].get_group()).count)
"""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    ended = subprocess.run([*launch, sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.stdout.count("count 2") == 2, ended.stderr
