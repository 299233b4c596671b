"""The two kernels that every sparse layer needs: weighted sums of rows by segment, and sampled dot products.

On the CPU both are the kernels of torch's embedding bag, which sums rows as it reads them; on CUDA they are Triton's.
No (matches, d_model) temporary exists, and the order of summation is fixed, so results repeat bit for bit.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import util

import torch
from torch import Tensor


@cache
def has_triton() -> bool:
    """Whether Triton runs here. Torch for CUDA brings it along, but not the C compiler that its launches need."""
    if util.find_spec("triton") is None:
        return False
    from triton.runtime import driver

    try:
        driver.active.get_current_device()  # compiles that
    except Exception as error:  # compilers fail in many ways
        said = f"Triton does not run here, and torch's own kernels take its place, slower: {error}"
        warnings.warn(said, RuntimeWarning, stacklevel=4)
        return False
    return True


def runs_triton(tensor: Tensor) -> bool:
    """Whether ops on this tensor are Triton's. Without it torch's own kernels give the same answers on CUDA."""
    return tensor.device.type == "cuda" and has_triton()


def weighted_row_sums(rows: Tensor, index: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """`out[s] = sum over e in segment s of weights[e] * rows[index[e]]`.

    `offsets` has one entry more than there are segments.
    """
    if runs_triton(rows):
        from sae_torch.ops import triton_kernels

        return triton_kernels.weighted_row_sums(rows, index, weights, offsets)
    return torch.nn.functional.embedding_bag(
        index, rows, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def segment_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """`out[s] = sum over e in segment s of values[e]`, on a GPU too in a fixed order."""
    one, zeros = values.new_ones(1, 1), torch.zeros_like(values, dtype=torch.int64)
    return weighted_row_sums(one, zeros, values, offsets).squeeze(1)


def sampled_dots(left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor, left_offsets: Tensor) -> Tensor:
    """`out[e] = left[left_index[e]] . right[right_index[e]]`, with matches sorted by `left_index`."""
    if runs_triton(left):
        from sae_torch.ops import triton_kernels

        return triton_kernels.sampled_dots(left, right, left_index, right_index)
    kernel = torch.ops.aten._embedding_bag_per_sample_weights_backward
    result: Tensor = kernel(left.contiguous(), right, right_index, left_offsets[:-1], left_index, 0, -1)
    return result
