"""Training with other libraries, in their environment, as their own trainers do it, on the same batches.

Both get activations in the units that ours are trained in (mean norm sqrt(d_model), from the first batches) and the
shape of our schedule; the weights are folded back to raw activations. Their Adam keeps its usual decay rates, their
losses are their own. dictionary_learning follows its threshold from a tenth of the steps before the end: by default
it would start after 1000 steps, and runs here are shorter.

Their auxiliary losses, with which a feature counts as dead after ten million tokens, never act in runs as short as
these. With `aux k` it is dead after a tenth of the run, as in our trainer, and sparsify's loss, which is off by
default, has the weight of the others.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.study.milestones import Milestones
from benchmarks.study.request import WARM_UP, Request, blank
from benchmarks.study.snapshots import Snapshots
from sae_torch.training.schedule import Schedule
from sae_torch.training.trainer import PROBE_TOKENS

THRESHOLD_SHARE = 0.1
AUXILIARY_COEFFICIENT = 1 / 32


def units(request: Request) -> float:
    """What activations are multiplied by: their mean norm becomes sqrt(d_model)."""
    probe: list[Tensor] = []
    for batch in request.batches():
        probe.append(batch)
        if sum(map(len, probe)) >= PROBE_TOKENS:
            break
    norm = float(torch.cat(probe).norm(dim=1).mean())
    return math.sqrt(probe[0].shape[1]) / norm


def dictionary_learning(
    request: Request, milestone: Milestones, snapshots: Snapshots
) -> tuple[st.SparseAutoencoder, dict[str, Any]]:
    """BatchTopK with its trainer."""
    from dictionary_learning.trainers import BatchTopKTrainer

    cell, batches, scale = request.cell, request.batches(), units(request)
    steps, d_model = len(batches), batches.activations.d_model
    trainer = BatchTopKTrainer(
        steps=steps,
        activation_dim=d_model,
        dict_size=cell.n_features,
        k=cell.k,
        layer=0,
        lm_name="none",
        lr=cell.learning_rate,
        warmup_steps=round(WARM_UP * steps),
        decay_start=round((1 - request.decay) * steps),
        threshold_start_step=round((1 - THRESHOLD_SHARE) * steps),
        device="cpu",
        seed=cell.seed,
    )
    ae = trainer.ae

    def made() -> st.SparseAutoencoder:
        return _folded(
            request, ae.encoder.weight.T, ae.encoder.bias, ae.decoder.weight.T, ae.b_dec, scale, float(ae.threshold)
        )

    if cell.auxiliary == "k":
        trainer.dead_feature_threshold = request.dead_after
    parts = {"ae": ae, "optimizer": trainer.optimizer, "scheduler": trainer.scheduler}
    first, beside = _taken_up(snapshots, parts)
    trainer.num_tokens_since_fired = beside.get("silent_for", trainer.num_tokens_since_fired)
    for step, batch in enumerate(batches.from_step(first), start=first):
        milestone(step, made)
        trainer.update(step, batch * scale)
        snapshots(step + 1, partial(_states, parts, trainer.num_tokens_since_fired))
    return made(), {**trainer.config, "dead_feature_threshold": trainer.dead_feature_threshold, "units": scale}


def sparsify(
    request: Request, milestone: Milestones, snapshots: Snapshots
) -> tuple[st.SparseAutoencoder, dict[str, Any]]:
    """TopK with its coder and Adam, its loss, and the mean of the first batch as its bias."""
    from sparsify import SparseCoder, SparseCoderConfig

    cell, batches, scale = request.cell, request.batches(), units(request)
    torch.manual_seed(cell.seed)
    coder = SparseCoder(batches.activations.d_model, SparseCoderConfig(num_latents=cell.n_features, k=cell.k))
    optimizer = torch.optim.Adam(coder.parameters(), lr=cell.learning_rate, fused=True)
    schedule = Schedule(cell.learning_rate, len(batches), WARM_UP, request.decay)
    silent_for = torch.zeros(cell.n_features, dtype=torch.int64)
    coefficient, dead_after = AUXILIARY_COEFFICIENT if cell.auxiliary == "k" else 0.0, request.dead_after

    def made() -> st.SparseAutoencoder:
        now = copy.deepcopy(coder)  # normalised twice, the coder itself would differ in its last bits
        now.set_decoder_norm_to_unit_norm()
        return _folded(request, now.encoder.weight.T, now.encoder.bias, now.W_dec, now.b_dec, scale)

    parts = {"coder": coder, "optimizer": optimizer}
    first, beside = _taken_up(snapshots, parts)
    silent_for = beside.get("silent_for", silent_for)
    for step, batch in enumerate(batches.from_step(first), start=first):
        milestone(step, made)
        x = batch * scale
        if step == 0:
            coder.b_dec.data = x.mean(dim=0)
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, dead_mask=silent_for > dead_after if coefficient else None)
        (out.fvu + coefficient * out.auxk_loss).backward()
        silent_for += len(x)
        silent_for[out.latent_indices.flatten()] = 0
        coder.remove_gradient_parallel_to_decoder_directions()
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        snapshots(step + 1, partial(_states, parts, silent_for))
    used = {"optimizer": "Adam", "lr": cell.learning_rate, "betas": (0.9, 0.999), "auxk_alpha": coefficient}
    return made(), {**used, "units": scale}


PEERS: Mapping[str, Callable[[Request, Milestones, Snapshots], tuple[st.SparseAutoencoder, dict[str, Any]]]] = {
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}


def _states(parts: Mapping[str, Any], silent_for: Tensor) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()} | {"silent_for": silent_for}


def _taken_up(snapshots: Snapshots, parts: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Bring the parts of a trainer to where a stopped process left them; the steps done, and what was kept beside."""
    kept = snapshots.begun
    if kept is None:
        return 0, {}
    for name, part in parts.items():
        part.load_state_dict(kept[name])
    return kept["step"], kept


@torch.no_grad()
def _folded(
    request: Request,
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    scale: float,
    threshold: float | None = None,
) -> st.SparseAutoencoder:
    """The same function of raw activations as an autoencoder of ours."""
    sae = blank(request.cell, W_dec.shape[1])
    sae.W_enc.copy_(W_enc)
    sae.b_enc.copy_(b_enc / scale)
    sae.W_dec.copy_(W_dec)
    sae.b_dec.copy_(b_dec / scale)
    if threshold is not None:
        sae.choice.tracker.restart(torch.tensor(max(threshold, 0.0) / scale))  # type: ignore[union-attr,operator]
    return sae
