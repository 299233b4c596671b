"""Scores from a cheap product that decide as the exact ones do: a bound says where it must be asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import allocation as al
from sae_torch.exact_products import ExactProducts

# Entries of the encoder that stay in a CPU's cache while they are rounded.
BLOCK_ENTRIES = 1 << 18
# Unit roundoff of what a product is stored in.
UNIT = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}
# Norms between which nothing over- or underflows on the way to a bound.
TINY, HUGE = 1e-12, 1e12
Ends = NDArray[np.int64]


@dataclass(eq=False)
class RoughScores:
    """The (tokens, features) matrix of scores, rough in memory and exact wherever somebody asks.

    Attributes
    ----------
    rough : al.Rough
        What `allocation` solves.
    near : (tokens, features)
        The product, in bfloat16 or float32.
    exact : function of (tokens, features)
        The scores of pairs, as tensors.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.exact_products import ExactProducts
    >>> from sae_torch.rough_scores import rough_scores
    >>> draw = torch.Generator().manual_seed(0)
    >>> x, w = torch.randn(50, 8, generator=draw), torch.randn(20, 8, generator=draw)
    >>> products = ExactProducts(x, w, torch.zeros(20), torch.ones(20))
    >>> scores = rough_scores(products, torch.bfloat16)
    >>> theta = torch.full((20,), 2.0)
    >>> [len(part) for part in scores.above(theta)] == 2 * [int((products.all() > 2).sum())]
    True
    """

    rough: al.Rough
    near: Tensor
    exact: _Asked
    dtype: torch.dtype = field(default=torch.float32, init=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens, features."""
        return self.rough.shape

    @property
    def ndim(self) -> int:
        """Two, as a matrix has."""
        return 2

    @property
    def device(self) -> torch.device:
        """Main memory."""
        return self.near.device

    def __len__(self) -> int:
        """Tokens."""
        return self.shape[0]

    def numel(self) -> int:
        """Entries of the matrix."""
        return self.near.numel()

    def detach(self) -> RoughScores:
        """Itself: no gradient flows through it."""
        return self

    def __getitem__(self, at: slice | tuple[Tensor, Tensor]) -> Any:
        """Some tokens; or the scores of pairs."""
        if isinstance(at, tuple):
            return self.exact(*at)
        return self.part(at, None)

    def part(self, tokens: slice, features: Tensor | None, factors: Tensor | None = None) -> RoughScores:
        """The scores of some tokens and features; times a factor of each feature, rounded once more."""
        near, rough = self.near[tokens], self.rough
        of_features, relative = rough.per_feature, rough.relative
        first, _, step = tokens.indices(self.shape[0])
        if features is not None:
            near, of_features = near[:, features], of_features[features.numpy()]
        if factors is not None:
            factors = factors.float()
            near = near.float().mul_(factors)
            # the smallest step between two float32 too, of which products next to 0 may be off
            of_features = of_features * factors.double().abs().numpy() + 2.0**-148 / rough.per_token.min(initial=np.inf)
            relative += 2.0**-22  # rounded here and in the exact scores
        exact = _Part(self.exact, first, step, features, factors)
        bound = (rough.per_token[tokens], of_features, relative)
        return RoughScores(al.Rough(near, bound, exact.of_arrays), near, exact)

    def above(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and features of the entries above their feature's threshold, or above one threshold; sorted."""
        tokens, features, values = al.exceeding(self.rough, theta.double().numpy())
        ends = torch.from_numpy(tokens), torch.from_numpy(features)
        self.exact.keep(*ends, torch.from_numpy(values))
        return ends

    def count_above(self, theta: Tensor, count: object = None) -> Tensor:
        """Entries of every column above its threshold, or of all above one."""
        counts = torch.from_numpy(al.count_exceeding(self.rough, theta.double().numpy()))
        return counts if theta.ndim else counts.sum()

    @cached_property
    def dense(self) -> Tensor:
        """Every score, exact: (tokens, features)."""
        return self.exact.every(*self.shape)

    def keep(self, solution: al.Solution) -> None:
        """Remember the scores of a solution's matches: they are asked for next."""
        arrays = (solution.tokens, solution.features, solution.values)
        self.exact.keep(*(torch.from_numpy(np.asarray(part)) for part in arrays))


class _Asked:
    """The exact scores of pairs, with those of the last selection at hand."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def keep(self, tokens: Tensor, features: Tensor, values: Tensor) -> None:
        """Remember scores that were found with a selection."""
        self._last = (tokens, features, values)

    def __call__(self, tokens: Tensor, features: Tensor) -> Tensor:
        if self._last is not None:
            same = all(torch.equal(one, other) for one, other in zip(self._last, (tokens, features), strict=False))
            if same:
                return self._last[2].clone()
        return self.asked(tokens, features)

    def asked(self, tokens: Tensor, features: Tensor) -> Tensor:
        """The scores of pairs."""
        raise NotImplementedError

    def every(self, tokens: int, features: int) -> Tensor:
        """All scores."""
        ends = torch.arange(tokens).repeat_interleave(features), torch.arange(features).repeat(tokens)
        return self.asked(*ends).view(tokens, features)

    def of_arrays(self, tokens: Ends, features: Ends) -> Tensor:
        """The same, as `allocation` asks."""
        return self.asked(torch.from_numpy(tokens), torch.from_numpy(features))


class _Products(_Asked):
    """Those of an encoder."""

    def __init__(self, products: ExactProducts) -> None:
        super().__init__()
        self.products = products

    def asked(self, tokens: Tensor, features: Tensor) -> Tensor:
        return self.products.at(tokens, features)

    def every(self, tokens: int, features: int) -> Tensor:
        return self.products.all()


class _Part(_Asked):
    """Those of some tokens and features of a larger matrix, times a factor of each feature."""

    def __init__(
        self, whole: _Asked, first: int, step: int, features: Tensor | None, factors: Tensor | None = None
    ) -> None:
        super().__init__()
        self.whole, self.first, self.step, self.features, self.factors = whole, first, step, features, factors

    def asked(self, tokens: Tensor, features: Tensor) -> Tensor:
        there = features if self.features is None else self.features[features]
        values = self.whole.asked(tokens * self.step + self.first, there)
        return values if self.factors is None else values * self.factors[features]


def rough_scores(products: ExactProducts, dtype: torch.dtype, memory: Tensor | None = None) -> RoughScores | Tensor:
    """The scores of an encoder from a product in `dtype`, written into `memory` where that fits.

    Where numbers are so large or small that a bound would over- or underflow, every score is computed exactly.

    Both factors are rounded, the bias rides along as two more columns, and what rounding removed is measured:

    ::

        | S_ij - near_ij |  <=  ||dc_i|| ||w_j|| + ||c_i|| ||dw_j|| + adding up + storing

    Parameters
    ----------
    products : ExactProducts
    dtype : torch.bfloat16 or torch.float32
    memory : (tokens, features) tensor, optional

    Returns
    -------
    RoughScores, or (tokens, features) float32
    """
    of_tokens, of_features = products.lengths
    sizes = [part.double().abs() for part in (of_tokens, of_features, products.bias, products.norms)]
    if not all(part.numel() and bool((part < HUGE).all()) for part in sizes) or not bool((of_tokens > TINY).any()):
        return products.all()
    product = _in_bfloat16 if dtype == torch.bfloat16 else _in_float32
    with torch.autocast("cpu", enabled=False):  # it would round once more
        near, bound = product(products, _weight_of_bias(of_tokens, products.centred.shape[1]), memory)
    relative = 2.0 * UNIT[dtype] if dtype == torch.float32 else UNIT[dtype] + 2.0**-21
    exact = _Products(products)
    of_tokens, of_features = bound
    return RoughScores(al.Rough(near, (of_tokens.numpy(), of_features.numpy(), relative), exact.of_arrays), near, exact)


def _weight_of_bias(of_tokens: Tensor, d_model: int) -> float:
    """What stands beside the activations for the bias: a usual activation, so that no bound hangs on the units."""
    usual = float(of_tokens[of_tokens > TINY].median()) / math.sqrt(d_model)
    return 2.0 ** round(math.log2(max(usual, TINY)))


def _in_float32(products: ExactProducts, weight: float, memory: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The product, and a bound (per_token, per_feature) on what adding up in any order changes."""
    centred, bias = products.centred, products.bias * products.norms
    encoder = products.encoder * products.norms[:, None]
    near = torch.mm(centred, encoder.T, out=_fitting(memory, products, torch.float32)).add_(bias)
    of_tokens, of_features = products.lengths
    of_features = torch.hypot(of_features * products.norms, bias.double() / weight)
    per_feature = of_features * _adding_up(products) + _flushed(products, weight)
    return near, (torch.hypot(of_tokens, of_tokens.new_tensor(weight)), per_feature)


def _in_bfloat16(products: ExactProducts, weight: float, memory: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The product of both factors rounded to bfloat16, the bias in two more columns, and a bound on its error.

    ::

        x . w - x^ . w^ = dx . w + x^ . dw,     |.| <= (|dx| / s + |x^|) max(s |w|, |dw|)   for every s > 0
    """
    centred, (of_tokens, of_features) = products.centred, products.lengths
    d_model = centred.shape[1]
    left = torch.full((len(centred), d_model + 2), weight, dtype=torch.bfloat16, device=centred.device)
    left[:, :d_model] = centred
    removed = (centred - left[:, :d_model]).norm(dim=1, dtype=torch.float64)
    right, residues = _rounded_encoder(products, weight)
    of_features = torch.hypot(of_features * products.norms, (products.bias * products.norms).double() / weight)
    share = float((residues / of_features.clamp_min(TINY**2)).median().clamp_min(2.0**-12))
    per_token = (removed / share + torch.hypot(of_tokens, of_tokens.new_tensor(2.0 * weight))) * (1 + 2.0**-7)
    per_feature = torch.maximum(share * of_features, residues) + of_features * _adding_up(products)
    per_feature += _flushed(products, weight)
    near = torch.mm(left, right.T, out=_fitting(memory, products, torch.bfloat16))
    return near, (per_token, per_feature * (1 + 2.0**-9))


def _rounded_encoder(products: ExactProducts, weight: float) -> tuple[Tensor, Tensor]:
    """The encoder times the decoder's norms with the bias beside it, in bfloat16; norms of what rounding removed."""
    encoder, norms = products.encoder, products.norms
    n_features, d_model = encoder.shape
    right = torch.empty(n_features, d_model + 2, dtype=torch.bfloat16, device=encoder.device)
    residues = torch.empty(n_features, dtype=torch.float64, device=encoder.device)
    step = max(1, BLOCK_ENTRIES // d_model)
    for rows in (slice(start, start + step) for start in range(0, n_features, step)):
        scaled = encoder[rows] * norms[rows, None]
        right[rows, :d_model] = scaled
        residues[rows] = scaled.sub_(right[rows, :d_model]).norm(dim=1, dtype=torch.float64)
    bias = products.bias * norms / weight  # a power of two
    right[:, d_model] = bias
    right[:, d_model + 1] = bias - right[:, d_model]
    rest = (bias - right[:, d_model].float() - right[:, d_model + 1].float()).double()
    # the products with the norms were themselves rounded
    rounding = 2.0**-23 * products.lengths[1] * norms + 2.0**-23 * bias.double().abs()
    return right, torch.hypot(residues * (1 + 2.0**-10), rest) + rounding


def _flushed(products: ExactProducts, weight: float) -> float:
    """What hardware may lose that takes numbers next to 0 for 0, in factors and in products."""
    return products.centred.shape[1] * 2.0**-120 * (1 + 1 / weight)


def _adding_up(products: ExactProducts) -> float:
    """Share of the factors' norms by which a sum in float32 may be off, in any order."""
    return (products.centred.shape[1] + 16) * 2.0**-24 * (1 + 2.0**-6)


def _fitting(memory: Tensor | None, products: ExactProducts, dtype: torch.dtype) -> Tensor | None:
    shape = (len(products.centred), len(products.encoder))
    return memory if memory is not None and memory.shape == shape and memory.dtype == dtype else None
