"""The folder of Llamascopium, once lm-saes: `config.json` and `sae_weights.safetensors`.

Version 2 calls its tensors `W_E`, `b_E`, `W_D`, `b_D`; Llama Scope R1 was written before, as `encoder.weight` and
so on.
Inputs are scaled by the mean norm that lies beside the weights, unless `norm_activation` is `inference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.input_transform import ConstantNorm
from sae_torch.interop import dataset_norm
from sae_torch.interop.description import Description, dtype_name, layer_of
from sae_torch.interop.files import check_shapes, check_tensors, matrix_shape, read_entries, read_whole_number
from sae_torch.interop.path_facts import known, said
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from sae_torch.interop.inference_form import InferenceForm

CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
FILES = (CONFIG, WEIGHTS)
ACTIVATIONS = ("relu", "jumprelu", "topk", "batchtopk")
NORM = "dataset_average_activation_norm."
# By either version: encoder, its bias, decoder, its bias, logarithms of thresholds.
VERSION_2 = ("W_E", "b_E", "W_D", "b_D", "activation_function.log_jumprelu_threshold")
VERSION_1 = ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "log_jumprelu_threshold")


def recognises(path: Path) -> bool:
    """Whether both files are there, with tensors of either version's names."""
    if not all((path / name).is_file() for name in FILES):
        return False
    names = read_header(path / WEIGHTS).keys()
    return any(set(version[:3]) <= names for version in (VERSION_1, VERSION_2))


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights for inputs as they are; `k` in place of the configuration's, where thresholds choose."""
    from sae_torch.choices.token import TokenChoice

    file, config = path / CONFIG, read_entries(path / CONFIG, dataset_norm.ENTRIES)
    kind = config.get("sae_type", "sae")
    if kind != "sae":
        raise InputError(f"{file}: sae_type: expected 'sae', found {kind!r}, which has no equivalent")
    dataset_norm.refuse_settings(file, config)
    activation = str(config.get("act_fn", "relu")).lower()
    if activation not in ACTIVATIONS:
        raise InputError(f"{file}: act_fn: expected {', '.join(ACTIVATIONS)}, found {activation!r}")
    tensors = read_tensors(path / WEIGHTS)
    read, d = _weights(path / WEIGHTS, config, tensors)
    with_norms = config.get("sparsity_include_decoder_norm", "W_E" in tensors)
    if activation == "jumprelu":
        threshold = tensors[_names(tensors)[4]].float().exp()
        read = dataset_norm.thresholds_with_norms(read, threshold) if with_norms else replace(read, threshold=threshold)
    elif activation == "relu":
        read = replace(read, threshold=read.b_enc.new_zeros(read.b_enc.shape).float())
    read = _unscaled(file, config, tensors, replace(read, is_transcoder=dataset_norm.is_transcoder(config)), d)
    if not (read.is_transcoder or config.get("apply_decoder_bias_to_pre_encoder")):
        read = read.absorb_b_dec()
    if activation == "topk":
        top = read_whole_number(file, config, "top_k")
        return replace(read, k=top, own_choice=TokenChoice(top) if with_norms else None)
    return replace(read, l0=k or config.get("top_k"))


def metadata(path: Path) -> dict[str, Any]:
    """Site and number of features of the configuration, model of the path."""
    config = read_entries(path / CONFIG, dataset_norm.ENTRIES)
    site = config.get("hook_point_in")
    model = "meta-llama/Llama-3.1-8B" if said(path, r"Llama-Scope-R1-Distill") else None
    return known(
        model_name=model, hook_name=site, hook_name_out=dataset_norm.site_out(config), hook_layer=layer_of(site),
        l0=config.get("top_k"), prepend_bos=True,
    )  # fmt: skip


