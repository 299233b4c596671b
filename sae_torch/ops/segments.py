"""The two kernels that every sparse layer needs: weighted sums of rows by segment, and sampled dot products.

Both are the kernels of torch's embedding bag, which sums rows as it reads them: no (matches, d_model) temporary exists,
segments are spread over threads, and the order of summation is fixed, so results repeat bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_row_sums(rows: Tensor, index: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """`out[s] = sum over e in segment s of weights[e] * rows[index[e]]`.

    `offsets` has one entry more than there are segments.
    """
    return torch.nn.functional.embedding_bag(
        index, rows, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def sampled_dots(left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor, left_offsets: Tensor) -> Tensor:
    """`out[e] = left[left_index[e]] . right[right_index[e]]`, with matches sorted by `left_index`."""
    kernel = torch.ops.aten._embedding_bag_per_sample_weights_backward
    result: Tensor = kernel(left.contiguous(), right, right_index, left_offsets[:-1], left_index, 0, -1)
    return result
