"""Work on several ranks, each a thread of the test."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import allocation as al

# Errors that reach all ranks; after any other the rest need not wait.
OF_ALL = (ValueError, NotImplementedError, RuntimeError, OSError, MemoryError)


def on_ranks(count: int, work: Callable[[Any], Any]) -> list[Any]:
    """What each rank returns, or the error it raises; a rank that fails alone lets the others go."""
    with patch("allocation.ranks.PATIENCE", 60.0):
        ranks = al.thread_ranks(count)

    def guarded(rank: Any) -> Any:
        try:
            return work(rank)
        except Exception as error:
            if not isinstance(error, OF_ALL):
                rank.abort()
            return error

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(guarded, ranks))
