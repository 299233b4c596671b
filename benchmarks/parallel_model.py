"""Many GPUs, computed and not measured: what a step of a large dictionary needs, by mesh.

Operations and bytes follow from the layout, and the bytes of gradients are those that `parallel.py` counts; rates are
what the makers state. So every time is a lower bound, and the larger of two says what a mesh is limited by.
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
    "GB crossing",
]  # fmt: skip
NOTES = (
    f"Computed, not measured: no GPU has run it. Batch of {TOKENS:,} tokens, d_model {D_MODEL}, k {K}; weights, "
    "gradients and moments in float32, encoder product in bfloat16. Lower bounds at stated rates: "
    f"{PRODUCT / 1e12:.0f} TFLOP/s, {MEMORY / 1e12} TB/s of memory, {WITHIN / 1e9:.0f} GB/s between GPUs of a machine "
    f"of {NODE}, {BETWEEN / 1e9:.0f} GB/s between machines. Crossing: what each GPU sends in a step. "
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
    def gradients(self) -> float:
        """Bytes that it sends to add up gradients over `data`, in a ring."""
        return ring(self.data) * WEIGHT * self.weights

    @property
    def reconstruction(self) -> float:
        """Bytes that it sends to add up its tokens' reconstructions over `features`."""
        return ring(self.features) * WEIGHT * (self.tokens // self.data) * self.d_model

    def times(self) -> tuple[float, float, float, float]:
        """Milliseconds of the product, of Adam, of the gradients and of the reconstructions, at stated rates."""
        # processes with the same tokens are neighbours
        within = WITHIN if self.features <= NODE else BETWEEN
        between = WITHIN if self.data * self.features <= NODE else BETWEEN
        return (
            1e3 * self.operations / PRODUCT,
            1e3 * PASSES * WEIGHT * self.weights / MEMORY,
            1e3 * self.gradients / between,
            1e3 * self.reconstruction / within,
        )


def ring(ranks: int) -> float:
    """How many times its own tensor a process of a ring sends, to add it up."""
    return 2 * (ranks - 1) / ranks


def rows() -> list[list[Any]]:
    """For every dictionary and number of GPUs the meshes into which it fits."""
    found: list[list[Any]] = []
    for n_features, gpus in product(FEATURES, GPUS):
        cuts = [1 << bit for bit in range(gpus.bit_length())]
        for step in (Step(gpus // features, features, n_features) for features in cuts):
            if step.room <= ROOM:
                crossing = (step.gradients + step.reconstruction) / 1e9
                named = [f"{n_features >> 20} M", gpus, f"{step.data} x {step.features}", step.room / 1e9]
                found.append([*named, *step.times(), crossing])
    return found


if __name__ == "__main__":
    report(NAME, HEADINGS, rows(), NOTES)
