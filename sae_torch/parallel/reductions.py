"""Sums over ranks that gradients flow through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sae_torch.parallel.torch_ranks import TorchRanks


def mean_over(rows: Tensor, ranks: TorchRanks) -> Tensor:
    """The mean of the rows of all ranks; backward is for this rank's, so that gradients of weights add up.

    Parameters
    ----------
    rows : (tokens, ...)
    ranks : TorchRanks
    """
    mean: Tensor = _Mean.apply(rows, ranks)  # type: ignore[no-untyped-call]
    return mean


def sum_over(rows: Tensor, ranks: TorchRanks) -> Tensor:
    """The sum of the tensors of all ranks; every rank goes on with it alike, so that its gradient is that of each.

    Parameters
    ----------
    rows : tensor of one shape
    ranks : TorchRanks
    """
    total: Tensor = _Sum.apply(rows, ranks)  # type: ignore[no-untyped-call]
    return total


def shared_over(tensor: Tensor, ranks: TorchRanks) -> Tensor:
    """The tensor itself, which every rank reads in its own way: its gradient is the sum of theirs.

    Parameters
    ----------
    tensor : tensor of one shape
    ranks : TorchRanks
    """
    shared: Tensor = _Shared.apply(tensor, ranks)  # type: ignore[no-untyped-call]
    return shared


class _Mean(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: TorchRanks) -> Tensor:
        own = torch.cat([rows.double().sum(dim=0).reshape(-1), rows.new_tensor([len(rows)], dtype=torch.float64)])
        summed = torch.from_numpy(ranks.sum(own.cpu().numpy()))
        ctx.total, ctx.shape = float(summed[-1]), rows.shape
        return (summed[:-1] / summed[-1]).reshape(rows.shape[1:]).to(rows)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return (upstream / ctx.total).expand(ctx.shape), None


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: TorchRanks) -> Tensor:
        return _summed(rows, ranks)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream, None


class _Shared(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: TorchRanks) -> Tensor:
        ctx.ranks = ranks
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return _summed(upstream, ctx.ranks), None


def _summed(tensor: Tensor, ranks: TorchRanks) -> Tensor:
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    ranks.add_up(total)
    return total