def describe(path: Path) -> Description:
    """The configuration, and the shapes in the header of the weights."""
    config, about, weights = (
        read_entries(path / CONFIG, dataset_norm.ENTRIES),
        metadata(path),
        read_header(path / WEIGHTS),
    )
    names = _names(weights)
    shape = matrix_shape(path / WEIGHTS, weights, names[0])
    d, F = shape if names is VERSION_2 else shape[::-1]
    conventions = []
    scaling = config.get("norm_activation", "dataset-wise")
    if scaling == "dataset-wise":
        conventions.append(dataset_norm.SCALED)
    elif scaling == "token-wise":
        conventions.append("every token's input is scaled to norm sqrt(d_model)")
    if not (dataset_norm.is_transcoder(config) or config.get("apply_decoder_bias_to_pre_encoder")):
        conventions.append(dataset_norm.NOT_CENTRED)
    if config.get("sparsity_include_decoder_norm", names is VERSION_2):
        conventions.append(dataset_norm.WITH_NORMS)
    return Description(
        "llamascopium", path, d, F, dtype_name(weights), str(config.get("act_fn", "relu")), about.get("model_name"),
        about.get("hook_name"), about.get("hook_layer"), config.get("top_k"),
        "transcoder" if dataset_norm.is_transcoder(config) else "autoencoder", conventions=tuple(conventions),
    )  # fmt: skip


def _names(tensors: Mapping[str, Any]) -> tuple[str, ...]:
    return VERSION_2 if "W_E" in tensors else VERSION_1


def _weights(file: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[InferenceForm, int]:
    """The weights as they are, and their width."""
    import torch

    from sae_torch.interop.inference_form import InferenceForm

    names = _names(tensors)
    first, b_enc, last, b_dec, threshold = names
    matrix = matrix_shape(file, tensors, first)
    d, F = matrix if names is VERSION_2 else matrix[::-1]
    shapes = {first: (d, F), b_enc: (F,), last: (F, d)}
    if names is VERSION_1:
        shapes |= {first: (F, d), last: (d, F)}
    if config.get("use_decoder_bias", True):
        shapes[b_dec] = (d,)
    if str(config.get("act_fn", "relu")).lower() == "jumprelu":
        shapes[threshold] = (F,)
    check_tensors(file, tensors, shapes)
    bias = tensors[b_dec] if b_dec in shapes else torch.zeros(d)
    W_enc, W_dec = tensors[first], tensors[last]
    if names is VERSION_1:
        W_enc, W_dec = W_enc.T, W_dec.T
    return InferenceForm(W_enc, tensors[b_enc], W_dec, bias), d


def _unscaled(
    file: Path, config: dict[str, Any], tensors: Mapping[str, Tensor], read: InferenceForm, d: int
) -> InferenceForm:
    """The weights for inputs that are not scaled."""
    scaling = config.get("norm_activation", "dataset-wise")
    if scaling == "inference":
        return read
    if scaling == "token-wise" and not read.is_transcoder:
        return replace(read, input_transform=ConstantNorm())
    if scaling != "dataset-wise":
        expected = "dataset-wise or inference" if read.is_transcoder else "dataset-wise, token-wise or inference"
        raise InputError(f"{file}: norm_activation: expected {expected}, found {scaling!r}")
    sites = [config.get("hook_point_in"), config.get("hook_point_out", config.get("hook_point_in"))]
    taken, written = (_factor(file, config, tensors, site, d) for site in sites)
    return read.for_scaled_inputs(taken, written)


def _factor(file: Path, config: dict[str, Any], tensors: Mapping[str, Tensor], site: Any, d: int) -> float:
    """What activations at a site are multiplied by: of the norms beside the weights, or in the configuration."""
    name = f"{NORM}{site}"
    if name in tensors:
        check_shapes(file.with_name(WEIGHTS), tensors, {name: ()})
        norm: Any = float(tensors[name])
    else:
        norm = (config.get("dataset_average_activation_norm") or {}).get(site)
    if norm is None:
        raise InputError(f"{file}: expected the mean norm of activations at {site} beside the weights, found none")
    return dataset_norm.norm_factor(file, d, norm)
