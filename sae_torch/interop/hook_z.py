"""Attention autoencoders of GPT-2 small (Kissane, Krzyzanowski): one `.pt` and a `_cfg.json` of the same name.

They read the outputs of all heads of a layer, side by side, as they enter the output projection.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.interop.description import Description, dtype_name, layer_of
from sae_torch.interop.files import TEXT, check_tensors, matrix_shape, read_entries
from sae_torch.interop.path_facts import known
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

FILES: tuple[str, ...] = ()
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


def recognises(path: Path) -> bool:
    """Whether it is such a file, with its configuration beside it."""
    return path.suffix == ".pt" and path.is_file() and _config_of(path).is_file()


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights, which are in our form; nothing says how many features are active."""
    import torch

    from sae_torch.interop.inference_form import InferenceForm

    tensors = read_tensors(path)
    d, F = matrix_shape(path, tensors, "W_enc")
    check_tensors(path, tensors, {"W_enc": (d, F), "b_enc": (F,), "W_dec": (F, d), "b_dec": (d,)})
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in TENSORS)
    return InferenceForm(W_enc, b_enc, W_dec, b_dec, torch.zeros(F), l0=k)


def metadata(path: Path) -> dict[str, Any]:
    """The site of the configuration."""
    site = read_entries(_config_of(path), {"act_name": TEXT}).get("act_name")
    return known(
        model_name="gpt2-small", hook_name=site, hook_layer=layer_of(site), context_size=128, prepend_bos=True,
        dataset_path="Skylion007/openwebtext",
    )  # fmt: skip


def describe(path: Path) -> Description:
    """The shapes in the file, and its configuration."""
    about, weights = metadata(path), read_header(path)
    d, F = matrix_shape(path, weights, "W_enc")
    return Description(
        "hook-z", path, d, F, dtype_name(weights), "relu", about["model_name"], about.get("hook_name"),
        about.get("hook_layer"), conventions=("activations are those of all heads, side by side",),
    )  # fmt: skip


def _config_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_cfg.json")
