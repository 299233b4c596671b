"""Token choice: each token takes its best k features."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import allocation as al
from sae_torch.choices.choice import Choice, require_matrix
from sae_torch.errors import InputError
from sae_torch.matches import PaddedMatches, matches_of
from sae_torch.ops.compiling import no_compile
from sae_torch.rough_scores import RoughScores
from sae_torch.score_blocks import Scores


class TokenChoice(Choice):
    """Each token takes its best k features: the TopK activation.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_j A_ij <= k for every token i

    Parameters
    ----------
    k : int
        Features per token.

    Source: Gao et al. 2024, arXiv 2406.04093. Batch-free as it is.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> st.TokenChoice(k=1).mask(torch.tensor([[0.5, 2.0], [3.0, 1.0]])).tolist()
    [[False, True], [True, False]]
    """

    supports_padded = True
    supports_graph = True
    supports_rough = True
    supports_parts = True

    def __init__(self, k: int) -> None:
        super().__init__(k)
        if int(k) != k:
            raise InputError(f"k: token choice takes a whole number of features per token, found {k!r}")

    def set_budget(self, k: float) -> None:
        """The nearest whole number of features per token, at least 1."""
        super().set_budget(k)
        self.k = max(1, round(self.k))

    @property
    def token_k(self) -> int:
        """K."""
        return int(self.k)

    def limits(self, tokens: int, advance: bool = False) -> dict[str, Any]:
        """At most k features per token."""
        return {"token_caps": int(self.k)}

    @no_compile
    def select(self, scores: Scores, observe: bool = False) -> tuple[Tensor, Tensor]:
        """The same in both modes."""
        require_matrix(scores)
        world = self.world if self.training else self.world.own
        self.build(world.width(scores.shape[1]))
        solution = al.solve(self._stated(scores.detach(), False, world.part(scores.shape)), ranks=world.ranks)
        if isinstance(scores, RoughScores):
            scores.keep(solution)
        return matches_of(solution)

    def observe_padded(self, scores: Tensor, padded: PaddedMatches) -> None:
        """There is nothing to learn."""

    def batch_free(self) -> Choice:
        """Token choice needs no threshold."""
        return self
