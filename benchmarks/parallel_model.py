"""Many GPUs, computed and not measured: what a step of a large dictionary needs, by mesh.

Operations and bytes follow from the layout, and the bytes of gradients are those that `parallel.py` counts; rates are
what the makers state. So every time is a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from benchmarks.harness import report

NAME = "parallel_model"
# Stated for an H200: dense bfloat16 products, memory, NVLink in one direction; InfiniBand NDR, one port per GPU.
PRODUCT, MEMORY, WITHIN, BETWEEN = 989e12, 4.8e12, 450e9, 50e9
ROOM, NODE = 141e9, 8
D_MODEL, K, TOKENS = 4096, 64, 1 << 17
FEATURES = (1 << 20, 34 << 20)
GPUS = (8, 64, 512)
# Weights, gradients and both moments of Adam are float32; a score has two bytes.
WEIGHT, SCORE = 4, 2
# Adam reads weight, gradient and moments, and writes all but the gradient.
PASSES = 7
HEADINGS = [
    "features", "GPUs", "data x features", "GB per GPU", "product ms", "Adam ms", "gradients ms", "reconstruction ms",
    "GB between machines",
]  # fmt: skip
NOTES = (
    f"Computed, not measured: no GPU has run it. Batch of {TOKENS:,} tokens, d_model {D_MODEL}, k {K}; weights, "
    "gradients and moments in float32, encoder product in bfloat16. Lower bounds at stated rates: "
    f"{PRODUCT / 1e12:.0f} TFLOP/s, {MEMORY / 1e12} TB/s of memory, {WITHIN / 1e9:.0f} GB/s between GPUs of a machine "
    f"of {NODE}, {BETWEEN / 1e9:.0f} GB/s of each GPU between machines; sums are made within machines first. The last "
    "column is what each GPU sends to other machines in a step. "
    f"Left out: meshes that need more than {ROOM / 1e9:.0f} GB a GPU."
)


@dataclass(frozen=True)
class Step:
    """What one GPU does in a step of the whole batch, its mesh being `data` times `features`."""

    data: int
    features: int
    n_features: int
    tokens: int = TOKENS
    d_model: int = D_MODEL

    @property
    def rows(self) -> int:
        """Features that it holds."""
        return -(-self.n_features // self.features)

    @property
    def weights(self) -> int:
        """Entries of encoder and decoder, the bias of every feature, and that of the decoder."""
        return 2 * self.rows * self.d_model + self.rows + self.d_model

    @property
    def room(self) -> int:
        """Bytes of weights, gradients, moments and scores."""
        return 4 * WEIGHT * self.weights + SCORE * self.rows * (self.tokens // self.data)

    @property
    def operations(self) -> int:
        """Of the encoder's product; all else takes k of the features of a token."""
        return 2 * (self.tokens // self.data) * self.rows * self.d_model

    @property
    def gradients(self) -> int:
        """Bytes of the gradients that are added up over `data`."""
        return WEIGHT * self.weights if self.data > 1 else 0

    @property
    def reconstruction(self) -> int:
        """Bytes of its tokens' reconstruction that is added up over `features`."""
        return WEIGHT * (self.tokens // self.data) * self.d_model if self.features > 1 else 0

    def members(self) -> tuple[int, int]:
        """How many of a group of `data`, and of one of `features`, are on one machine: the latter are neighbours."""
        of_features = min(self.features, NODE)
        return min(self.data, NODE // of_features), of_features

    def between(self) -> float:
        """Bytes that it sends to other machines."""
        of_data, of_features = self.members()
        return (
            ring(self.data // of_data) * self.gradients / of_data
            + ring(self.features // of_features) * self.reconstruction / of_features
        )

    def times(self) -> tuple[float, float, float, float]:
        """Milliseconds of the product, of Adam, of the gradients and of the reconstructions, at stated rates."""
        of_data, of_features = self.members()
        return (
            1e3 * self.operations / PRODUCT,
            1e3 * PASSES * WEIGHT * self.weights / MEMORY,
            1e3 * sum_seconds(self.gradients, self.data, of_data),
            1e3 * sum_seconds(self.reconstruction, self.features, of_features),
        )


def ring(ranks: int) -> float:
    """How many times its own tensor a process of a ring sends, to add it up."""
    return 2 * (ranks - 1) / ranks


def sum_seconds(size: int, ranks: int, members: int) -> float:
    """Time to add up so many bytes over a group of which so many are on one machine.

    First within each machine, then each member a share of it between the machines by its own port, both under way at
    once: the slower of the two.
    """
    return max(ring(members) * size / WITHIN, ring(ranks // members) * size / members / BETWEEN)


def rows() -> list[list[Any]]:
    """For every dictionary and number of GPUs the meshes into which it fits."""
    found: list[list[Any]] = []
    for n_features, gpus in product(FEATURES, GPUS):
        cuts = [1 << bit for bit in range(gpus.bit_length())]
        for step in (Step(gpus // features, features, n_features) for features in cuts):
            if step.room <= ROOM:
                named = [f"{n_features >> 20} M", gpus, f"{step.data} x {step.features}", step.room / 1e9]
                found.append([*named, *step.times(), step.between() / 1e9])
    return found


if __name__ == "__main__":
    report(NAME, HEADINGS, rows(), NOTES)
