"""Every structure of scores against the strongest rival for it: in turn, each cell in a process with a time limit.

A cell that does not end within the limit is recorded as such. Every answer of ours is proved by `al.verify` and its
total compared with the rivals'. `--rows`, `--families` and `--sizes` pick rows, `--scale` makes all sizes smaller.
`--against FOLDER` takes a checkout of another commit as the rival of rows that have none.
Rows that are not run again stay in the file.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import allocation as al
from benchmarks.harness import arguments, kept_rows, report
from benchmarks.rivals_cases import AGAINST, GROUPS, SEED, Case
from benchmarks.rivals_others import Answer

HEADINGS = [
    "problem",
    "scores",
    "size",
    "rival",
    "ms, rival",
    "ms, ours",
    "ours / rival",
    "memory / scores",
    "solver",
    "certified",
]
UNFINISHED = math.inf
ROOT = Path(__file__).parents[1]
# Beyond this one turn of each side has to do, in seconds.
LONG = 5.0
Timed = tuple[float, Answer]
_NONE: Mapping[str, Callable[[], Timed]] = {}


def in_process(work: Callable[[], Any], limit: float) -> Any | None:
    """What `work` returns in a process of its own; None if it has not ended within the limit."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work))
    process.start()
    sender.close()
    try:
        # an exception of the work closes the pipe without an answer
        return receiver.recv() if receiver.poll(limit) else None
    finally:
        process.kill()
        process.join()


def _send(sender: Connection, work: Callable[[], Any]) -> None:
    sender.send(work())


def timed(work: Callable[[], Answer]) -> Timed:
    """Seconds of the faster of two runs where both are short: the first one touches its memory for the first time."""
    best = math.inf
    for _ in range(2):
        started = time.perf_counter()
        answer = work()
        best = min(best, time.perf_counter() - started)
        if best > 0.2:
            break
    return best, answer


# Run with the folder of another checkout, that of this one, and the arguments of `print_one`.
_OTHER_BUILD = """
import sys
sys.path.insert(0, sys.argv[1])
import allocation
sys.path[0] = sys.argv[2]
from benchmarks.rivals import print_one
print_one(*sys.argv[3:])
"""


def print_one(group: str, family: str, size: str, scale: str) -> None:
    """Seconds and answer of one case, by whatever build is imported."""
    case = next(case for case in GROUPS[group](float(scale)) if (case.family, case.size) == (family, size))
    print(json.dumps(timed(case.ours)))


def by_other_build(folder: str, group: str, case: Case, scale: float, limit: float) -> Timed:
    """Seconds and answer of the same case by the package of another checkout, in an interpreter of its own."""
    arguments = [folder, str(ROOT), group, case.family, case.size, str(scale)]
    command = [sys.executable, "-c", _OTHER_BUILD, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit)
    seconds, answer = json.loads(ended.stdout.splitlines()[-1])
    return seconds, answer


def rows_of(case: Case, repeats: int, limit: float, others: Mapping[str, Callable[[], Timed]] = _NONE) -> list[Any]:
    """All sides of one case in turn, medians, and the proof of our answer: a row for each rival.

    Of `others` each says itself how long it took, of ten times the limit: they are what there was before.
    """
    works = {"ours": case.ours, **case.rivals}
    sides = {**{name: partial(timed, work) for name, work in works.items()}, **others}
    times: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, Answer] = {}
    for _ in range(repeats):
        for name, work in sides.items():
            if times[name] and times[name][-1] > LONG:
                continue
            found = in_process(work, 10 * limit if name in others else limit)
            times[name].append(UNFINISHED if found is None else found[0])
            if found is not None:
                answers[name] = found[1]
    seconds = {name: statistics.median(of_side) for name, of_side in times.items()}
    certified, solver, memory = "-", "-", "-"
    if "ours" in answers:
        proof = in_process(lambda: case.check(), 10 * limit)
        certified, solver = ("no", "-") if proof is None else ("yes", proof)
        memory = peak(case, limit)
        for name, answer in answers.items():
            agree(case, name, answer, answers["ours"])
    rows = []
    ours = seconds.pop("ours")
    for name, theirs in (seconds or {"-": math.nan}).items():
        ratio = math.nan
        if math.isfinite(ours) and not math.isnan(theirs):
            ratio = ours / theirs if math.isfinite(theirs) else 0.0
        row = [case.group, case.family, case.size, name, 1e3 * theirs, 1e3 * ours, ratio]
        rows.append([*row, memory, solver, certified])
    return rows


def agree(case: Case, name: str, theirs: Answer, ours: Answer) -> None:
    """Two totals of one problem, or two verdicts that there is none."""
    if isinstance(theirs, str) or isinstance(ours, str):
        assert theirs == ours, (case.group, case.family, name, theirs, ours)
    else:
        assert abs(theirs - ours) <= case.slack + 1e-9 * abs(theirs), (case.group, case.family, name, theirs, ours)


def peak(case: Case, limit: float) -> float | str:
    """Most bytes that our side holds at one time, as a multiple of the scores."""

    def allocated() -> int:
        tracemalloc.start()
        case.ours()
        return tracemalloc.get_traced_memory()[1]

    found = in_process(allocated, 10 * limit)
    return "-" if found is None or not case.nbytes else found / case.nbytes


def commit_of(folder: str) -> str:
    """The commit that a checkout is at."""
    command = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """The table, row by row, written as it grows."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(repeats=3)
    parser.add_argument("--rows", nargs="*", choices=list(GROUPS), default=list(GROUPS), help="groups to run")
    parser.add_argument("--families", nargs="*", help="families to run, all by default")
    parser.add_argument("--sizes", nargs="*", help="sizes to run, such as '200 x 300', all by default")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all sizes")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that one run of one side may take")
    parser.add_argument("--against", metavar="FOLDER", help="a checkout of another commit")
    parser.add_argument("--dry", action="store_true", help="print, without writing results")
    options = parser.parse_args()
    notes = (
        f"Seed {SEED}, sizes times {options.scale:g}, limit {options.limit:g} s a run. A row for each rival, whose "
        "input was built before. Assignments are complete, one match a token and a feature. Every answer of ours "
        "proved by `verify`, totals equal to the rivals'. inf: not ended within the limit. "
        "Memory: what solving "
        "allocates at its peak, in multiples of the scores."
    )
    # imports happen before the processes
    al.solve(al.balanced_choice([[1.0, 2.0]], token_caps=1, feature_caps=1))
    importlib.import_module("ortools.graph.python.linear_sum_assignment")
    rows = [] if options.dry else kept_rows("rivals", notes)
    for group in options.rows:
        for case in GROUPS[group](options.scale):
            if case.family not in (options.families or [case.family]) or case.size not in (
                options.sizes or [case.size]
            ):
                continue
            others = _NONE
            if options.against and group in AGAINST:
                work = partial(by_other_build, options.against, group, case, options.scale, 10 * options.limit)
                others = {f"build {commit_of(options.against)}": work}
            new = rows_of(case, options.repeats, options.limit, others)
            for row in new:
                print(*(f"{value:.3g}" if isinstance(value, float) else value for value in row), sep=" | ", flush=True)
            rows = [old for old in rows if old[:3] != new[0][:3]] + new
        if not options.dry:  # group by group: it takes long
            report("rivals", HEADINGS, rows, notes)


if __name__ == "__main__":
    main()
