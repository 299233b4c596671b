"""Steps 10 to 40 of a training on real activations: exact from a rough product, as a product comes, the product alone.

Also how many scores are computed exactly for each match, and the time of the parts of a step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.harness import arguments, kept_rows, report
from benchmarks.realised_l0 import harvested
from sae_torch.exact_products import ExactProducts
from sae_torch.training.run_config import FLOOR

NAME = "rough_step"
# Tokens, width, features, features per token; a width below that of the model is reached by a random projection.
SIZES = ((4096, 576, 18432, 32), (2048, 384, 12288, 32), (2048, 576, 4608, 32))
FIRST, LAST, SEED = 10, 40, 0
CHOICES: dict[str, Callable[[int, int], st.Choice]] = {
    "floors": lambda k, features: st.BalancedChoice(k, feature_floors=FLOOR * k / features),
    "mutual": lambda k, _: st.MutualChoice(k),
    "feature": lambda k, _: st.FeatureChoice(k),
    "token": lambda k, _: st.TokenChoice(k),
}
AS_IT_COMES, FLOAT32, AUTO = "product as it comes", "exact, float32 product", "exact, fastest product"
TYPES = {AS_IT_COMES: None, FLOAT32: torch.float32, AUTO: "auto"}
HEADINGS = ["size", "choice", "scores", "ms", "x product", "x as it comes", "exact scores / match"]
NOTES = (
    f"(tokens, d_model, features, k). Medians of steps {FIRST} to {LAST} of a training, no auxiliary loss, the sides "
    "and the encoder's float32 product into new memory in turn; SmolLM2-135M hidden_states[11], State of the Union, "
    f"seed {SEED}."
)


class Counted:
    """How many pairs `ExactProducts` was asked for, while the context lasts."""

    def __enter__(self) -> Counted:
        self.pairs, self.at = 0, ExactProducts.at

        def counting(products: ExactProducts, tokens: Tensor, features: Tensor) -> Tensor:
            self.pairs += len(tokens)
            return self.at(products, tokens, features)

        ExactProducts.at = counting  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        ExactProducts.at = self.at  # type: ignore[method-assign]


def batches_of(x: Tensor, tokens: int, d_model: int) -> list[Tensor]:
    """Shuffled batches for all steps, projected where the width is smaller."""
    draw = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(x), generator=draw)[: tokens * (LAST + 1)]
    projection = torch.randn(x.shape[1], d_model, generator=draw) / d_model**0.5
    batches = [x[part].float() for part in torch.split(rows, tokens)]
    return batches if d_model == x.shape[1] else [batch @ projection for batch in batches]


def rows_of(sizes: tuple[int, int, int, int], batches: list[Tensor], name: str) -> list[list[object]]:
    """One choice at one size: every side in turn, step by step."""
    tokens, d_model, features, k = sizes
    sides = {}
    for side, dtype in TYPES.items():
        choice = CHOICES[name](k, features)
        sae = st.SparseAutoencoder(d_model, features, choice, seed=SEED, score_dtype=dtype)  # type: ignore[arg-type]
        sides[side] = st.Trainer(sae, st.TrainConfig(auxiliary="none", progress=False))
        sides[side].begin(torch.cat(batches[:2]), steps=1000, planned_tokens=1000 * tokens)
    weights = torch.randn(d_model, features)
    times: dict[str, list[float]] = {side: [] for side in (*sides, "product")}
    exact, matches = dict.fromkeys(TYPES, 0), 0
    for step, x in enumerate(batches[:LAST]):
        for side, trainer in sides.items():
            with Counted() as counted:
                started = time.perf_counter()
                record = trainer.step(x)
                times[side].append(time.perf_counter() - started)
            if step >= FIRST:
                exact[side] += counted.pairs
                matches += round(record.read()[3] * tokens) if side == AUTO else 0
        started = time.perf_counter()
        x @ weights
        times["product"].append(time.perf_counter() - started)
    median = {side: statistics.median(seconds[FIRST:]) for side, seconds in times.items()}
    return [
        [
            str(sizes),
            name,
            side,
            1e3 * median[side],
            median[side] / median["product"],
            median[side] / median[AS_IT_COMES],
            exact[side] / matches if exact[side] else "",
        ]
        for side in sides
    ]


def main() -> None:
    """All sizes and choices, or those asked for; rows that are not measured again stay in the file."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--size", type=int, nargs="+", choices=range(len(SIZES)), default=list(range(len(SIZES))))
    parser.add_argument("--choice", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    options = parser.parse_args()
    rows = kept_rows(NAME, NOTES)
    x, _ = harvested()
    order = [str(size) for size in SIZES]
    for size in (SIZES[number] for number in options.size):
        batches = batches_of(x, size[0], size[1])
        for name in options.choice:
            rows = [row for row in rows if row[:2] != [str(size), name]] + rows_of(size, batches, name)
            rows.sort(key=lambda row: (order.index(row[0]), list(CHOICES).index(row[1])))
            report(NAME, HEADINGS, rows, NOTES)


if __name__ == "__main__":
    main()
