"""Scores that do not depend on who adds them up: the float32 nearest to a sum of products, whatever its order.

A BLAS, a number of threads or a GPU each add up a product in an order of their own, and float32 scores differ with it.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sae_torch.errors import InputError
from sae_torch.ops.segments import sampled_dots

# Entries of a block of products that is looked at once more, of a block of a matrix, and of a part of the encoder.
RECHECKED, BLOCK_ENTRIES, ENCODER_ENTRIES = 1 << 20, 1 << 22, 1 << 19


class ExactProducts:
    """The encoder's scores of single pairs, or of all, defined to the last bit.

    ::

        S_ij = fl( fl( c_i . w_j + b_j ) * n_j ),   fl(x) the float32 nearest to x, ties to even

    with the sum taken exactly before it is rounded. It is added up in float64 first; where the error of that leaves two
    float32 in question, which is rare, without any error.

    Parameters
    ----------
    centred : (tokens, d_model) float32
        Activations less the decoder's bias, rounded.
    encoder : (features, d_model) float32
    bias, norms : (features,) float32
        Of the encoder, and the lengths of the decoder's rows.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.exact_products import ExactProducts
    >>> one = torch.ones(1)
    >>> products = ExactProducts(torch.tensor([[1e8, 1.0, -1e8]]), torch.ones(1, 3), 0 * one, one)
    >>> float(products.at(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)))
    1.0
    """

    def __init__(self, centred: Tensor, encoder: Tensor, bias: Tensor, norms: Tensor) -> None:
        self.centred, self.encoder, self.bias, self.norms = centred, encoder, bias, norms
        self._versions = _versions(encoder, bias)

    @cached_property
    def lengths(self) -> tuple[Tensor, Tensor]:
        """Norms of tokens and of the encoder's rows, float64, not below the true ones."""
        # in float64, where squares neither over- nor underflow
        of_tokens, of_features = (part.norm(dim=1, dtype=torch.float64) for part in (self.centred, self.encoder))
        return of_tokens * (1 + 2.0**-30), of_features * (1 + 2.0**-30)

    @cached_property
    def _centred(self) -> Tensor:
        return self.centred.double()

    def _errors(self, tokens: Tensor, features: Tensor) -> Tensor:
        """By how much a sum in float64, in any order, may be off."""
        of_tokens, of_features = self.lengths
        size = of_tokens[tokens] * of_features[features] + self.bias[features].double().abs()
        return size.mul_((self.centred.shape[1] + 4) * 2.0**-53)

    @cached_property
    def _largest_error(self) -> Tensor:
        of_tokens, of_features = self.lengths
        size = of_tokens.max() * of_features.max() + self.bias.abs().max().double()
        return size * ((self.centred.shape[1] + 4) * 2.0**-53)

    def at(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Scores of pairs, (pairs,) float32."""
        self._require_unchanged()
        sums = self._sums(tokens, features).add_(self.bias[features])
        return self._rounded(sums, tokens, features).mul_(self.norms[features])

    def _require_unchanged(self) -> None:
        if _versions(self.encoder, self.bias) != self._versions:
            raise InputError(
                "scores: expected the weights of the forward pass, found that they have changed since; run it again"
            )

    def _sums(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Inner products in float64: feature by feature, for a part of the encoder that a cache holds in float64."""
        order = _stable_order(features, len(self.encoder))
        tokens, features = tokens[order], features[order]
        step = max(1, ENCODER_ENTRIES // self.encoder.shape[1])
        starts = torch.arange(0, len(self.encoder) + step, step)
        ends = torch.searchsorted(features, starts).tolist()
        sums = torch.empty(len(tokens), dtype=torch.float64)
        one_bag = torch.zeros(1, dtype=torch.int64)
        for first, start, stop in zip(starts.tolist(), ends, ends[1:], strict=False):
            here = slice(start, stop)
            if start == stop:
                continue
            if stop - start < step // 4:  # not worth the rest of the part
                rows, at = self.encoder[features[here]].double(), torch.arange(stop - start)
            else:
                rows, at = self.encoder[first : first + step].double(), features[here] - first
            sums[order[here]] = sampled_dots(self._centred, rows, tokens[here], at, one_bag)
        return sums

    def all(self) -> Tensor:
        """Every score, (tokens, features) float32."""
        self._require_unchanged()
        centred, encoder = self._centred, self.encoder.double()
        scores = centred.new_empty(len(centred), len(encoder), dtype=torch.float32)
        every = torch.arange(len(encoder))
        step = max(1, BLOCK_ENTRIES // max(len(encoder), 1))
        for start in range(0, len(centred), step):
            sums = torch.mm(centred[start : start + step], encoder.T).add_(self.bias)
            rows = torch.arange(start, start + len(sums))
            ends = rows.repeat_interleave(len(every)), every.repeat(len(rows))
            rounded = self._rounded(sums.view(-1), *ends).view(sums.shape)
            torch.mul(rounded, self.norms, out=scores[start : start + step])
        return scores

    def _rounded(self, sums: Tensor, tokens: Tensor, features: Tensor) -> Tensor:
        """The float32 nearest to exact sums, from those in float64."""
        # the largest error of all rules most out at once
        nearest, open_ = _two_roundings(sums, self._largest_error)
        _, still_open = _two_roundings(sums[open_], self._errors(tokens[open_], features[open_]))
        open_ = open_[still_open]
        step = max(1, RECHECKED // self.centred.shape[1])
        for some in torch.split(open_, step):
            nearest[some] = self._without_error(tokens[some], features[some])
        return nearest

    def _without_error(self, tokens: Tensor, features: Tensor) -> Tensor:
        bias = self.bias[features].double()
        products = self._centred[tokens] * self.encoder[features].double()  # of two float32, hence exact
        sums = bias.clone()
        # of most open pairs in toy data no product is other than 0
        for at in products.any(dim=1).nonzero().squeeze(1).tolist():
            sums[at] = _nearest_for_float32([*products[at].tolist(), float(bias[at])])
        return sums.float()


def _versions(*tensors: Tensor) -> list[int]:
    """How often tensors were written to; those of inference mode do not say."""
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _two_roundings(sums: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """The float32 nearest to the sums, and where their error leaves another one in question."""
    open_ = ((sums - errors).float() != (sums + errors).float()) & torch.isfinite(sums)
    open_ = open_.nonzero().squeeze(1)
    return sums.float(), open_


def _stable_order(features: Tensor, n_features: int) -> Tensor:
    """What sorts pairs by feature; two bytes are sorted by counting."""
    keys = features.numpy()
    return torch.from_numpy((keys.astype(np.uint16) if n_features <= 1 << 16 else keys).argsort(kind="stable"))


def _nearest_for_float32(terms: list[float]) -> float:
    """The sum as a float64 that rounds to the float32 to which the exact sum rounds."""
    total = math.fsum(terms)
    # rounded twice, a sum next to the middle of two float32 could end on the wrong side
    rest = math.fsum([*terms, -total])
    return total if rest == 0 else float(np.nextafter(total, math.copysign(math.inf, rest)))
