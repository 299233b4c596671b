"""When a process of the run dies, the others find out which, and end with one sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from sae_torch.errors import LostProcessError

T = TypeVar("T")

# Time in which every process that lives reports, and in which `torchrun` takes note of one that has ended, in seconds.
REPORT_SECONDS, REAPED_SECONDS = 3.0, 1.0
# Where processes meet before they are a group, and where those that are left can still talk.
_stores: list[Store] = []
# Whether this process is looking for those that are gone.
_ending: list[bool] = []


def join() -> None:
    """Meet the processes that `torchrun` started, and keep the place where they met."""
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(store=PrefixStore("group", store), rank=rank, world_size=size)
    store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")
    _stores.append(store)
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_term)


def first_to_say(text: str) -> bool:
    """Whether no other process of the run has said the same."""
    if not _stores:
        return dist.get_rank() == 0
    try:
        return _stores[-1].add(f"said/{zlib.crc32(text.encode())}", 1) == 1
    except RuntimeError:  # nobody is left to ask
        return True


def among_the_living(collective: Callable[[], T]) -> T:
    """What a collective operation returns; what goes wrong in one is that a process is gone.

    Raises
    ------
    LostProcessError
        If one is; it names it.
    """
    try:
        return collective()
    except LostProcessError:
        raise
    except RuntimeError:
        pass  # and lets go of the traceback, which holds on to the connections
    raise _lost()


def _on_term(number: int, frame: FrameType | None) -> None:
    """What `torchrun` sends to all when one has died, or when it is to stop itself: then nobody is missing."""
    if _ending:
        return
    lost = _lost()
    if lost.missing:
        raise lost
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _is_gone(store: Store, rank: int, end: float) -> bool:
    """Whether a process on this machine has ended without a report, or one on another has not reported in time."""
    if store.check([f"here/{rank}"]):
        return False
    host, _, process = store.get(f"process/{rank}").decode().rpartition(" ")
    if host != socket.gethostname():
        try:
            store.wait([f"here/{rank}"], timedelta(seconds=max(0.05, end - time.monotonic())))
        except dist.DistStoreError:
            return True
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    return False


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _lost() -> LostProcessError:
    """Who is gone, for the first of those that are left to say.

    Closes this process' connections first, which wakes those that wait for it.
    """
    _ending.append(True)
    rank, size = dist.get_rank(), dist.get_world_size()
    if _in_main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it at once, and allows some time to end
    dist.destroy_process_group()
    missing = []
    if _stores:
        store, end = _stores[-1], time.monotonic() + REPORT_SECONDS
        with contextlib.suppress(RuntimeError):  # the place may be gone too
            store.set(f"here/{rank}", "1")
            time.sleep(REAPED_SECONDS)
            missing = [other for other in range(size) if other != rank and _is_gone(store, other, end)]
    if not missing:
        return LostProcessError(f"rank {rank} of {size} ends because another did not answer", True, missing)
    names, first = f"rank {missing[0]}", ""
    if len(missing) > 1:
        names, first = f"ranks {', '.join(map(str, missing))}", "the first of them "
    text = (
        f"{names} of {size} ended without a word ({first}killed, or out of memory), so the run ends; the same command "
        "goes on from what is finished"
    )
    return LostProcessError(text, rank == min(set(range(size)) - set(missing)), missing)
