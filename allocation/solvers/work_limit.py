"""What one solve may spend: the seconds it was given, or else a multiple of its size that is far from ordinary."""

from __future__ import annotations

import copy
import math
import time

from allocation.errors import NotCertifiedError

# Edges visited by paths, sweeps and passes, as a multiple of those there are: the hardest ordinary ones take 200.
MOST_VISITS = 1000
# And these, which small problems do not notice.
FREE_VISITS = 1_000_000

# Seconds, and the share of those given, for a bound on what the best allocation scores once all is spent.
GRACE, GRACE_SHARE = 0.15, 0.1


class SpentError(Exception):
    """All that the solve may spend is spent."""


class WorkLimit:
    """Edges visited and time passed. Without seconds given, visits are bounded, so that every solve ends."""

    def __init__(self, seconds: float | None = None, size: int = 0) -> None:
        self.seconds = seconds
        self.deadline = math.inf if seconds is None else time.perf_counter() + seconds
        self.most = MOST_VISITS * size + FREE_VISITS if seconds is None else math.inf
        self.visits = 0

    def spend(self, visits: int) -> None:
        """Count edges about to be visited; raises `SpentError` where nothing is left."""
        self.visits += visits
        if self.visits > self.most or time.perf_counter() > self.deadline:
            raise SpentError

    def check(self) -> None:
        """Raise `SpentError` where no time is left; cheap enough for every block of a pass."""
        if time.perf_counter() > self.deadline:
            raise SpentError

    def check_intervals(self) -> None:
        """The same for those who asked for the intervals of prices: `NotCertifiedError`."""
        if time.perf_counter() > self.deadline:
            raise NotCertifiedError(
                f"the intervals of prices took longer than {self}: allow more with max_seconds=, or leave .lower and "
                ".upper alone"
            )

    def grace(self) -> WorkLimit:
        """What it may take to say how a solve ended that has spent its seconds: a little more of them."""
        more = copy.copy(self)
        more.deadline += 0.0 if self.seconds is None else max(GRACE, GRACE_SHARE * self.seconds)
        return more

    def __str__(self) -> str:
        return f"{self.seconds} seconds" if self.seconds is not None else f"{self.visits} visits to edges"
