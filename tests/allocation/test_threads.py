"""Threads that stay between the calls: what is raised, calls inside calls, and forked processes."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import allocation as al
from allocation import threads
from allocation.threads import SERIAL_BYTES, Block, map_blocks, map_runs

LARGE = 40 * SERIAL_BYTES


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_what_comes_first_is_raised_whichever_thread_is_first(workers: int) -> None:
    begun: list[int] = []

    def work(run: list[Block]) -> None:
        begun.append(run[0][0])
        if run[0][0] > 100:
            time.sleep(0.002 if run[0][0] < 300 else 0)  # those that come later fail before it
            raise ValueError(run[0][0])

    runs = map_runs(lambda run: run[0][0], 1000, LARGE, workers)
    expected = min(start for start in runs if start > 100)
    for _ in range(20):
        with pytest.raises(ValueError, match=str(expected)):
            map_runs(work, 1000, LARGE, workers)
    assert len(begun) < 20 * len(runs), "what follows a failure is left"
    assert map_runs(lambda run: run[0][0], 1000, LARGE, workers) == runs


def test_calls_inside_calls_by_many_threads_end() -> None:
    def total(start: int, stop: int) -> int:
        return sum(map_blocks(lambda first, last: sum(range(first, last)), stop - start, LARGE, workers=2)) + start

    def work(_: int) -> list[int]:
        return map_blocks(total, 1000, LARGE, workers=2)

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(work, range(40)))
    blocks = map_blocks(lambda start, stop: sum(range(stop - start)) + start, 1000, LARGE, workers=1)
    assert len(blocks) == len(answers[0])
    assert all(answer == blocks for answer in answers)


@pytest.mark.parametrize("rows", [0, 10, 1000])
def test_workers_that_are_none_are_refused_at_any_size(rows: int) -> None:
    for workers in (0, -1):
        with pytest.raises(al.InvalidProblemError, match=f"workers: expected 1 or more, found {workers}"):
            map_blocks(lambda start, stop: stop - start, rows, LARGE * rows // 1000, workers)
    scores = np.ones((2000, 600), np.float32)
    with pytest.raises(al.InvalidProblemError, match="workers: expected 1 or more, found -1"):
        al.TopSelection().solve(al.mutual_choice(scores, budget=5), al.Options(workers=-1))


def test_where_no_thread_can_be_started_the_caller_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    expected = map_runs(lambda run: run[0][0], 1000, LARGE, workers=1)
    threads._pool.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        starts = [start for start, _ in map_blocks(lambda start, stop: (start, stop), 1000, LARGE, workers=4)]
    assert starts[0] == expected[0] == 0
    assert len(starts) == len(set(starts)) > 4
    threads._pool.cache_clear()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_failure_keeps_nothing_alive(workers: int) -> None:
    class Large:
        pass

    def failing() -> weakref.ref[Large]:
        large = Large()

        def work(run: list[Block], large: Large = large) -> None:
            raise ValueError(run)

        with contextlib.suppress(ValueError):
            map_runs(work, 1000, LARGE, workers)
        return weakref.ref(large)

    gc.collect()
    gc.disable()
    try:
        found = failing()
        for _ in range(100):  # a helper may still be on its way out
            if found() is None:
                break
            time.sleep(0.01)
        assert found() is None
    finally:
        gc.enable()


FORK = """
import os, threading
from allocation.threads import SERIAL_BYTES, map_runs

def shared():
    both, seen = threading.Barrier(2), []

    def work(run):
        if threading.get_ident() not in seen:
            seen.append(threading.get_ident())
            if len(seen) <= 2:
                both.wait(20)
        return run[0][0]

    return map_runs(work, 1000, 40 * SERIAL_BYTES, workers=2)

before = shared()
child = os.fork()
if child == 0:
    os._exit(0 if shared() == before else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert shared() == before
print("both")
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    words = [sys.executable, "-W", "ignore", "-c", FORK]  # newer Pythons warn of any fork beside threads
    assert subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout == "both\n"
