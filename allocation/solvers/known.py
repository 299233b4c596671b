"""The exact scores that have been asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from allocation.arrays import Array, Indices
from allocation.rough import Rough
from allocation.scores import EdgeScores


@dataclass(eq=False)
class Known:
    """Edges of rough scores whose exact score has been asked for, by ascending id: nobody asks twice."""

    ids: Indices = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    values: Array | None = None

    @classmethod
    def of(cls, rough: Rough) -> Known:
        """What is known of these scores."""
        known: Known = rough.memory.setdefault(cls.__name__, cls())
        return known

    def unknown(self, ids: Indices) -> Indices:
        """Those of some ascending ids that are not known."""
        if not self.ids.size:
            return ids
        at = np.minimum(np.searchsorted(self.ids, ids), self.ids.size - 1)
        return np.asarray(ids[self.ids[at] != ids])

    def ask(self, rough: Rough, ids: Indices) -> None:
        """Ask for edges that are not known yet, ascending."""
        if self.values is not None and not ids.size:
            return
        values = rough.evaluate(*rough.ends(ids))
        if self.values is None:
            self.ids, self.values = ids, values
            return
        both = np.concatenate([self.ids, ids])
        order = np.argsort(both, kind="stable")
        self.ids, self.values = both[order], np.concatenate([self.values, values])[order]

    def scores(self, rough: Rough, ids: Indices) -> Array:
        """The exact scores of some ascending ids; those that are not known are asked for."""
        self.ask(rough, self.unknown(ids))
        assert self.values is not None
        return np.asarray(self.values[np.searchsorted(self.ids, ids)])

    def edges(self, rough: Rough) -> EdgeScores:
        """They alone; every other pair is left out."""
        assert self.values is not None
        return EdgeScores(*rough.ends(self.ids), self.values, rough.shape, self.values.dtype.name)
