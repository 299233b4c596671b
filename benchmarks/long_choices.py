"""Some of training's settings again, with more tokens of five texts, on the development split.

`--tokens` says how many tokens a run sees, once each. Errors are compared at equal L0, k per token, with batch-free
thresholds. Finished rows are kept and not run again; several processes share the work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import sae_torch as st
from benchmarks.harness import RESULTS, arguments, kept_rows, report
from benchmarks.study.cell import Cell
from benchmarks.study.equal_l0 import at_equal_l0, at_one_price
from benchmarks.study.ledger import held, tried
from benchmarks.study.long.sources import FIVE, LONG_SCALE, LongSources, source
from benchmarks.study.methods import LARGER_FLOOR, LARGER_FLOORS, MUTUAL, LetGo, method_of
from benchmarks.study.sources import read
from benchmarks.study.training import TRAINING, trained
from sae_torch.activations import ActivationReader
from sae_torch.activations.harvesting import cache_folder
from sae_torch.autoencoder import ENCODER_SCALE
from sae_torch.evaluation import measure

NAME = "long_choices"
FEATURES, K, SEED = 4608, 32, 0
HEADINGS = ("tokens", "choice", "change", "NMSE", "NMSE at one threshold", "dead features")
# What the defaults were when this was run; changes are from these.
BASE: Mapping[str, Any] = {
    "learning_rate": 4e-3,
    "betas": (0.8, 0.99),
    "warm_up": 0.05,
    "decay": 0.2,
    "clip": 1.0,
    "auxiliary": "none",
    "progress": False,
}


@dataclass(frozen=True)
class Change:
    """What differs from `BASE`; of floors until which share of the steps they hold."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    encoder_scale: float = ENCODER_SCALE
    floors_until: float | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """What can be changed so."""
        return (MUTUAL, LARGER_FLOORS) if self.floors_until is None else (LARGER_FLOORS,)


def changes() -> Iterator[Change]:
    """Every change: towards the settings of dictionary_learning's trainer, then others."""
    yield Change("none")
    for betas in ((0.9, 0.999), (0.9, 0.99)):
        yield Change(f"betas {betas[0]:g}, {betas[1]:g}", {"betas": betas})
    yield Change("encoder scale 1", encoder_scale=1.0)
    yield Change("betas 0.9, 0.999; encoder scale 1", {"betas": (0.9, 0.999)}, 1.0)
    for until in (0.5, 0.8, 0.9, 1.0):
        yield Change(f"floors until {until:g}", floors_until=until)
    for rate in (2e-3, 8e-3):
        yield Change(f"learning rate {rate:g}", {"learning_rate": rate})
    for decay in (0.4, 0.6):
        yield Change(f"decay {decay:g}", {"decay": decay})
    for clip in (0.1, 1e9):
        yield Change("no clipping" if clip > 1e6 else f"clip {clip:g}", {"clip": clip})


CHANGES = {change.name: change for change in changes()}


def run(tokens: int, choice: str, change: Change, sources: LongSources) -> dict[str, float]:
    """Train once over so many tokens, measure on the development split at equal L0."""
    where = source(FIVE)
    judged = sources.activations(where, "dev")
    cell = Cell(where, K, FEATURES, choice, "none", BASE["learning_rate"], "test", SEED)
    weights = cache_folder() / "study" / cell.folder
    if change.name == "none" and tokens == sources.tokens(where, "train") and (weights / TRAINING).exists():
        sae = trained(cell, weights)  # the study's run of all tokens has these settings
    else:
        train = read(sources.folder(where, "train"), tokens)
        made = method_of(choice).choice(K, FEATURES)
        if change.floors_until is not None:
            made = LetGo.after(change.floors_until, K, LARGER_FLOOR * K / FEATURES)
        sae = st.SparseAutoencoder(train.d_model, FEATURES, made, seed=SEED, encoder_scale=change.encoder_scale)
        st.Trainer(sae, st.TrainConfig(**{**BASE, **change.config})).fit(
            ActivationReader(train, batch_size=LONG_SCALE.batch, seed=SEED)
        )
    sae.eval()
    dead = measure(sae, judged).dead
    own, one = at_equal_l0(sae, judged)[0], at_one_price(sae, judged)
    return {"nmse": measure(own, judged).nmse, "one_price": measure(one, judged).nmse, "dead": dead}


def main() -> None:
    """Run what was asked for and is missing; write the table after every run."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--tokens", type=int, default=2_500_000, help="training tokens")
    parser.add_argument("--choices", nargs="+", default=[MUTUAL, LARGER_FLOORS], choices=(MUTUAL, LARGER_FLOORS))
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=tuple(CHANGES), metavar="CHANGE")
    parser.add_argument("--texts", type=Path, default=cache_folder() / "texts", help="folder of the five texts")
    options = parser.parse_args()
    sources = LongSources(LONG_SCALE, texts=options.texts)
    notes = (
        f"Error at L0 = k on {LONG_SCALE.judged_tokens} tokens of the development split; F {FEATURES}, k {K}, batch "
        f"{LONG_SCALE.batch}, seed {SEED}; changes from {json.dumps(dict(BASE))}; torch {torch.__version__}"
    )
    for change in options.changes:
        for choice in (each for each in options.choices if each in CHANGES[change].choices):
            key = [options.tokens, choice, change]
            claim = RESULTS / f"{NAME}-{'-'.join(map(str, key))}.claim".replace(" ", "-").replace(";", "")
            with tried(claim) as mine:
                if not mine or key in [row[:3] for row in kept_rows(NAME, notes)]:
                    continue
                found = run(options.tokens, choice, CHANGES[change], sources)
                with held(RESULTS):
                    rows = [*kept_rows(NAME, notes), [*key, found["nmse"], found["one_price"], found["dead"]]]
                    report(NAME, HEADINGS, sorted(rows, key=lambda row: (row[0], row[1], row[3])), notes)


if __name__ == "__main__":
    main()
