"""What training's defaults rest on: one change at a time around them, on real activations of the development split.

`--auxiliary` compares the auxiliary loss on every token with that on some of them. `--final` trains the four choices
with the defaults, three seeds each, and judges them on the test split. Finished rows are kept and not run again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import sae_torch as st
from benchmarks.harness import arguments, kept_rows, report
from benchmarks.optimizers import OPTIMIZERS
from sae_torch.activations import ActivationReader, Activations, HarvestConfig, harvest
from sae_torch.autoencoder import ENCODER_SCALE
from sae_torch.evaluation import measure

TRAIN_TOKENS, JUDGED_TOKENS, BATCH = 400_000, 40_000, 2048
# The default when the changes were tried; `long_choices` lengthened it.
DECAY = 0.2
FEATURES, K = 4608, 32
SEEDS = 3
FLOOR = 5e-4
CHOICES: Mapping[str, Callable[[], st.Choice]] = {
    "token": lambda: st.TokenChoice(K),
    "mutual": lambda: st.MutualChoice(K),
    "feature": lambda: st.FeatureChoice(K),
    "floors": lambda: st.BalancedChoice(K, feature_floors=FLOOR),
}


@dataclass(frozen=True)
class Variant:
    """One training: a choice and what differs from the defaults."""

    choice: str
    change: str = "none"
    config: Mapping[str, Any] = field(default_factory=dict)
    encoder_scale: float = ENCODER_SCALE
    optimizer: str = "Adam"
    make: Callable[[], st.Choice] | None = None

    def run(self, train: Activations, judged: Activations, seed: int) -> dict[str, float]:
        """Train on `train`, measure on `judged` in batch-free mode."""
        choice = (self.make or CHOICES[self.choice])()
        sae = st.SparseAutoencoder(train.d_model, FEATURES, choice, seed=seed, encoder_scale=self.encoder_scale)
        trainer = st.Trainer(sae, st.TrainConfig(**self.config, progress=False))
        if self.optimizer != "Adam":
            trainer.optimizer = OPTIMIZERS[self.optimizer](sae)
        start = time.perf_counter()
        trainer.fit(ActivationReader(train, batch_size=BATCH, seed=seed))
        seconds = time.perf_counter() - start
        quality = measure(sae, judged)
        return {"nmse": quality.nmse, "l0": quality.l0, "dead": quality.dead, "seconds": round(seconds)}


def changes() -> list[Variant]:
    """The grid: choices with each auxiliary loss, then floors with one change at a time.

    It was run with the auxiliary loss on every token; `--auxiliary` measures what fewer change.
    """
    grid = [
        Variant(choice, f"auxiliary {auxiliary}", {"auxiliary": auxiliary})
        for choice in CHOICES
        for auxiliary in ("none", "k", "zipf")
    ]

    def also(change: str, **fields: Any) -> None:
        grid.append(Variant("floors", change, **fields))

    for rate in (1e-3, 2e-3, 4e-3, 6e-3):
        also(f"learning rate {rate:g}", config={"learning_rate": rate})
    for betas in ((0.9, 0.999), (0.9, 0.99), (0.8, 0.99), (0.7, 0.99), (0.8, 0.95)):
        also(f"betas {betas[0]:g}, {betas[1]:g}", config={"betas": betas})
    for scale in (1.0, 0.5, 0.25, 0.1):
        also(f"encoder scale {scale:g}", encoder_scale=scale)
    for clip in (0.1, 1.0, 1e9):
        also("no clipping" if clip > 1e6 else f"clip {clip:g}", config={"clip": clip})
    for warm_up in (0.02, 0.05, 0.15):
        also(f"warm-up {warm_up:g}", config={"warm_up": warm_up})
    for decay in (0.2, 0.5):
        also(f"decay {decay:g}", config={"decay": decay})
    for floor in (2e-4, 1e-3, 2e-3):
        also(f"floors {floor:g}", make=lambda floor=floor: st.BalancedChoice(K, feature_floors=floor))
    also("sign-based updates (Lion), 4e-4", optimizer="Lion", config={"learning_rate": 4e-4})
    also("Muon for the matrices, 1e-2", optimizer="Muon", config={"learning_rate": 1e-2})
    grid += [
        Variant("feature", f"switch {switch:g}", make=lambda s=switch: st.FeatureChoice(K, switch=s))
        for switch in (0.7, 0.95)
    ]
    return [replace(variant, config={"auxiliary_every": 1, "decay": DECAY, **variant.config}) for variant in grid]


def main() -> None:
    """Run what is missing and write the table after every run."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--auxiliary", action="store_true", help="the auxiliary loss on every token or on some")
    parser.add_argument("--final", action="store_true", help="defaults on the test split, three seeds")
    parser.add_argument("--fresh", action="store_true", help="run every row again")
    parser.add_argument("--most", type=int, default=1000, help="trainings in this call; the next call goes on")
    options = parser.parse_args()
    config = HarvestConfig()
    train = harvest(config, "train", TRAIN_TOKENS)
    judged = harvest(config, "test" if options.final else "dev", JUDGED_TOKENS)
    sizes = f"{TRAIN_TOKENS} training tokens once, batch {BATCH}, F {FEATURES}, k {K}"
    measured = f"{JUDGED_TOKENS} tokens of whole addresses held out, batch-free mode; torch {torch.__version__}"
    if options.final:
        name, change = "defaults", f"TrainConfig() as shipped; {sizes}; test split, {measured}"
        runs = [Variant(choice, f"seed {seed}") for choice in reversed(tuple(CHOICES)) for seed in range(SEEDS)]
    elif options.auxiliary:
        name, change = "auxiliary_every", f"auxiliary zipf; {sizes}; development split, {measured}"
        runs = [
            Variant(choice, f"every {every}, seed {seed}", {"auxiliary_every": every, "decay": DECAY})
            for choice in ("mutual", "feature", "floors")
            for every in (1, 4, 8)
            for seed in range(2)
        ]
    else:
        base = f"the defaults with a decay of {DECAY:g}"
        name, change = "training_choices", f"One change from {base}, seed 0; {sizes}; development split, {measured}"
        runs = changes()
    headings = ["choice", "change", "NMSE", "L0", "dead features", "training s"]
    rows = [] if options.fresh else kept_rows(name, change)
    done = {(row[0], row[1]) for row in rows}
    for variant in [run for run in runs if (run.choice, run.change) not in done][: options.most]:
        seed = int(variant.change.split("seed ")[1]) if "seed " in variant.change else 0
        found = variant.run(train, judged, seed)
        rows.append([variant.choice, variant.change, found["nmse"], found["l0"], found["dead"], found["seconds"]])
        report(name, headings, rows, change)
    if options.final and len(rows) == len(runs):
        report(name, headings, rows + _means(rows), change)


def _means(rows: list[list[Any]]) -> list[list[Any]]:
    """Each choice's mean over its seeds."""
    found = []
    for choice in CHOICES:
        columns = zip(*(row[2:] for row in rows if row[0] == choice), strict=True)
        found.append([choice, f"mean of {SEEDS} seeds", *map(statistics.fmean, columns)])
    return found


if __name__ == "__main__":
    main()
