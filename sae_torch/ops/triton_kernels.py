"""The kernels of the sparse ops for CUDA, in Triton. Sums run in a fixed order, so results repeat bit for bit.

No two programs race: each writes entries of its result that are its own, once, at its end, and reads nothing that
another writes. Sums inside a program are Triton's, which orders its threads.

Under Triton's interpreter (TRITON_INTERPRET=1) the same kernels run on CPU tensors; the tests do that.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Matches that one program holds at a time, and entries of a row.
MATCHES, WIDTH = 16, 256
# Scores that one program of a count reads: rows of a strip, columns beside each other.
STRIP, COLUMNS = 256, 128


def weighted_row_sums(rows: Tensor, index: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """`out[s] = sum over e in segment s of weights[e] * rows[index[e]]`; one program per segment and part of a row."""
    rows, segments, d = rows.contiguous(), offsets.numel() - 1, rows.shape[1]
    out = rows.new_empty(segments, d)
    if out.numel():
        width = _width(d)
        grid = (segments, triton.cdiv(d, width))
        _weighted_row_sums[grid](rows, index, weights, offsets, out, d, _wide(rows), MATCHES, width)
    return out


def sampled_dots(left: Tensor, right: Tensor, left_index: Tensor, right_index: Tensor) -> Tensor:
    """`out[e] = left[left_index[e]] . right[right_index[e]]`; one program per few matches."""
    left, right, matches = left.contiguous(), right.contiguous(), left_index.numel()
    out = left.new_empty(matches)
    if matches:
        d = left.shape[1]
        grid = (triton.cdiv(matches, MATCHES),)
        _sampled_dots[grid](left, right, left_index, right_index, out, matches, d, _wide(left), MATCHES, _width(d))
    return out


def count_above(scores: Tensor, theta: Tensor) -> Tensor:
    """`out[j] = sum_i [scores[i, j] > theta[j]]` in one read, without a matrix of comparisons; int64."""
    tokens, features = scores.shape
    strips = triton.cdiv(tokens, STRIP)
    counts = torch.empty(strips, features, dtype=torch.int32, device=scores.device)
    grid = (triton.cdiv(features, COLUMNS), strips)  # of the second there are fewer than 2^16: tokens up to 2^24 - 256
    _count_above[grid](scores.contiguous(), theta.contiguous(), counts, tokens, features, _wide(scores), STRIP, COLUMNS)
    return counts.sum(dim=0, dtype=torch.int64)


def _width(d: int) -> int:
    return int(min(triton.next_power_of_2(d), WIDTH))


def _wide(t: Tensor) -> tl.dtype:
    return tl.float64 if t.dtype == torch.float64 else tl.float32


@triton.jit
def _weighted_row_sums(
    rows, index, weights, offsets, out, d, wide: tl.constexpr, matches: tl.constexpr, width: tl.constexpr
):
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * width + tl.arange(0, width)
    start, stop = tl.load(offsets + segment), tl.load(offsets + segment + 1)
    total = tl.zeros((width,), wide)
    for first in range(start, stop, matches):
        match = first + tl.arange(0, matches)
        inside = match < stop
        row = tl.load(index + match, mask=inside, other=0).to(tl.int64)
        weight = tl.load(weights + match, mask=inside, other=0.0).to(wide)
        mask = inside[:, None] & (column < d)[None, :]
        tile = tl.load(rows + row[:, None] * d + column[None, :], mask=mask, other=0.0).to(wide)
        total += tl.sum(weight[:, None] * tile, axis=0)
    tl.store(out + segment * d + column, total, mask=column < d)


@triton.jit
def _sampled_dots(
    left, right, left_index, right_index, out, count, d,
    wide: tl.constexpr, matches: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    match = tl.program_id(0).to(tl.int64) * matches + tl.arange(0, matches)
    inside = match < count
    one = tl.load(left_index + match, mask=inside, other=0).to(tl.int64)
    two = tl.load(right_index + match, mask=inside, other=0).to(tl.int64)
    total = tl.zeros((matches,), wide)
    for first in range(0, d, width):
        column = first + tl.arange(0, width)
        mask = inside[:, None] & (column < d)[None, :]
        a = tl.load(left + one[:, None] * d + column[None, :], mask=mask, other=0.0).to(wide)
        b = tl.load(right + two[:, None] * d + column[None, :], mask=mask, other=0.0).to(wide)
        total += tl.sum(a * b, axis=1)
    tl.store(out + match, total, mask=inside)


@triton.jit
def _count_above(
    scores, theta, counts, tokens, features, wide: tl.constexpr, strip: tl.constexpr, columns: tl.constexpr
):
    part = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    within = column < features
    limit = tl.load(theta + column, mask=within, other=0.0).to(wide)
    total = tl.zeros((columns,), tl.int32)
    for row in range(part * strip, min((part + 1) * strip, tokens)):
        score = tl.load(scores + row * features + column, mask=within, other=0.0).to(wide)
        total += (score > limit).to(tl.int32)
    tl.store(counts + part * features + column, total, mask=within)
