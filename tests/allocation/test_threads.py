"""Threads that stay between the calls: what is raised, calls inside calls, and forked processes."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

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


FORK = """
import os, sys
from allocation.threads import SERIAL_BYTES, map_blocks

def blocks():
    return map_blocks(lambda start, stop: start, 1000, 40 * SERIAL_BYTES, workers=3)

before = blocks()
child = os.fork()
if child == 0:
    os._exit(0 if blocks() == before else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert blocks() == before
print("both")
"""


def test_a_forked_process_has_threads_of_its_own() -> None:
    words = [sys.executable, "-W", "ignore", "-c", FORK]  # newer Pythons warn of any fork beside threads
    assert subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout == "both\n"
