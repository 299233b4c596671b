"""Gemma Scope 2: `params.safetensors` and, mostly, `config.json`.

`resid_post/layer_12_width_16k_l0_small` below the folder of a repository such as ``gemma-scope-2-270m-pt``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import FLAG, NUMBER, TEXT, check_tensors, matrix_shape, read_entries
from sae_torch.interop.path_facts import ATTENTION, MLP, RESIDUAL, known, number, said
from sae_torch.interop.tensor_header import Shaped
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

CONFIG, WEIGHTS = "config.json", "params.safetensors"
FILES = (WEIGHTS,)
ENTRIES = {
    "model_name": TEXT, "architecture": TEXT, "type": TEXT, "hf_hook_point_in": TEXT, "l0": NUMBER,
    "affine_connection": FLAG,
}  # fmt: skip
SKIP = "affine_skip_connection"
TENSORS = ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
# Transcoders read what the norm before the MLP gives out; `hook_mlp_in` of TransformerLens lies before that norm.
SITES = {"resid_post": RESIDUAL, "attn_out": ATTENTION, "mlp_out": MLP, "transcoder": "mlp.hook_in"}
PLACE = r"/(resid_post|attn_out|mlp_out|transcoder|crosscoder|clt)(?:_all)?/"
# Where its configuration names modules of transformers instead.
MODULES = {
    "output": "resid_post",
    "self_attn.o_proj.input": "attn_out",
    "post_feedforward_layernorm.output": "mlp_out",
    "pre_feedforward_layernorm.output": "transcoder",
}
# What has no equivalent here, and why.
OTHERS = {
    "cross-layer transcoder": "a cross-layer transcoder, whose features write to several layers",
    "crosscoder": "a crosscoder, whose features read and write several layers",
}
CONVENTIONS = {
    "attn_out": "activations are those that enter o_proj, all heads side by side",
    "mlp_out": "activations are those behind the norm that follows the MLP",
}


def recognises(path: Path) -> bool:
    """Whether it holds the file, which no other family calls so."""
    return (path / WEIGHTS).is_file()


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights, of autoencoders for centred inputs; `k` in place of the mean number that the file says."""
    from sae_torch.interop.inference_form import InferenceForm

    file, config, weights = path / WEIGHTS, _config(path), read_header(path / WEIGHTS)
    kind = _kind(path, config, weights)
    if kind not in ("autoencoder", "transcoder"):
        raise _refused(path, kind)
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise InputError(f"{path / CONFIG}: architecture: expected 'jump_relu', found {config['architecture']!r}")
    tensors = read_tensors(file)
    d, F = matrix_shape(file, tensors, "w_enc")
    d_out = matrix_shape(file, tensors, "w_dec")[1] if kind == "transcoder" else d
    shapes: dict[str, tuple[int, ...]] = {"w_enc": (d, F), "b_enc": (F,), "w_dec": (F, d_out), "b_dec": (d_out,)}
    skip = tensors.get(SKIP)
    if skip is None and config.get("affine_connection") and kind == "transcoder":
        raise InputError(f"{file}: expected {SKIP}, which {CONFIG} says it has, found none")
    if skip is not None and kind == "autoencoder":
        raise InputError(f"{file}: expected {', '.join(TENSORS)} of an autoencoder, found {SKIP} too")
    shapes |= {"threshold": (F,)} | ({} if skip is None else {SKIP: (d, d_out)})
    check_tensors(file, tensors, shapes)
    W_enc, b_enc, W_dec, b_dec, threshold = (tensors[name] for name in TENSORS)
    read = InferenceForm(W_enc, b_enc, W_dec, b_dec, threshold)
    read = replace(read, l0=k or config.get("l0"))
    if kind == "transcoder":
        return replace(read, is_transcoder=True, W_skip=None if skip is None else skip.T)
    return read.absorb_b_dec()


