"""One torch file of OpenAI's autoencoders for GPT-2 small: TopK of normalised inputs, or ReLU.

``pre_bias``, ``encoder.weight``, ``latent_bias``, ``decoder.weight``, and the name of the activation with its settings.
Inputs are normalised where that is TopK, by the rule of their own reader. The path
``resid_post_mlp_v5_32k/autoencoders/6.pt`` says site and layer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.input_transform import LayerNorm
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import check_tensors, matrix_shape, read_whole_number
from sae_torch.interop.path_facts import known, number, said
from sae_torch.interop.torch_files import read_objects
from sae_torch.interop.weight_headers import TORCH_SUFFIXES, read_header, read_outline

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

FILES: tuple[str, ...] = ()
TENSORS = ("pre_bias", "encoder.weight", "latent_bias", "decoder.weight")
SITES = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}
NORMALISED = "each token's activations are normalised first, to mean 0 and standard deviation 1"


def recognises(path: Path) -> bool:
    """Whether it is a torch file with their names of tensors."""
    if path.suffix not in TORCH_SUFFIXES or not path.is_file():
        return False
    return {"pre_bias", "latent_bias"} <= read_outline(path).keys()


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights; of a ReLU autoencoder nothing says how many features are active."""
    import torch

    from sae_torch.interop.inference_form import InferenceForm

    held = read_objects(path)
    tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
    F, d = matrix_shape(path, tensors, "encoder.weight")
    shapes = dict(zip(TENSORS, ((d,), (F, d), (F,), (d, F)), strict=True))
    check_tensors(path, tensors, shapes)
    b_dec, encoder, b_enc, decoder = (tensors[name] for name in TENSORS)
    read = InferenceForm(encoder.T, b_enc, decoder.T, b_dec)
    top = _top(path, held)
    if top is None:
        return replace(read, threshold=torch.zeros(F), l0=k)
    return replace(read, k=top, input_transform=LayerNorm())


def metadata(path: Path) -> dict[str, Any]:
    """Model, site and layer, where the path says them."""
    layer, site = number(path, r"/(\d+)\.\w+$"), said(path, f"/({'|'.join(SITES)})(?:_v\\w+)?/")
    hook = None if layer is None or site is None else f"blocks.{layer}.{SITES[site[1]]}"
    return known(model_name="gpt2-small", hook_name=hook, hook_layer=None if hook is None else layer)


def describe(path: Path) -> Description:
    """The shapes and the activation in the file, and what its path says."""
    about, weights, top = metadata(path), read_header(path), _top(path, read_outline(path))
    F, d = matrix_shape(path, weights, "encoder.weight")
    return Description(
        "openai", path, d, F, dtype_name(weights), "relu" if top is None else "topk", about.get("model_name"),
        about.get("hook_name"), about.get("hook_layer"), top, conventions=() if top is None else (NORMALISED,),
    )  # fmt: skip


def _top(path: Path, held: Any) -> int | None:
    """K of a TopK; None of ReLU, which files from before others have no name for."""
    name, given = held.get("activation", "ReLU"), held.get("activation_state_dict", {})
    if name == "ReLU":
        return None
    after = given.get("postact_fn", "ReLU") if isinstance(given, dict) else None
    if name != "TopK" or after != "ReLU":
        shown = name if name != "TopK" else f"TopK with {after!r} after it"
        raise InputError(f"{path}: activation: expected ReLU, or TopK with ReLU after it, found {shown}")
    return read_whole_number(path, given, "k")
