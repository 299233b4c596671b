"""Gemma Scope: `params.npz` under folders that say layer, width and L0, and nothing else.

`layer_20/width_16k/average_l0_71`, or `embedding/width_4k/average_l0_6`, below the folder of a repository such as
``gemma-scope-2b-pt-res``, which says model and site.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import check_tensors, matrix_shape
from sae_torch.interop.path_facts import ATTENTION, MLP, RESIDUAL, known, number, said
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from sae_torch.interop.inference_form import InferenceForm

WEIGHTS = "params.npz"
FILES = (WEIGHTS,)
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
REPOSITORY = r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att|transcoders)"
SITES = {"res": RESIDUAL, "mlp": MLP, "att": ATTENTION}
NOT_CENTRED = "b_dec is not subtracted from the input"


def recognises(path: Path) -> bool:
    """Whether it holds the archive, which no other family calls so."""
    return (path / WEIGHTS).is_file()


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights, of autoencoders for centred inputs; `k` in place of the mean number that the path says."""
    from sae_torch.interop.inference_form import InferenceForm

    file = path / WEIGHTS
    tensors = _named(read_tensors(file))
    d, F = matrix_shape(file, tensors, "W_enc")
    shapes = {"W_enc": (d, F), "b_enc": (F,), "W_dec": (F, d), "b_dec": (d,), "threshold": (F,)}
    check_tensors(file, tensors, shapes)
    factor = tensors.get("scaling_factor")
    if factor is not None and not factor.allclose(factor.new_ones(factor.shape)):
        raise InputError(f"{file}: scaling_factor: expected ones, found others, which SAELens refuses too")
    W_enc, b_enc, W_dec, b_dec, threshold = (tensors[name] for name in TENSORS)
    read = InferenceForm(W_enc, b_enc, W_dec, b_dec, threshold)
    if _of_embeddings(path):
        # trained on embeddings as the table holds them, which the model multiplies by sqrt(d)
        read = replace(read.scaled(1.0 / math.sqrt(d), math.sqrt(d)), b_enc=read.b_enc)
    if _is_transcoder(path):
        return replace(read, is_transcoder=True, l0=k or _l0(path))
    return replace(read.absorb_b_dec(), l0=k or _l0(path))


def metadata(path: Path) -> dict[str, Any]:
    """Model, site and L0, as far as the path says them."""
    repository, layer = said(path, REPOSITORY), number(path, r"/layer_(\d+)")
    model = site = written = None
    if repository is not None:
        size, kind, where = repository.groups()
        model = f"gemma-2-{size}" + ("-it" if kind == "it" else "")
        site = f"blocks.{layer}.{SITES[where]}" if layer is not None and where in SITES else None
        if where == "transcoders":
            site, written = f"blocks.{layer}.ln2.hook_normalized", f"blocks.{layer}.{MLP}"
    if _of_embeddings(path):
        site, layer = "hook_embed", 0
    return known(
        model_name=model, hook_name=site, hook_name_out=written, hook_layer=layer, l0=_l0(path), context_size=1024,
        prepend_bos=True,
    )  # fmt: skip


def describe(path: Path) -> Description:
    """The shapes in the headers of the arrays, and what the path says."""
    about, weights = metadata(path), _named(read_header(path / WEIGHTS))
    d, F = matrix_shape(path / WEIGHTS, weights, "W_enc")
    conventions = [] if _is_transcoder(path) else [NOT_CENTRED]
    if _of_embeddings(path):
        conventions.append("inputs are embeddings divided by sqrt(d_model)")
    return Description(
        "gemma-scope", path, d, F, dtype_name(weights), "jumprelu", about.get("model_name"), about.get("hook_name"),
        about.get("hook_layer"), about.get("l0"), "transcoder" if _is_transcoder(path) else "autoencoder",
        conventions=tuple(conventions),
    )  # fmt: skip


def _named(tensors: Any) -> dict[str, Tensor]:
    """Some files write the matrices with a small letter."""
    return {"W" + name[1:] if name.startswith("w_") else name: tensor for name, tensor in tensors.items()}


def _l0(path: Path) -> int | None:
    return number(path, r"average_l0_(\d+)")


def _of_embeddings(path: Path) -> bool:
    return said(path, r"/embedding/width_") is not None


def _is_transcoder(path: Path) -> bool:
    repository = said(path, REPOSITORY)
    return repository is not None and repository[3] == "transcoders"
