"""Scores a block of features at a time, for dictionaries whose matrix of scores no memory holds.

The best matches of a batch are among the best of every block of features: as many of them as the limits take, and one
more, which tells the price. Blocks are computed, searched and forgotten; the few candidates together are one problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import allocation as al
from sae_torch.errors import InputError
from sae_torch.rough_scores import RoughScores


@dataclass(eq=False)
class ChunkedScores:
    """The (tokens, features) matrix of scores, computed anew in blocks of features each time it is read.

    Attributes
    ----------
    x : (tokens, d_model)
    product : function of x, start and stop
        The scores of the features from `start` to before `stop`.
    n_features, chunk : int
        Features in all, and of a block.
    dtype : torch.dtype
        Of the scores.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.score_blocks import ChunkedScores
    >>> W = torch.tensor([[1.0, -1.0, 2.0]])
    >>> scores = ChunkedScores(torch.tensor([[1.0], [2.0]]), lambda x, a, b: x @ W[:, a:b], 3, 2, torch.float32)
    >>> al.solve(scores.candidates({"budget": 2})).features
    array([2, 2])
    """

    x: Tensor
    product: Callable[[Tensor, int, int], Tensor | RoughScores]
    n_features: int
    chunk: int
    dtype: torch.dtype
    # flat positions, ascending, and scores of what was last found
    _found: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens, features."""
        return self.x.shape[0], self.n_features

    @property
    def ndim(self) -> int:
        """Two, as a matrix has."""
        return 2

    @property
    def device(self) -> torch.device:
        """Where blocks are computed."""
        return self.x.device

    def numel(self) -> int:
        """Entries of the matrix."""
        return self.shape[0] * self.shape[1]

    def detach(self) -> ChunkedScores:
        """Itself: no gradient flows through blocks."""
        return self

    def blocks(self) -> Iterator[tuple[int, int, Tensor | RoughScores]]:
        """First feature, the one past the last, and the scores of every block."""
        with torch.no_grad():
            for start in range(0, self.n_features, self.chunk):
                stop = min(start + self.chunk, self.n_features)
                yield start, stop, self.product(self.x, start, stop)

    def __getitem__(self, at: slice | tuple[Tensor, Tensor]) -> Any:
        """The scores of some tokens, in blocks again; or those of matches that were last found."""
        if isinstance(at, slice):
            return ChunkedScores(self.x[at], self.product, self.n_features, self.chunk, self.dtype)
        flat = at[0] * self.n_features + at[1]
        known, scores = self._found or (flat[:0], flat[:0])
        place = torch.searchsorted(known, flat).clamp_max(max(len(known) - 1, 0))
        if len(flat) and not (len(known) and bool((known[place] == flat).all())):
            raise InputError("scores: in blocks of features only those of the last selection can be read")
        return scores[place] if len(flat) else torch.zeros(0, dtype=self.dtype, device=self.device)

    def candidates(
        self, limits: dict[str, Any], weights: Tensor | None = None, part: al.Part | None = None
    ) -> al.Problem:
        """The problem with these limits of one side, on edges that hold its optimum and its prices.

        With weights per feature, scores times weights decide. A part of a problem has the limits of the whole.
        """
        edges: list[tuple[Any, ...]] = []
        scores = []
        first = 0 if part is None or part.features is None else part.features[0]
        for start, stop, block in self.blocks():
            weighted = block
            if weights is not None:
                if not bool(weights[start:stop].any()):
                    continue
                weighted = _weighted(block, weights[start:stop].to(block.dtype))
            stated = weighted.rough if isinstance(weighted, RoughScores) else weighted
            found = al.solve(al.Problem(stated, **_one_more(limits, first + start, first + stop))).on_host()
            here = [torch.from_numpy(ends).to(self.device) for ends in (found.tokens, found.features)]
            scores.append(block[here[0], here[1]])
            edges.append((found.tokens, found.features + start, found.values))
        if not edges:
            none = np.zeros(0, np.int64)
            return al.Problem.from_edges(none, none, np.zeros(0, np.float32), self.shape, **limits, part=part)
        tokens, features, values = (np.concatenate(part) for part in zip(*edges, strict=True))
        self._keep(torch.from_numpy(tokens * self.n_features + features).to(self.device), torch.cat(scores))
        return al.Problem.from_edges(tokens, features, values, self.shape, **limits, part=part)

    def above(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and features of the entries above their feature's threshold, or above one threshold; sorted."""
        flat, scores = [], []
        for start, stop, block in self.blocks():
            limit = theta[start:stop] if theta.ndim else theta
            if isinstance(block, RoughScores):
                tokens, features = block.above(limit)
            else:
                tokens, features = (block > limit).nonzero(as_tuple=True)
            flat.append(tokens * self.n_features + features + start)
            scores.append(block[tokens, features])
        known = self._keep(torch.cat(flat), torch.cat(scores))
        return known // self.n_features, known % self.n_features

    def count_above(self, theta: Tensor, count: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """Entries of every column above its threshold, or of all above one; `count` counts those of a block."""
        parts = [count(block, theta[a:b] if theta.ndim else theta) for a, b, block in self.blocks()]
        return torch.cat(parts) if theta.ndim else torch.stack(parts).sum()

    def _keep(self, flat: Tensor, scores: Tensor) -> Tensor:
        """Remember scores by their flat positions, which are returned in order."""
        order = torch.argsort(flat)
        self._found = flat[order], scores[order]
        return self._found[0]


def _weighted(block: Tensor | RoughScores, weights: Tensor) -> Tensor | RoughScores:
    return block.part(slice(None), None, weights) if isinstance(block, RoughScores) else block * weights


def _one_more(limits: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The limits of a block, each for one more match than the batch's; a budget only where nothing else limits."""
    if "token_caps" in limits:
        return {"token_caps": np.asarray(limits["token_caps"]) + 1}
    if "feature_caps" in limits:
        caps = np.asarray(limits["feature_caps"])
        return {"feature_caps": (caps[start:stop] if caps.ndim else caps) + 1}
    return {"budget": limits["budget"] + 1}


# What an autoencoder hands to whoever reads scores.
Scores = Tensor | RoughScores | ChunkedScores
