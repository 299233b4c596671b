"""Qwen Scope: a file `layerN.sae.pt` for each layer, with matrices transposed.

Model, width and k are in the name of the folder, ``SAE-Res-Qwen3-1.7B-Base-W32K-L0_50``, and in a `config.json` that
most hold beside the layers. A token takes its k largest activations, whatever the norms of their decoder rows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.files import read_json
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import NUMBER, TEXT, check_entries, check_tensors, matrix_shape
from sae_torch.interop.path_facts import RESIDUAL, known, said
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

CONFIG = "config.json"
FILES: tuple[str, ...] = ()
LAYER = re.compile(r"layer(\d+)\.sae\.pt")
FOLDER = r"SAE-Res-([^/]+)-W(\d+)K-L0_(\d+)"


def recognises(path: Path) -> bool:
    """Whether it is a file of that name."""
    return LAYER.fullmatch(path.name) is not None and path.is_file()


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights for inputs from which `b_dec` is subtracted; `k` where neither folder nor configuration say it."""
    from sae_torch.interop.inference_form import InferenceForm

    tensors = read_tensors(path)
    F, d = matrix_shape(path, tensors, "W_enc")
    check_tensors(path, tensors, {"W_enc": (F, d), "b_enc": (F,), "W_dec": (d, F), "b_dec": (d,)})
    top = _k(path)
    if top is None:
        if k is None:
            raise InputError(f"{path}: neither a folder SAE-Res-<model>-W<n>K-L0_<k> nor a {CONFIG} says k; pass --k")
        if k != int(k):
            raise InputError(f"k: expected a whole number of features per token, found {k:g}")
        top = int(k)
    read = InferenceForm(tensors["W_enc"].T, tensors["b_enc"], tensors["W_dec"].T, tensors["b_dec"], k=top)
    return read.absorb_b_dec()


def metadata(path: Path) -> dict[str, Any]:
    """Model and site: of the names of folder and file, or of the configuration."""
    named, beside = said(path, FOLDER), _config(path)
    layer = int(LAYER.fullmatch(path.name)[1])  # type: ignore[index]
    model = f"Qwen/{named[1]}" if named else beside.get("base_model")
    return known(
        model_name=model, hook_name=f"blocks.{layer}.{RESIDUAL}", hook_layer=layer,
        hf_hook_name=f"model.layers.{layer}", l0=_k(path), context_size=1024, prepend_bos=True,
    )  # fmt: skip


def describe(path: Path) -> Description:
    """The shapes in the file, and what names and configuration say."""
    about, weights = metadata(path), read_header(path)
    F, d = matrix_shape(path, weights, "W_enc")
    conventions = ("b_dec is not subtracted from the input", "a token's top k is ranked without decoder norms")
    return Description(
        "qwen-scope", path, d, F, dtype_name(weights), "topk", about.get("model_name"), about["hook_name"],
        about["hook_layer"], _k(path), conventions=conventions,
    )  # fmt: skip


def _config(path: Path) -> dict[str, Any]:
    file = path.parent / CONFIG
    content = read_json(file) if file.is_file() else {}
    if content.get("model_type") != "topk_sae":
        return {}
    check_entries(file, content, {"base_model": TEXT, "k": NUMBER})
    return content


def _k(path: Path) -> int | None:
    """Of the folder's name, which the files were published under; then of the configuration."""
    named, beside = said(path, FOLDER), _config(path).get("k")
    if named is not None:
        return int(named[3])
    return beside if isinstance(beside, int) and not isinstance(beside, bool) else None
