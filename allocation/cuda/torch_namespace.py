"""The few array functions of `solvers.two_sided.block_passes` that torch names or orders otherwise."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any


@cache
def torch_namespace(device: str) -> Any:
    """An array namespace whose new arrays are on this device."""
    import torch

    return SimpleNamespace(
        int64=torch.int64,
        float32=torch.float32,
        float64=torch.float64,
        asarray=lambda array, dtype: array.to(dtype),
        arange=lambda size: torch.arange(size, device=device),
        argmax=torch.argmax,
        argmin=torch.argmin,
        argsort=torch.argsort,
        concatenate=torch.cat,
        count_nonzero=torch.count_nonzero,
        max=torch.amax,
        maximum=torch.maximum,
        min=torch.amin,
        minimum=torch.minimum,
        nonzero=lambda array: torch.nonzero(array, as_tuple=True),
        reshape=torch.reshape,
        searchsorted=torch.searchsorted,
        sort=lambda array: torch.sort(array).values,
        squeeze=torch.squeeze,
        sum=torch.sum,
        take=lambda array, positions, axis: torch.index_select(array, axis, positions),
        take_along_axis=lambda array, positions, axis: torch.take_along_dim(array, positions, axis),
        where=torch.where,
        zeros_like=torch.zeros_like,
    )
