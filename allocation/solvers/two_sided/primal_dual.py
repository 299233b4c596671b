"""Exact minimum-cost circulation on candidate edges, from prices near the optimum: primal-dual, by shortest paths.

Every edge above its prices is matched, every limit with a price carries its bound: the prices are optimal for this
flow, but nodes are out of balance. A phase takes the shortest paths by reduced cost (Dijkstra), raises the potentials
by the distances, and sends a maximum flow along all paths that became tight; optimality of the prices is kept
throughout, so that balance is the end. Imbalance of tokens and features is first sent to the roots and groups
by paths *towards* these hubs, then drawn from them: either way a whole forest becomes tight at once, where paths from
all sources to all sinks would funnel through the hub one at a time.

Sources: Ahuja, Magnanti, Orlin 1993, *Network Flows*, section 9.8 (primal-dual); Hoffman 1960 (circulations).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from allocation.arrays import Indices, Mask, Reals
from allocation.solvers.two_sided.circulation import Network
from allocation.solvers.two_sided.dual_ascent import wanted_counts
from allocation.solvers.two_sided.side_prices import Candidates
from allocation.solvers.work_limit import WorkLimit

# Rounding of a reduced cost in units of eps times the magnitudes it is made of: below this an arc counts as tight.
TIGHT = 2.0 * float(np.finfo(np.float64).eps)
# Units out of balance that single paths settle soon enough.
FEW = 32
# Units sent at once: SciPy's maximum flow counts in int32, in sums of two capacities. What is left goes next.
AT_ONCE = 1 << 29


class BlockedError(Exception):
    """Flow cannot leave `inside`, a mask over the nodes: more enters it than the arcs that leave it carry."""

    def __init__(self, inside: Mask) -> None:
        super().__init__("blocked")
        self.inside = inside


@dataclass(frozen=True, eq=False)
class Balanced:
    """An optimal circulation: potentials, matched candidates, phases it took; or one that is not `done`."""

    potentials: Reals
    matched: Mask
    phases: int
    done: bool


class Structure:
    """The entries of arcs, there and back, in the order of a CSR matrix: sorted once it is asked for."""

    def __init__(self, tails: Indices, heads: Indices, n_nodes: int) -> None:
        self.sources, self.targets = np.concatenate([tails, heads]), np.concatenate([heads, tails])
        self.n_nodes = n_nodes

    @cached_property
    def order(self) -> Indices:
        """Which entry of an arc, there or back, each entry of the matrix is."""
        return np.argsort(self.sources * self.n_nodes + self.targets)

    @cached_property
    def indices(self) -> NDArray[np.int32]:
        """Where each entry leads."""
        return self.targets[self.order].astype(np.int32)

    @cached_property
    def indptr(self) -> NDArray[np.int32]:
        """Where the entries of each node begin."""
        counts = np.bincount(self.sources, minlength=self.n_nodes)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    @cached_property
    def keys(self) -> Indices:
        """Both ends of each entry as one number, ascending."""
        keys: Indices = (self.sources * (self.n_nodes + 2) + self.targets)[self.order]
        return keys


class ResidualNetwork:
    """The residual network of a flow on candidate edges. `fixed` tokens and features are matches outside it.

    The arcs are the limits, of profit 0 or a price already charged, and then the candidates, each a pair of opposite
    entries in one CSR structure. `tolerance` times the magnitudes is what counts as a reduced profit of 0.
    """

    def __init__(
        self, network: Network, edges: Candidates, fixed: tuple[Indices, Indices], tolerance: float = TIGHT
    ) -> None:
        self.network = network
        self.tolerance = tolerance
        n_tokens = network.shape[0]
        self.tails = np.concatenate([network.tails, edges.tokens])
        self.heads = np.concatenate([network.heads, edges.features + n_tokens])
        self.profits = np.concatenate([np.zeros(network.tails.size), edges.scores])
        ones = np.ones(edges.scores.size, np.int64)
        self.lower = np.concatenate([network.lower, 0 * ones])
        self.upper = np.concatenate([network.upper, ones])
        self.supply = np.zeros(network.n_nodes, np.int64)
        self.supply[:n_tokens] -= np.bincount(fixed[0], minlength=n_tokens)
        self.supply[n_tokens : network.token_root] += np.bincount(fixed[1], minlength=network.shape[1])
        self.structure = Structure(self.tails, self.heads, network.n_nodes)

    def start(self, potentials: Reals, matched: Mask) -> Indices:
        """The flow that goes with the potentials; `matched` decides on edges exactly at their prices."""
        network = self.network
        n_limits = network.tails.size
        slack = self.slack(potentials)
        reduced = self.reduced(potentials)[n_limits:]
        taken = np.where(np.abs(reduced) <= slack[n_limits:], matched, reduced > 0)
        limits = wanted_counts(network, self.reduced(potentials)[:n_limits], self.counts(taken))
        return np.concatenate([limits, taken.astype(np.int64)])

    def counts(self, taken: Mask) -> Indices:
        """What each limit counts where these candidates are matched."""
        network, n_tokens = self.network, self.network.shape[0]
        held = np.flatnonzero(taken) + network.tails.size
        return network.counts(
            np.bincount(self.tails[held], minlength=n_tokens) - self.supply[:n_tokens],
            np.bincount(self.heads[held] - n_tokens, minlength=network.shape[1])
            + self.supply[n_tokens : network.token_root],
        )

    def fitting(self, prices: Reals, taken: Mask) -> Reals:
        """The prices of limits, 0 where these matches do not reach the bound that the price needs."""
        counts = self.counts(taken)
        missed = np.where(prices > 0, counts < self.network.upper, (prices < 0) & (counts > self.network.lower))
        return np.where(missed, 0.0, prices)

    def reduced(self, potentials: Reals) -> Reals:
        """Reduced profit of every arc."""
        return np.asarray(self.profits + potentials[self.heads] - potentials[self.tails])

    def slack(self, potentials: Reals) -> Reals:
        """Rounding bound of every reduced profit."""
        return self.tolerance * self._sizes(potentials)

    def _sizes(self, potentials: Reals) -> Reals:
        size = np.abs(potentials)
        return np.asarray(np.abs(self.profits) + size[self.heads] + size[self.tails])

    def excess(self, flow: Indices) -> Indices:
        """Inflow minus outflow of every node."""
        n_nodes = self.network.n_nodes
        inflow = np.bincount(self.heads, weights=flow, minlength=n_nodes)
        outflow = np.bincount(self.tails, weights=flow, minlength=n_nodes)
        return np.asarray(self.supply + np.rint(inflow - outflow).astype(np.int64))

    def on_grid(self, grid: float, most: float = math.inf) -> ResidualNetwork:
        """The same residual network, the profits rounded to multiples of `grid`, of which there are at most `most`."""
        coarse = copy.copy(self)
        with np.errstate(over="ignore"):
            coarse.profits = np.clip(np.rint(self.profits / grid), -most, most) * grid
        return coarse

    def imbalance(self, potentials: Reals, matched: Mask) -> int:
        """Units of flow too many or too few, over all nodes, in the flow that goes with the potentials."""
        return int(np.abs(self.excess(self.start(potentials, matched))).sum())

    def longest_way(self, potentials: Reals, matched: Mask) -> float:
        """The longest of the shortest paths that would balance each token and each feature by itself."""
        flow = self.start(potentials, matched)
        excess = self.excess(flow)
        ahead, back = self._costs(potentials, flow)
        longest = 0.0
        leaves = slice(0, self.network.token_root)
        for sign, cost in ((1, np.concatenate([back, ahead])), (-1, np.concatenate([ahead, back]))):
            ends = -sign * excess
            ends[self.network.hubs] = 1
            distance = self._distances(cost[self.structure.order], np.flatnonzero(ends > 0))[leaves][
                sign * excess[leaves] > 0
            ]
            longest = max(longest, distance[np.isfinite(distance)].max(initial=0.0))
        return longest

    def settle(self, potentials: Reals, matched: Mask, work_limit: WorkLimit, patience: float = math.inf) -> Balanced:
        """Phases until every node is balanced; raises `BlockedError` or `SpentError`.

        It ends unbalanced where rounding hides all paths, or once `patience` phases achieve so little that more than
        twice as many would have to follow.
        """
        flow = self.start(potentials, matched)
        phases, last_check, before = 0, 0, math.inf
        while True:
            work_limit.spend(self.tails.size)
            excess = self.excess(flow)
            # lines first, then what they left at the hubs
            of_lines = int(np.abs(excess[: self.network.token_root]).sum())
            unbalanced = of_lines or int(np.abs(excess).sum())
            if unbalanced == 0:
                break
            if unbalanced > before or phases == 0:
                last_check, before = phases, unbalanced
            elif phases >= last_check + patience:
                if unbalanced > max(FEW, 2 * (before - unbalanced)):
                    break
                last_check, before = phases, unbalanced
            moved = self._phase(potentials, flow, excess)
            if moved is None:
                break
            potentials, flow = moved
            phases += 1
        return Balanced(self.snapped(potentials, flow), flow[self.network.tails.size :] > 0, phases, unbalanced == 0)

    def _phase(self, potentials: Reals, flow: Indices, excess: Indices) -> tuple[Reals, Indices] | None:
        """Potentials and flow after the shortest paths; None where rounding hides every path."""
        hubs = self.network.hubs
        sources, sinks = np.maximum(excess, 0), np.maximum(-excess, 0)
        leaves = slice(0, self.network.token_root)
        towards_hubs = bool(sources[leaves].any())
        if towards_hubs:
            sources[hubs] = 0
            sinks[hubs] = sources.sum()
        elif sinks[leaves].any():
            sinks[hubs] = 0
            sources[hubs] = sinks.sum()
        ahead, back = self._costs(potentials, flow)
        cost = np.concatenate([ahead, back])[self.structure.order]
        if towards_hubs:
            # distances to the nearest sink: the same structure read against its arcs
            distance = self._distances(np.concatenate([back, ahead])[self.structure.order], np.flatnonzero(sinks))
            ends = distance[sources > 0]
        else:
            distance = self._distances(cost, np.flatnonzero(sources))
            ends = distance[sinks > 0]
        if not np.isfinite(ends).all():
            raise BlockedError(self._closed(cost, sources, sinks, distance, towards_hubs))
        shift = np.minimum(distance, ends.max())
        shift -= shift[self.network.feature_root]  # the root's potential stays 0, those of small scores stay precise
        potentials = self.snapped(potentials - shift if towards_hubs else potentials + shift, flow)
        looseness = 1.0
        while True:
            pushed = self._push(potentials, flow, sources, sinks, looseness)
            if pushed is not None:
                return potentials, pushed
            # shifts much larger than the potentials they end in leave more rounding than the bound says; whatever
            # is pushed against the prices by that is found and repaired by pricing
            looseness *= 16.0
            if looseness * TIGHT > 1.0:
                return None

    def _costs(self, potentials: Reals, flow: Indices) -> tuple[Reals, Reals]:
        """What one more unit costs on every arc, and one less; inf at its bounds."""
        reduced = self.reduced(potentials)
        ahead = np.where(flow < self.upper, np.maximum(-reduced, 0.0), np.inf)
        return ahead, np.where(flow > self.lower, np.maximum(reduced, 0.0), np.inf)

    def _distances(self, cost: Reals, origins: Indices) -> Reals:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import dijkstra

        n_nodes = self.network.n_nodes
        graph = csr_array((cost, self.structure.indices, self.structure.indptr), shape=(n_nodes, n_nodes))
        return np.asarray(dijkstra(graph, indices=origins, min_only=True))

    def snapped(self, potentials: Reals, flow: Indices) -> Reals:
        """A limit away from its bound must have price 0 to the last bit: its inner node follows its outer one."""
        network = self.network
        limit_flow = flow[: network.tails.size]
        slack = self.slack(potentials)[: network.tails.size]
        prices = self.reduced(potentials)[: network.tails.size]
        wrong = ((prices > 0) & (limit_flow < network.upper)) | ((prices < 0) & (limit_flow > network.lower))
        off = wrong | (np.abs(prices) <= slack)
        if not (prices[off] != 0).any():
            return potentials
        return network.potentials(np.where(off, 0.0, prices) - self.profits[: network.tails.size])

    def _push(
        self, potentials: Reals, flow: Indices, sources: Indices, sinks: Indices, looseness: float
    ) -> Indices | None:
        """The flow with a maximum flow added along tight arcs from the sources to the sinks; None if nothing flows."""
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import maximum_flow

        n_nodes = self.network.n_nodes
        slack = self.slack(potentials) if looseness == 1.0 else looseness * TIGHT / 16.0 * self._sizes(potentials)
        tight = np.abs(self.reduced(potentials)) <= slack
        room = np.concatenate([np.where(tight, self.upper - flow, 0), np.where(tight, flow - self.lower, 0)])[
            self.structure.order
        ]
        used = np.flatnonzero(room)
        starts = np.searchsorted(used, self.structure.indptr)
        source_nodes, sink_nodes = np.flatnonzero(sources), np.flatnonzero(sinks)
        sent, received = _at_once(sources[source_nodes], sinks[sink_nodes])
        from_node = np.repeat(np.arange(n_nodes), np.diff(starts))
        graph = csr_matrix(
            (
                np.concatenate([np.minimum(room[used], AT_ONCE), sent, received]).astype(np.int32),
                (
                    np.concatenate([from_node, np.full(source_nodes.size, n_nodes), sink_nodes]),
                    np.concatenate([self.structure.indices[used], source_nodes, np.full(sink_nodes.size, n_nodes + 1)]),
                ),
            ),
            shape=(n_nodes + 2, n_nodes + 2),
        )
        result = maximum_flow(graph, n_nodes, n_nodes + 1)
        if result.flow_value == 0:
            return None
        pushed = result.flow.tocoo()
        real = (pushed.data > 0) & (pushed.row < n_nodes) & (pushed.col < n_nodes)
        keys = pushed.row[real].astype(np.int64) * (n_nodes + 2) + pushed.col[real]
        entry = self.structure.order[np.searchsorted(self.structure.keys, keys)]
        flow = flow.copy()
        n_arcs = self.tails.size
        np.add.at(flow, entry % n_arcs, np.where(entry < n_arcs, 1, -1) * pushed.data[real].astype(np.int64))
        return flow

    def _closed(self, cost: Reals, sources: Indices, sinks: Indices, distance: Reals, towards_hubs: bool) -> Mask:
        """A set that blocked excess cannot leave, or the complement of one that reaches a blocked deficit."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order

        if not towards_hubs:
            # nodes that the sources cannot reach, and whose deficit nothing can fill
            return np.isfinite(distance)
        n_nodes = self.network.n_nodes
        residual = np.isfinite(cost)
        rows = np.repeat(np.arange(n_nodes), np.diff(self.structure.indptr))[residual]
        graph = csr_array((np.ones(rows.size), (rows, self.structure.indices[residual])), shape=(n_nodes, n_nodes))
        origin = int(np.flatnonzero((sources > 0) & ~np.isfinite(distance))[0])
        inside = np.zeros(n_nodes, bool)
        inside[breadth_first_order(graph, origin, return_predecessors=False)] = True
        return inside


def _at_once(sources: Indices, sinks: Indices) -> tuple[Indices, Indices]:
    """What of these amounts may go at once. Where it is not all, the first of the side that has less in all go.

    That side is of the lines, each of which has a tight path, or of sinks, which all are reached.
    """
    fewer = sources if sources.sum() < sinks.sum() else sinks
    first = np.clip(AT_ONCE - (np.cumsum(fewer) - fewer), 0, fewer)
    rest = np.minimum(sinks if fewer is sources else sources, AT_ONCE)
    return (first, rest) if fewer is sources else (rest, first)
