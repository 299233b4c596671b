"""Temporal autoencoders: `conf.yaml` and `latest_ckpt.safetensors`. Described, and refused.

Attention over the tokens before foretells a part of the activation, so that no token stands for itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.path_facts import RESIDUAL, known, number
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

CONFIG, WEIGHTS = "conf.yaml", "latest_ckpt.safetensors"
FILES = (CONFIG, WEIGHTS)


def recognises(path: Path) -> bool:
    """Whether both files are there, with a decoder and attention."""
    if not all((path / name).is_file() for name in FILES):
        return False
    names = read_header(path / WEIGHTS).keys()
    return "D" in names and any(name.startswith("attn_layers.") for name in names)


def form(path: Path, k: float | None = None) -> InferenceForm:
    """Never."""
    raise InputError(
        f"{path}: expected an autoencoder that encodes a token by itself, found a temporal one, whose attention reads "
        "the tokens before"
    )


def metadata(path: Path) -> dict[str, Any]:
    """The layer, as the path says it."""
    layer = number(path, r"/layer_(\d+)")
    return known(hook_name=None if layer is None else f"blocks.{layer}.{RESIDUAL}", hook_layer=layer)


def describe(path: Path) -> Description:
    """The shape of the decoder."""
    weights, about = read_header(path / WEIGHTS), metadata(path)
    F, d = weights["D"].shape
    return Description(
        "temporal", path, d, F, dtype_name(weights), "attention over tokens", None, about.get("hook_name"),
        about.get("hook_layer"), lost=("everything: attention over tokens has no equivalent, so it does not import",),
    )  # fmt: skip
