"""Send dashboards to Neuronpedia: `python upload.py FOLDER MODEL SET`.

FOLDER holds the tool's `batch-*.json`, MODEL is Neuronpedia's name of the language
model, SET that of the dictionary there, made if there is none. The key is read from
NEURONPEDIA_API_KEY.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuronpedia.np_activation import Activation
from neuronpedia.np_feature import Feature, Logit
from neuronpedia.np_source_set import SourceSet

AT_ONCE = 128  # as many as the client takes in one call
QUANTILES = {
    "quantileMin": "bin_min",
    "quantileMax": "bin_max",
    "quantileFraction": "bin_contains",
}


def features(
    batch: dict[str, Any], model: str, source: str
) -> Iterator[Feature]:
    """The features of a file as the client has them."""
    for found in batch["features"]:
        name = {"modelId": model, "source": source}
        name |= {"index": found["feature_index"]}
        yield Feature(
            **name,
            density=found["frac_nonzero"],
            top_logits=_logits(found, "pos"),
            bottom_logits=_logits(found, "neg"),
            activations=[
                Activation(**name, **_window(each))
                for each in found["activations"]
            ],
        )


def _logits(found: dict[str, Any], side: str) -> list[Logit]:
    pairs = zip(found[f"{side}_str"], found[f"{side}_values"], strict=True)
    return [Logit(*pair) for pair in pairs]


def _window(found: dict[str, Any]) -> dict[str, Any]:
    """A text and its activations; the highest of all are of no quantile."""
    window = {"tokens": found["tokens"], "values": found["values"]}
    if found["bin_contains"] < 0:
        return window
    return window | {name: found[bin] for name, bin in QUANTILES.items()}


def upload(folder: Path, model: str, name: str) -> None:
    """Send every file."""
    try:
        there = SourceSet.get(model, name)
    except Exception:  # whatever the client says of what is not there
        there = SourceSet.new(name, model)
    for file in sorted(folder.glob("batch-*.json")):
        batch = json.loads(file.read_text(encoding="utf-8"))
        source = there.get_source_for_layer_number(batch["layer"])
        sent = list(features(batch, model, source.id))
        for start in range(0, len(sent), AT_ONCE):
            source.upload_batch(sent[start : start + AT_ONCE])
        print(f"{file.name}: {len(sent)} features to {model}/{source.id}")


if __name__ == "__main__":
    upload(Path(sys.argv[1]), *sys.argv[2:4])
