"""Sparse codes: which features are active on which tokens, and how strongly. The type that flows everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from sae_torch.dense import spread
from sae_torch.errors import InputError

ADVICE = (
    "expected a dense matrix, found SparseCodes: call codes.to_dense() first, or decode them as they are with "
    "sae_torch.ops.decode(codes, W_dec, b_dec)"
)


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
    count : () int64, optional
        How many of the entries are matches, known to the device alone: the others, at the end, are set to 0 and every
        op ignores them, so that no step waits for a number. None where all are. `trim` cuts them off.
    axes : tuple of int, optional
        What the tokens were before they became one axis, (batch, sequence) for instance: `to_dense` has these again.

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
    count: Tensor | None = None
    # where tokens and features begin: computed when first asked for, shared by all codes with the same matches
    _layout: dict[str, Tensor] = field(default_factory=dict, repr=False)
    axes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.count is None:
            return
        known = "within" in self._layout
        if not known:
            self._layout["within"] = torch.arange(len(self), device=self.values.device) < self.count
        for name in ("values",) if known else ("tokens", "features", "values"):
            object.__setattr__(self, name, torch.where(self._layout["within"], getattr(self, name), 0))

    def __len__(self) -> int:
        """Entries; of them `count` are matches."""
        return self.values.shape[0]

    def trim(self) -> SparseCodes:
        """The matches alone; waits for the device once, where their number is not known yet."""
        if self.count is None:
            return self
        matches = slice(0, int(self.count))
        matched = self.tokens[matches], self.features[matches], self.values[matches]
        return SparseCodes(*matched, self.shape, axes=self.axes)

    @property
    def token_offsets(self) -> Tensor:
        """Where the matches of each token begin; one more entry closes the last: (tokens + 1,) int64."""
        if "token_offsets" not in self._layout:
            self._layout["token_offsets"] = _offsets(self._parked("tokens", 0), self.shape[0])
        return self._layout["token_offsets"]

    @property
    def feature_order(self) -> Tensor:
        """The order that sorts matches by (feature, token): (matches,) int64."""
        if "feature_order" not in self._layout:
            self._layout["feature_order"] = _stable_order(self._parked("features", 1), self.shape[1])
        return self._layout["feature_order"]

    @property
    def feature_offsets(self) -> Tensor:
        """Where each feature begins in that order: (features + 1,) int64."""
        if "feature_offsets" not in self._layout:
            self._layout["feature_offsets"] = _offsets(self._parked("features", 1), self.shape[1])
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
        """The (tokens, features) matrix of activations, with gradient; of the shape that the scores had."""
        # entries past the count add 0 to the first place
        dense = spread(self.values, self.tokens, self.features, self.shape, adding=self.count is not None)
        return dense if self.axes is None else dense.view(*self.axes, self.shape[1])

    def with_values(self, values: Tensor) -> SparseCodes:
        """The same matches with other values."""
        return SparseCodes(self.tokens, self.features, values, self.shape, self.count, self._layout, self.axes)

    def feature_range(self, start: int, stop: int) -> SparseCodes:
        """The matches with features from `start` to before `stop`."""
        inside = (self.features >= start) & (self.features < stop)
        if self.count is None:
            order, count = inside.nonzero().squeeze(1), None
        else:
            inside &= self._layout["within"]
            order, count = torch.argsort(inside.logical_not(), stable=True), inside.sum()
        matches = self.tokens[order], self.features[order], self.values[order]
        return SparseCodes(*matches, self.shape, count, axes=self.axes)

    def detach(self) -> SparseCodes:
        """The same codes without gradient."""
        return self.with_values(self.values.detach())

    def __repr__(self) -> str:
        size = f"{self.shape[0]} tokens x {self.shape[1]} features"
        matches = (
            f"{len(self)} match{'' if len(self) == 1 else 'es'}"
            if self.count is None
            else f"at most {len(self)} matches"
        )
        return f"SparseCodes({size}, {matches}, {self.values.dtype}, {self.values.device})"

    def _refuse(self, *_: Any) -> NoReturn:
        raise InputError(f"codes: {ADVICE}")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __matmul__ = __rmatmul__ = __pow__ = __neg__ = __abs__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __getitem__ = __array__ = _refuse

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        """Torch functions and modules, which take matrices."""
        name = getattr(function, "__name__", "")
        raise InputError(f"{name}: {ADVICE}" if name else f"codes: {ADVICE}")

    if not TYPE_CHECKING:  # a type checker would take any name for one of these

        def __getattr__(self, name: str) -> Any:
            is_of_tensors = not name.startswith("_") and hasattr(Tensor, name)
            raise AttributeError(f"codes.{name}: {ADVICE}" if is_of_tensors else f"SparseCodes has no {name!r}")

    def _parked(self, name: str, side: int) -> Tensor:
        """Tokens or features, those of no match behind all others."""
        ends: Tensor = getattr(self, name)
        return ends if self.count is None else torch.where(self._layout["within"], ends, self.shape[side])


def _offsets(groups: Tensor, count: int) -> Tensor:
    """Where each group begins in order; groups from `count` on are behind the end."""
    sizes = _counts(groups, count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _counts(groups: Tensor, count: int) -> Tensor:
    if groups.device.type == "cpu":
        return torch.bincount(groups, minlength=count)[:count]
    return _counts_by_adding(groups, count)  # a GPU's bincount waits for the largest number


def _counts_by_adding(groups: Tensor, count: int) -> Tensor:
    return groups.new_zeros(count + 1).scatter_add_(0, groups, torch.ones_like(groups))[:count]


def _stable_order(groups: Tensor, count: int) -> Tensor:
    if groups.device.type == "cpu" and count < 1 << 16:  # NumPy sorts 16-bit integers by radix, several times faster
        return torch.from_numpy(np.argsort(groups.numpy().astype(np.uint16), kind="stable"))
    return torch.argsort(groups, stable=True)
