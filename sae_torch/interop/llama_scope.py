"""Llama Scope: `hyperparams.json` and `checkpoints/final.safetensors`.

Inputs are scaled by the mean norm that the configuration records. One threshold serves all features; it is in units of
activations that are not scaled, and, where `sparsity_include_decoder_norm` is set, of activations times decoder norms:
the library that wrote these files folds both into the weights before it compares.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop import dataset_norm
from sae_torch.interop.description import Description, dtype_name, layer_of
from sae_torch.interop.files import check_tensors, matrix_shape, read_entries
from sae_torch.interop.path_facts import known, said
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
FILES = (CONFIG, WEIGHTS)
MODEL = "meta-llama/Llama-3.1-8B"


def recognises(path: Path) -> bool:
    """Whether both files are there."""
    return all((path / name).is_file() for name in FILES)


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights for inputs as they are; `k` in place of the mean number that training was given."""
    import torch

    from sae_torch.interop.inference_form import InferenceForm

    file, config = path / CONFIG, read_entries(path / CONFIG, dataset_norm.ENTRIES)
    dataset_norm.refuse_settings(file, config)
    threshold = _threshold(file, config)
    tensors = read_tensors(path / WEIGHTS)
    F, d = matrix_shape(path / WEIGHTS, tensors, "encoder.weight")
    shapes = {"encoder.weight": (F, d), "encoder.bias": (F,), "decoder.weight": (d, F), "decoder.bias": (d,)}
    check_tensors(path / WEIGHTS, tensors, shapes)
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in shapes)
    is_transcoder = dataset_norm.is_transcoder(config)
    read = InferenceForm(W_enc.T, b_enc, W_dec.T, b_dec, l0=k or config.get("top_k"), is_transcoder=is_transcoder)
    taken, written = (_factor(file, config, d, side) for side in ("in", "out" if is_transcoder else "in"))
    if config.get("sparsity_include_decoder_norm"):  # of the decoder as it writes what is not scaled
        read = dataset_norm.thresholds_with_norms(read, torch.full((F,), threshold * written, dtype=torch.float64))
    else:
        read = replace(read, threshold=torch.full((F,), threshold * taken, dtype=torch.float64).float())
    read = read.for_scaled_inputs(taken, written)
    if is_transcoder or config.get("apply_decoder_bias_to_pre_encoder"):
        return read
    return read.absorb_b_dec()


def metadata(path: Path) -> dict[str, Any]:
    """Site and mean number of features of the configuration; the model that all of this family are of."""
    config = read_entries(path / CONFIG, dataset_norm.ENTRIES)
    site = config.get("hook_point_in")
    model = MODEL if said(path, r"Llama3_1-8B") else None
    return known(
        model_name=model, hook_name=site, hook_name_out=dataset_norm.site_out(config), hook_layer=layer_of(site),
        l0=config.get("top_k"), context_size=1024, prepend_bos=True,
    )  # fmt: skip


def describe(path: Path) -> Description:
    """The configuration, and the shapes in the header of the weights."""
    config, about, weights = (
        read_entries(path / CONFIG, dataset_norm.ENTRIES),
        metadata(path),
        read_header(path / WEIGHTS),
    )
    F, d = matrix_shape(path / WEIGHTS, weights, "encoder.weight")
    conventions = [dataset_norm.SCALED, "the one threshold is in units of activations that are not scaled"]
    if not (dataset_norm.is_transcoder(config) or config.get("apply_decoder_bias_to_pre_encoder")):
        conventions.append(dataset_norm.NOT_CENTRED)
    if config.get("sparsity_include_decoder_norm"):
        conventions.append(f"{dataset_norm.WITH_NORMS}; SAELens leaves the norms out")
    return Description(
        "llama-scope", path, d, F, dtype_name(weights), str(config.get("act_fn", "jumprelu")), about.get("model_name"),
        about.get("hook_name"), about.get("hook_layer"), config.get("top_k"),
        "transcoder" if dataset_norm.is_transcoder(config) else "autoencoder", conventions=tuple(conventions),
    )  # fmt: skip


def _threshold(file: Path, config: dict[str, Any]) -> float:
    """The one threshold; a top k was published with one that stands in for it."""
    activation, threshold = config.get("act_fn", "jumprelu"), config.get("jump_relu_threshold")
    if activation not in ("jumprelu", "topk"):
        raise InputError(f"{file}: act_fn: expected jumprelu, or topk with a threshold, found {activation!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
        raise InputError(f"{file}: jump_relu_threshold: expected a number, found {threshold!r}")
    return float(threshold)


def _factor(file: Path, config: dict[str, Any], d: int, side: str) -> float:
    """What inputs, or outputs, are multiplied by."""
    if config.get("norm_activation", "dataset-wise") == "dataset-wise":
        norms = config.get("dataset_average_activation_norm") or {}
        return dataset_norm.norm_factor(file, d, norms.get(side))
    if config["norm_activation"] == "inference":
        return 1.0
    raise InputError(f"{file}: norm_activation: expected dataset-wise, found {config['norm_activation']!r}")
