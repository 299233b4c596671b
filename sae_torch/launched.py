"""The processes that `torchrun` started beside this one, as the environment says: torch is not needed to know."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import time
from typing import NoReturn

# Python's own exit code where what was printed cannot be written.
LOST_OUTPUT = 120
# `torchrun` stops all as soon as one fails: the one that speaks for them has so long, in seconds.
SPEAKING = 5.0


def leads() -> bool:
    """Whether this is the process, of those that `torchrun` started, that speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def world_size() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch() -> list[str]:
    """The words that start a module of Python as this process was started, beside as many others."""
    here = os.environ.get("LOCAL_WORLD_SIZE", str(world_size()))
    return ["python", "-m"] if world_size() == 1 else ["torchrun", "--nproc-per-node", here, "-m"]


def end(code: int) -> NoReturn:
    """End this process; beside others without taking the interpreter down.

    Threads of gloo let go of the last tensors when they get to it. That needs the interpreter, and aborts a process
    whose work is done (seen on busy machines with torch 2.13; pytorch pull request 179291). What is registered with
    `atexit` is done, and what was printed is written; other threads are not waited for, and open files not flushed.
    """
    if world_size() == 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError as error:
            code = LOST_OUTPUT
            if stream is sys.stdout and sys.stderr is not None:
                with contextlib.suppress(OSError, ValueError):
                    print(f"standard output: {error}", file=sys.stderr)
    if code and not leads():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(SPEAKING)
    os._exit(code)
