"""Features per token on text never trained on, with the shipped calibration and without its correction.

Whole documents are held out by seed, which differs from those that the calibration was developed on; the rest is
trained on once by `Trainer.fit` with the defaults of the demo.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.harness import arguments, kept_rows, report
from sae_torch.activations import Activations, HarvestConfig, harvest, load_language_model
from sae_torch.evaluation import batch_free
from sae_torch.training.run_config import FLOOR

NAME = "realised_l0"
FEATURES, K, BATCH, TRAINED = 4608, 32, 2048, 204_800
HARVESTED = {"train": 250_000, "dev": 20_000, "test": 20_000}
HELD_OUT = 0.12
SEEDS = (101, 102, 103, 111, 112, 113)
CHOICES: dict[str, Callable[[], st.Choice]] = {
    "mutual": lambda: st.MutualChoice(K),
    "feature": lambda: st.FeatureChoice(K),
    "floors": lambda: st.BalancedChoice(K, feature_floors=FLOOR * K / FEATURES),
}
NOTES = (
    f"Features per token above {K}, in per cent, of tokens encoded one at a time. {FEATURES} features, {TRAINED} "
    f"tokens once in batches of {BATCH}, SmolLM2-135M hidden_states[11], State of the Union, the learning "
    f"rate falling over the last {st.TrainConfig().decay:.0%} of the steps. Held out: whole "
    f"addresses, about {HELD_OUT:.0%} of the tokens, drawn by the seed. Last batches: the thresholds that the inputs "
    "of the last steps give as they are; without bias: those times what a batch loses by not having been trained on; "
    "+-: what that varies by with the documents held out, their standard error."
)
HEADINGS = ("seed", "choice", "held-out tokens", "last batches %", "without bias %", "+- %", "trained tokens %")


def main() -> None:
    """Six splits of documents, three choices with thresholds."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    options = parser.parse_args()
    rows = kept_rows(NAME, NOTES)
    x, documents = harvested()
    for seed in options.seeds:
        fresh = _held_out(documents, seed)
        order = (~fresh).nonzero().flatten()
        order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))][:TRAINED]
        for name in options.choices:
            if [seed, name] in [row[:2] for row in rows]:
                continue
            sae = st.SparseAutoencoder(x.shape[1], FEATURES, CHOICES[name](), seed=seed)
            batches = [x[part].float() for part in torch.split(order, BATCH)]
            config = st.TrainConfig(progress=False)
            st.Trainer(sae, config).fit(batches)
            plain = copy.deepcopy(sae)
            st.calibrate(plain, batches[-config.calibration_batches(len(batches), BATCH) :])
            unseen = _above(sae, x[fresh])
            figures = [_above(plain, x[fresh]).mean(), unseen.mean(), _standard_error(unseen, documents[fresh])]
            figures.append(_above(plain, x[order[-20_000:]]).mean())
            rows.append([seed, name, int(fresh.sum()), *map(float, figures)])
            report(NAME, HEADINGS, rows, NOTES)


def harvested() -> tuple[Tensor, Tensor]:
    """All rows, float16, and for each the number of its document."""
    config, model = HarvestConfig(), load_language_model()
    parts = [harvest(config, split, tokens, None, model, progress=True) for split, tokens in HARVESTED.items()]
    names: dict[str, int] = {}
    numbers = [_documents(part, names) for part in parts]
    return torch.cat([part.tensor() for part in parts]), torch.cat(numbers)


def _documents(part: Activations, names: dict[str, int]) -> Tensor:
    numbers = []
    for shard in part.shards:
        numbered = [names.setdefault(name, len(names)) for name in json.loads(shard.header["documents"])]
        numbers.append(torch.tensor(numbered)[shard.documents[shard.window.long(), shard.position.long()].long()])
    return torch.cat(numbers)[: len(part)]


def _held_out(documents: Tensor, seed: int) -> Tensor:
    """Which rows are of documents that are kept back."""
    order = torch.randperm(int(documents.max()) + 1, generator=torch.Generator().manual_seed(seed))
    sizes = torch.bincount(documents)[order].cumsum(0)
    kept_back = order[: int((sizes < HELD_OUT * len(documents)).sum()) + 1]
    return torch.isin(documents, kept_back)


@torch.no_grad()
def _above(sae: st.SparseAutoencoder, x: Tensor) -> Tensor:
    """Features above k, in per cent, of every token."""
    with batch_free(sae):
        counts = torch.cat([sae.encode(part.float()).token_counts for part in torch.split(x, BATCH)])
    return 100 * (counts.double() / K - 1)


def _standard_error(values: Tensor, documents: Tensor) -> Tensor:
    """Of the mean over tokens, where documents are drawn and not tokens."""
    _, of_documents, sizes = documents.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, of_documents, values - values.mean())
    return (sums.square().sum() * len(sizes) / (len(sizes) - 1)).sqrt() / len(values)


if __name__ == "__main__":
    main()
