"""A choice as the activation of a dense loop: scores in, a dense matrix out, beside the same by `torch.topk`.

Forward, and forward with the gradient of the scores, which is what a loop of one's own takes from an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.harness import alternating, arguments, report

SIZES = ((1024, 4096, 16), (2048, 4608, 32), (2048, 12288, 32), (4096, 16384, 32))
SEED = 0
# Steps after which the price of the last batch is at hand.
WARM_UP = 3
# Ours and theirs, the same matches.
PAIRS = {"token": ("token choice", "topk"), "mutual": ("mutual choice", "batchtopk")}
NOTES = (
    f"Standard normal float32 scores of a batch, seed {SEED}. Ours: `choice(scores).to_dense()`. Theirs: TopK is "
    "`torch.topk` of every row, scattered into zeros; BatchTopK `torch.topk` of the flattened matrix. Both sides gave "
    "the same matrix before they were timed. With gradient: the forward, and the gradient of the scores for a given "
    "one of the matrix."
)


def topk(scores: Tensor, k: int) -> Tensor:
    """TopK as dense loops have it."""
    best = scores.topk(k, dim=1)
    return torch.zeros_like(scores).scatter_(1, best.indices, best.values.relu())


def batchtopk(scores: Tensor, k: int) -> Tensor:
    """BatchTopK as dense loops have it."""
    flat = scores.relu().flatten()
    best = flat.topk(k * scores.shape[0], sorted=False)
    return torch.zeros_like(flat).scatter_(0, best.indices, best.values).view_as(scores)


def activations(scores: Tensor, k: int) -> dict[str, Callable[[], Tensor]]:
    """Every side's matrix."""
    token, mutual = st.TokenChoice(k), st.MutualChoice(k)
    for _ in range(WARM_UP):
        mutual(scores)
    return {
        "token choice": lambda: token(scores).to_dense(),
        "topk": partial(topk, scores, k),
        "mutual choice": lambda: mutual(scores).to_dense(),
        "batchtopk": partial(batchtopk, scores, k),
    }


def with_gradient(
    activation: Callable[[], Tensor], scores: Tensor, upstream: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """The activation and its backward."""
    return lambda: torch.autograd.grad(activation(), scores, upstream)


def main() -> None:
    """Every size, each with all sides in turn."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--dry", action="store_true", help="print, without writing results")
    options = parser.parse_args()
    rows: list[list[object]] = []
    for tokens, features, k in SIZES:
        generator = torch.Generator().manual_seed(SEED)
        scores = torch.randn(tokens, features, generator=generator).requires_grad_()
        upstream = torch.randn(tokens, features, generator=generator)
        sides = activations(scores, k)
        for ours, theirs in PAIRS.values():
            assert torch.equal(sides[ours](), sides[theirs]()), (tokens, features, ours)
        for what in ("forward", "with gradient"):
            timed = {
                name: side if what == "forward" else with_gradient(side, scores, upstream)
                for name, side in sides.items()
            }
            times = alternating(timed, options.repeats)
            row: list[object] = [f"{tokens} x {features}, k {k}", what]
            for ours, theirs in PAIRS.values():
                row += [1e3 * times[ours], 1e3 * times[theirs], times[ours] / times[theirs]]
            print(row, flush=True)
            rows.append(row)
    headings = ["scores", "what", "TokenChoice ms", "torch.topk ms", "ours / topk"]
    headings += ["MutualChoice ms", "BatchTopK ms", "ours / BatchTopK"]
    if not options.dry:
        report("dense_activation", headings, rows, NOTES)


if __name__ == "__main__":
    main()
