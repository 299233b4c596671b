"""Sparse codes: which features are active on which tokens, and how strongly. The type that flows everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
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
    # where tokens and features begin: computed when first asked for, shared by all codes with the same matches
    _layout: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def token_offsets(self) -> Tensor:
        """Where the matches of each token begin; one more entry closes the last: (tokens + 1,) int64."""
        if "token_offsets" not in self._layout:
            self._layout["token_offsets"] = _offsets(self.tokens, self.shape[0])
        return self._layout["token_offsets"]

    @property
    def feature_order(self) -> Tensor:
        """The order that sorts matches by (feature, token): (matches,) int64."""
        if "feature_order" not in self._layout:
            self._layout["feature_order"] = _stable_order(self.features, self.shape[1])
        return self._layout["feature_order"]

    @property
    def feature_offsets(self) -> Tensor:
        """Where each feature begins in that order: (features + 1,) int64."""
        if "feature_offsets" not in self._layout:
            self._layout["feature_offsets"] = _offsets(self.features, self.shape[1])
        return self._layout["feature_offsets"]

    @property
    def token_counts(self) -> Tensor:
        """Active features of every token: (tokens,) int64."""
        return self.token_offsets.diff()

    @property
    def feature_counts(self) -> Tensor:
        """Tokens on which every feature is active: (features,) int64."""
        return self.feature_offsets.diff()

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
        return SparseCodes(self.tokens, self.features, values, self.shape, self._layout)

    def among(self, start: int, stop: int) -> SparseCodes:
        """The matches with features from `start` to before `stop`."""
        kept = ((self.features >= start) & (self.features < stop)).nonzero().squeeze(1)
        return SparseCodes(self.tokens[kept], self.features[kept], self.values[kept], self.shape)

    def detach(self) -> SparseCodes:
        """The same codes without gradient."""
        return self.with_values(self.values.detach())

    def __repr__(self) -> str:
        size = f"{self.shape[0]} tokens x {self.shape[1]} features"
        return f"SparseCodes({size}, {len(self)} matches, {self.values.dtype}, {self.values.device})"


def _offsets(groups: Tensor, count: int) -> Tensor:
    sizes = torch.bincount(groups, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _stable_order(groups: Tensor, count: int) -> Tensor:
    if groups.device.type == "cpu" and count <= 1 << 16:  # NumPy sorts 16-bit integers by radix, several times faster
        return torch.from_numpy(np.argsort(groups.numpy().astype(np.uint16), kind="stable"))
    return torch.argsort(groups, stable=True)
