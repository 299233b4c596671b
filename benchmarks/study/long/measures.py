"""What is measured of a run at more tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.study import measures as at_any_size
from benchmarks.study.equal_l0 import at_equal_l0, at_one_price
from benchmarks.study.long.plan import CURVES, MILESTONES
from benchmarks.study.long.sources import FIFTH, FOUR, LongSources, mixture_of, source
from benchmarks.study.measures import Judged, Measure
from benchmarks.study.methods import DENSE
from benchmarks.study.milestones import milestone_file
from benchmarks.study.weights import WEIGHTS, read_weights
from sae_torch.activations import Activations
from sae_torch.evaluation import measure

# Tokens of the unseen text on which thresholds are set again.
RECALIBRATION_TOKENS = 10_000
# From this cosine on two decoder rows count as one feature.
ALIKE = 0.9
ROWS = 1024


def curve(judged: Judged) -> dict[str, Any]:
    """Error at L0 = k, silent and under-used features, and the model's loss, after so many tokens."""
    points = []
    for tokens in MILESTONES:
        file = None if judged.folder is None else milestone_file(judged.folder, tokens)
        if file is not None and file.exists():
            then = Judged(judged.cell, read_weights(judged.cell, file), judged.sources)
            points.append({"tokens": tokens, **_point(then)})
    trained_on = judged.sources.tokens(judged.cell.source, "train")
    return {"curve": [*points, {"tokens": trained_on, **_point(judged)}]}


def _point(judged: Judged) -> dict[str, Any]:
    found = at_any_size.quality(judged) | at_any_size.equal_l0(judged) | at_any_size.language_model_loss(judged)
    return {name: found[name] for name in ("nmse_at_k", "silent", "under_used", "ce_recovered")}


def one_price(judged: Judged) -> dict[str, Any]:
    """The same weights with one threshold for all features, as ``floors_in_eval=False`` sets them."""
    found = measure(at_one_price(judged.sae, judged.activations), judged.activations)
    return {"nmse_one_price": found.nmse, "silent_one_price": found.dead}


def dense(judged: Judged) -> dict[str, Any]:
    """Features active on over a tenth of the tokens, and their share of all matches."""
    densities = at_any_size.of_features(judged, judged.quality.densities)
    many = densities > DENSE
    return {"dense": int(many.sum()), "dense_share": float(densities[many].sum() / densities.sum())}


def by_text(judged: Judged) -> dict[str, Any]:
    """Features per token and error on each text, with the trained thresholds."""
    found = {}
    for name in mixture_of(judged.cell.source).texts:
        part = of_text(judged.activations, name)
        if part is not None:
            quality = measure(judged.sae, part)
            found[name] = {"tokens": quality.n_tokens, "l0": quality.l0, "nmse": quality.nmse}
    return {"by_text": found}


def transfer(judged: Judged) -> dict[str, Any]:
    """On a text not trained on: as deployed, with thresholds set again on some of its tokens, and at L0 = k."""
    sources = judged.sources
    assert isinstance(sources, LongSources)
    unseen = source(FIFTH, sources.site(judged.cell.source))
    test, dev = (sources.activations(unseen, split) for split in ("test", "dev"))
    found = measure(judged.sae, test)
    figures = {"transfer_l0": found.l0, "transfer_nmse": found.nmse}
    figures["transfer_nmse_at_k"] = measure(at_equal_l0(judged.sae, test)[0], test).nmse
    rows = torch.arange(min(RECALIBRATION_TOKENS, len(dev)))
    st.calibrate(judged.sae, [dev.gather(rows)])
    found = measure(judged.sae.eval(), test)
    return figures | {"recalibrated_l0": found.l0, "recalibrated_nmse": found.nmse}


def stability(judged: Judged) -> dict[str, Any]:
    """How alike the decoder rows are to those of the first seed: nearest rows that choose each other."""
    cell = judged.cell
    assert judged.folder is not None
    first = judged.folder.parent / replace(cell, seed=0).folder / WEIGHTS
    if not first.exists():  # it was trained elsewhere: said to be missing, not an error
        return dict.fromkeys(("stable_cosine", "stable_share", "mutual_share"))
    return matched(judged.sae.W_dec.detach(), read_weights(cell, first).W_dec.detach())


def matched(one: Tensor, other: Tensor) -> dict[str, float]:
    """Of two dictionaries: the mean cosine of nearest rows that choose each other, the share of rows above `ALIKE`."""
    one, other = (torch.nn.functional.normalize(rows, dim=1) for rows in (one, other))
    cosine, there = nearest(one, other)
    back = nearest(other, one)[1]
    mutual = back[there] == torch.arange(len(one))
    return {
        "stable_cosine": float(cosine[mutual].mean()),
        "stable_share": float((mutual & (cosine > ALIKE)).double().mean()),
        "mutual_share": float(mutual.double().mean()),
    }


def nearest(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The largest cosine of every row with a row of the other, and with which."""
    parts = [(part @ other.T).max(dim=1) for part in torch.split(one, ROWS)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def of_text(activations: Activations, name: str) -> Activations | None:
    """The rows of one text, read into memory."""
    shards = []
    for shard in activations.shards:
        documents = [document.startswith(f"{name}/") for document in json.loads(shard.header["documents"])]
        own = torch.tensor(documents)[shard.documents.long()][shard.window.long(), shard.position.long()]
        if bool(own.any()):
            kept = {part: getattr(shard, part)[own] for part in ("activations", "window", "position")}
            shards.append(replace(shard, **kept))
    rows = sum(map(len, shards))
    return Activations(tuple(shards), rows) if rows else None


LONG_MEASURES = (
    Measure(at_any_size.quality, ("nmse", "l0", "l0_spread", "silent", "under_used"), ("dev", "test")),
    Measure(at_any_size.equal_l0, ("nmse_at_k", "l0_at_k", "silent_at_k", "threshold_added"), ("dev", "test")),
    Measure(one_price, ("nmse_one_price", "silent_one_price")),
    Measure(dense, ("dense", "dense_share"), ("dev", "test")),
    Measure(by_text, ("by_text",)),
    Measure(at_any_size.collapse, ("cosine_median", "cosine_highest_percent", "cosine_alike", "cosine_mean_absolute")),
    Measure(at_any_size.language_model_loss, ("ce_recovered", "ce_recovered_from_mean", "ce_added")),
    Measure(curve, ("curve",), only=lambda cell: cell.source in CURVES),
    Measure(
        transfer,
        ("transfer_l0", "transfer_nmse", "transfer_nmse_at_k", "recalibrated_l0", "recalibrated_nmse"),
        only=lambda cell: cell.source == source(FOUR),
    ),
    Measure(stability, ("stable_cosine", "stable_share", "mutual_share"), only=lambda cell: cell.seed > 0),
)