def metadata(path: Path) -> dict[str, Any]:
    """Model, site and L0: of the configuration, or as far as the path says them."""
    config = _config(path)
    repository, layer = said(path, r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)"), number(path, r"/layer_(\d+)_width")
    model = config.get("model_name") or (f"gemma-3-{repository[1]}-{repository[2]}" if repository else None)
    if model is not None:
        model = model if "/" in model else f"google/{model}"
        model = model.replace("-v3-", "-3-")
        if "270m" in model:  # the one without a suffix on the hub
            model = model.removesuffix("-pt")
    module = str(config.get("hf_hook_point_in") or "")
    place, site = _place(path, config), None
    if layer is not None and place in SITES:
        site = f"blocks.{layer}.{SITES[place]}"
    written = f"blocks.{layer}.{MLP}" if layer is not None and place == "transcoder" else None
    return known(
        model_name=model, hook_name=site, hook_name_out=written, hook_layer=layer, l0=config.get("l0"),
        hf_hook_name=module or None, context_size=1024, prepend_bos=True,
    )  # fmt: skip


def describe(path: Path) -> Description:
    """The shapes in the header of the weights, the configuration, and what the path says."""
    config, weights, about = _config(path), read_header(path / WEIGHTS), metadata(path)
    kind, place = _kind(path, config, weights), _place(path, config)
    d, F = _sizes(path, weights, kind)
    also = (CONVENTIONS[place],) if kind == "autoencoder" and place in CONVENTIONS else ()
    conventions = ("b_dec is not subtracted from the input",) if kind == "autoencoder" else ()
    if kind == "cross-layer transcoder" and "w_dec" in weights and weights["w_dec"].ndim == 3:
        also = (f"features write to {weights['w_dec'].shape[1]} layers",)
    if SKIP in weights:
        also = (f"{SKIP} is (d_in, d_out), the transpose of W_skip",)
    return Description(
        "gemma-scope-2", path, d, F, dtype_name(weights), "jumprelu", about.get("model_name"), about.get("hook_name"),
        about.get("hook_layer"), about.get("l0"), kind, int(weights["w_dec"].shape[-1]) if "w_dec" in weights else None,
        conventions=(*conventions, *also),
        lost=() if kind in ("autoencoder", "transcoder") else (f"everything: it is {OTHERS.get(kind, kind)}",),
    )  # fmt: skip


def _refused(path: Path, kind: str) -> InputError:
    found = OTHERS.get(kind, f"a {kind}")
    return InputError(f"{path}: expected an autoencoder or transcoder of one layer, found {found}")


def _sizes(path: Path, weights: Mapping[str, Shaped], kind: str) -> tuple[int, int]:
    """Width and number of features; of what has no equivalent as far as its biases and decoder say them."""
    if kind in ("autoencoder", "transcoder"):
        return matrix_shape(path / WEIGHTS, weights, "w_enc")
    shapes = {name: tuple(each.shape) for name, each in weights.items() if len(each.shape)}
    widths = [shape[-1] for name, shape in shapes.items() if name.startswith(("b_dec", "w_dec"))]
    features = [shape[-1] for name, shape in shapes.items() if name.startswith(("threshold", "b_enc"))]
    if not (widths and features):
        raise _refused(path, kind)
    return widths[0], features[0]


def _config(path: Path) -> dict[str, Any]:
    """Empty where the file is missing, as in some folders."""
    return read_entries(path / CONFIG, ENTRIES) if (path / CONFIG).is_file() else {}


def _place(path: Path, config: Mapping[str, Any]) -> str | None:
    """The site by its name in paths."""
    where = said(path, PLACE)
    if where is not None:
        return where[1]
    module = str(config.get("hf_hook_point_in") or "").partition("model.layers.")[2].partition(".")[2]
    return MODULES.get(module)


def _kind(path: Path, config: Mapping[str, Any], weights: Mapping[str, Shaped]) -> str:
    """Autoencoder, transcoder or cross-layer transcoder: the file's word, its tensors, or the path."""
    names = {"sae": "autoencoder", "transcoder": "transcoder", "clt": "cross-layer transcoder"}
    if config.get("type") is not None:
        return names.get(config["type"], str(config["type"]))
    if "w_dec" in weights and weights["w_dec"].ndim == 3:
        reads_several = "w_enc" in weights and weights["w_enc"].ndim == 3
        return "crosscoder" if reads_several else "cross-layer transcoder"
    place = _place(path, config)
    if place == "transcoder" or SKIP in weights:
        return "transcoder"
    return {"clt": "cross-layer transcoder", "crosscoder": "crosscoder"}.get(place or "", "autoencoder")
