"""Learning rate and auxiliary loss, chosen on the development split: real activations, every choice, one seed each.

The winner of this table is the default of `TrainConfig`. The test split is not read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

import sae_torch as st
from benchmarks.harness import arguments, report
from sae_torch.activations import ActivationReader, Activations, HarvestConfig, harvest
from sae_torch.evaluation import measure

TRAIN_TOKENS, DEVELOPMENT_TOKENS, BATCH = 400_000, 40_000, 2048
FEATURES, K = 4608, 32
RATES = (1e-3, 2e-3, 4e-3, 6e-3)


@dataclass(frozen=True)
class Run:
    """One training, judged on the development split."""

    choice: str
    learning_rate: float
    auxiliary: str

    def row(self, train: Activations, development: Activations, seed: int) -> list[object]:
        """Train and measure."""
        choice = {"token": st.TokenChoice, "mutual": st.MutualChoice, "feature": st.FeatureChoice}[self.choice](K)
        sae = st.SparseAutoencoder(train.d_model, FEATURES, choice, seed=seed)
        config = st.TrainConfig(learning_rate=self.learning_rate, auxiliary=self.auxiliary)  # type: ignore[arg-type]
        start = time.perf_counter()
        st.Trainer(sae, config).fit(ActivationReader(train, batch_size=BATCH, seed=seed))
        seconds = time.perf_counter() - start
        quality = measure(sae, development)
        return [self.choice, self.learning_rate, self.auxiliary, quality.nmse, quality.l0, quality.dead, round(seconds)]


def main() -> None:
    """Run the grid and write the table after every run."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = HarvestConfig()
    train, development = harvest(config, "train", TRAIN_TOKENS), harvest(config, "dev", DEVELOPMENT_TOKENS)
    runs = [Run(choice, rate, "zipf") for choice in ("token", "mutual", "feature") for rate in RATES]
    runs += [Run(choice, 4e-3, "none") for choice in ("mutual", "feature")]
    headings = ["choice", "learning rate", "auxiliary", "NMSE", "L0", "silent features", "seconds"]
    notes = (
        f"{TRAIN_TOKENS} training tokens once, batch {BATCH}, F {FEATURES}, k {K}, seed {options.seed}; development "
    )
    notes += f"split, {DEVELOPMENT_TOKENS} tokens, batch-free mode; torch {torch.__version__}"
    rows: list[list[object]] = []
    for run in runs:
        rows.append(run.row(train, development, options.seed))
        report("learning_rate", headings, rows, notes)


if __name__ == "__main__":
    main()
