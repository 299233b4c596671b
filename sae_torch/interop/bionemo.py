"""Checkpoints of BioNeMo's recipes for autoencoders of ESM-2, CodonFM and Evo 2: one torch file, TopK as OpenAI's.

``model_state_dict`` holds the tensors, ``model_config`` the settings: ``top_k``, and whether each token's activations
are normalised, which they are unless it says otherwise. Neither files nor paths say model and layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.input_transform import LayerNorm
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import FLAG, check_entries, check_tensors, matrix_shape, read_whole_number
from sae_torch.interop.openai import TENSORS
from sae_torch.interop.torch_files import read_objects
from sae_torch.interop.weight_headers import TORCH_SUFFIXES, read_outline

if TYPE_CHECKING:
    from torch import Tensor

    from sae_torch.interop.inference_form import InferenceForm

FILES: tuple[str, ...] = ()
STATE, CONFIG = "model_state_dict", "model_config"
NORMALISED = (
    "each token's activations are normalised first, to mean 0 and standard deviation 1, to which 1e-5 is added here "
    "and 1e-8 there"
)


def recognises(path: Path) -> bool:
    """Whether it is a torch file with both, and with the names of their tensors."""
    if path.suffix not in TORCH_SUFFIXES or not path.is_file():
        return False
    held = read_outline(path)
    return isinstance(held.get(CONFIG), Mapping) and _tensors(held).keys() >= {"encoder.weight", "decoder.weight"}


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights; `k` is in the file."""
    from sae_torch.interop.inference_form import InferenceForm

    held = read_objects(path)
    top, normalises = _settings(path, held)
    tensors = _tensors(held)
    F, d = matrix_shape(path, tensors, "encoder.weight")
    check_tensors(path, tensors, dict(zip(TENSORS, ((d,), (F, d), (F,), (d, F)), strict=True)))
    b_dec, encoder, b_enc, decoder = (tensors[name] for name in TENSORS)
    read = InferenceForm(encoder.T, b_enc, decoder.T, b_dec, k=top)
    return replace(read, input_transform=LayerNorm()) if normalises else read


def metadata(path: Path) -> dict[str, Any]:
    """Nothing: the recipes name files as their users do."""
    return {}


def describe(path: Path) -> Description:
    """The shapes and settings in the file."""
    held = read_outline(path)
    top, normalises = _settings(path, held)
    tensors = _tensors(held)
    F, d = matrix_shape(path, tensors, "encoder.weight")
    conventions = (NORMALISED,) if normalises else ()
    return Description("bionemo", path, d, F, dtype_name(tensors), "topk", k=top, conventions=conventions)


def _tensors(held: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those of the state, without the prefix of those that several processes trained."""
    state = held.get(STATE)
    named = state.items() if isinstance(state, Mapping) else ()
    return {str(name).removeprefix("module."): value for name, value in named if hasattr(value, "shape")}


def _settings(path: Path, held: Mapping[str, Any]) -> tuple[int, bool]:
    """K, and whether each token's activations are normalised."""
    config = {str(name): value for name, value in held[CONFIG].items()}
    check_entries(path, config, {"normalize_input": FLAG}, f"{CONFIG}.")
    if "top_k" not in config:
        raise InputError(f"{path}: {CONFIG}: expected top_k, as a TopK autoencoder has it, found {', '.join(config)}")
    return read_whole_number(path, config, "top_k"), config.get("normalize_input") is not False
