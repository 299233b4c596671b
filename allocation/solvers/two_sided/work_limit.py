"""What one solve may spend: the seconds it was given, or else a multiple of its size that is far from ordinary."""

from __future__ import annotations

import math
import time

# Edges visited by paths, sweeps and passes, as a multiple of those there are: the hardest ordinary ones take 200.
MOST_VISITS = 1000
# And these, which small problems do not notice.
FREE_VISITS = 1_000_000


class SpentError(Exception):
    """All that the solve may spend is spent."""


class WorkLimit:
    """Edges visited and time passed. Without seconds given, visits are bounded, so that every solve ends."""

    def __init__(self, seconds: float | None, size: int) -> None:
        self.seconds = seconds
        self.deadline = math.inf if seconds is None else time.perf_counter() + seconds
        self.most = MOST_VISITS * size + FREE_VISITS if seconds is None else math.inf
        self.visits = 0

    def spend(self, visits: int) -> None:
        """Count edges about to be visited; raises `SpentError` where nothing is left."""
        self.visits += visits
        if self.visits > self.most or time.perf_counter() > self.deadline:
            raise SpentError

    def __str__(self) -> str:
        return f"{self.seconds} seconds" if self.seconds is not None else f"{self.visits} visits to edges"
