"""Sparse codes: which features are active on which tokens, and how strongly. The type that flows everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """The active features of a batch, sorted by (token, feature).

    ::

        A_(tokens[e], features[e]) = values[e],   every other entry 0

    Attributes
    ----------
    tokens, features : (matches,) int64
        The two ends of every match.
    values : (matches,) float
        Feature activations; gradients flow through them.
    shape : (tokens, features)

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> codes = st.TokenChoice(k=1)(torch.tensor([[0.5, 2.0], [3.0, 1.0]]))
    >>> codes.features.tolist(), codes.values.tolist()
    ([1, 0], [2.0, 3.0])
    """

    tokens: Tensor
    features: Tensor
    values: Tensor
    shape: tuple[int, int]

    def __len__(self) -> int:
        return self.values.shape[0]

    @cached_property
    def token_offsets(self) -> Tensor:
        """Where the matches of each token begin; one more entry closes the last: (tokens + 1,) int64."""
        return offsets(self.tokens, self.shape[0])

    @cached_property
    def by_feature(self) -> tuple[Tensor, Tensor]:
        """The order that sorts matches by (feature, token), and where each feature begins in it."""
        return torch.argsort(self.features, stable=True), offsets(self.features, self.shape[1])

    @property
    def token_counts(self) -> Tensor:
        """Active features of every token: (tokens,) int64."""
        return self.token_offsets.diff()

    @property
    def feature_counts(self) -> Tensor:
        """Tokens on which every feature is active: (features,) int64."""
        return torch.bincount(self.features, minlength=self.shape[1])

    @property
    def l0(self) -> float:
        """Mean number of features with a positive value per token."""
        return float((self.values > 0).sum()) / max(self.shape[0], 1)

    def to_dense(self) -> Tensor:
        """The (tokens, features) matrix of activations, with gradient."""
        dense = self.values.new_zeros(self.shape)
        return dense.index_put((self.tokens, self.features), self.values)

    def with_values(self, values: Tensor) -> SparseCodes:
        """The same matches with other values."""
        return SparseCodes(self.tokens, self.features, values, self.shape)

    def detach(self) -> SparseCodes:
        """The same codes without gradient."""
        return self.with_values(self.values.detach())

    def __repr__(self) -> str:
        size = f"{self.shape[0]} tokens x {self.shape[1]} features"
        return f"SparseCodes({size}, {len(self)} matches, {self.values.dtype}, {self.values.device})"


def offsets(groups: Tensor, count: int) -> Tensor:
    """Where each of `count` groups begins when members are sorted by group, with the total at the end."""
    sizes = torch.bincount(groups, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
