"""Processes of one group that run functions of the tests, as often as asked: starting them takes seconds."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PATIENCE = 120.0


class Processes:
    """So many processes that have joined by gloo."""

    def __init__(self, count: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        ends = [context.Pipe() for _ in range(count)]
        self.pipes: list[Connection] = [ours for ours, _ in ends]
        self.processes = [
            context.Process(target=_serve, args=(rank, count, self.folder.name, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(ends)
        ]
        for process in self.processes:
            process.start()

    def run(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `work(rank, *arguments)` gives in every process, in order of the ranks."""
        for pipe in self.pipes:
            pipe.send((work, arguments))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(PATIENCE), f"rank {rank} does not answer"
            answers.append(pipe.recv())
        failures = [f"rank {rank}:\n{answer}" for rank, (failed, answer) in enumerate(answers) if failed]
        assert not failures, "\n".join(failures)
        return [answer for _, answer in answers]

    def close(self) -> None:
        """End them."""
        for process in self.processes:
            process.kill()
            process.join(10)
        self.folder.cleanup()


def _serve(rank: int, count: int, folder: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=count, timeout=timedelta(seconds=PATIENCE)
    )
    while True:
        work, arguments = pipe.recv()
        try:
            pipe.send((False, work(rank, *arguments)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))


def children_of(process: int) -> list[int]:
    """Processes that a process has started and that live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        if int(parent) == process and state != "Z":
            found.append(int(folder.name))
    return sorted(found)
