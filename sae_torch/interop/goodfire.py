"""One file of a ReLU autoencoder in torch's words, as Goodfire and qresearch published theirs: `.pt` or `.pth`.

`encoder_linear.weight`, or `encoder.weight`, and so on. There is no configuration; a name such as
``Llama-3.1-8B-Instruct-SAE-l19.pth`` says model and layer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import check_tensors, matrix_shape
from sae_torch.interop.path_facts import RESIDUAL, known
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import TORCH_SUFFIXES, read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

FILES: tuple[str, ...] = ()
LAYERS = (("encoder_linear", "decoder_linear"), ("encoder", "decoder"))
NAME = re.compile(r"(?P<model>.+)-SAE-l(?P<layer>\d+)")
MODELS = {
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "Llama-3.3-70B-Instruct": "meta-llama/Llama-3.3-70B-Instruct",
    "DeepSeek-R1-Distill-Llama-8B": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
}


def recognises(path: Path) -> bool:
    """Whether it is a torch file that holds two linear layers and nothing else."""
    if path.suffix not in TORCH_SUFFIXES or not path.is_file():
        return False
    return _layers(read_header(path).keys()) is not None


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights for inputs from which `b_dec` is subtracted; nothing says how many features are active."""
    import torch

    from sae_torch.interop.inference_form import InferenceForm

    tensors = read_tensors(path)
    names = _layers(tensors.keys())
    assert names is not None
    encoder, decoder = names
    F, d = matrix_shape(path, tensors, f"{encoder}.weight")
    shapes = {f"{encoder}.weight": (F, d), f"{encoder}.bias": (F,)}
    shapes |= {f"{decoder}.weight": (d, F), f"{decoder}.bias": (d,)}
    check_tensors(path, tensors, shapes)
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in shapes)
    return replace(InferenceForm(W_enc.T, b_enc, W_dec.T, b_dec, torch.zeros(F)).absorb_b_dec(), l0=k)


def metadata(path: Path) -> dict[str, Any]:
    """Model and layer, where the name of the file says them."""
    named = NAME.fullmatch(path.stem)
    if named is None:
        return {}
    layer = int(named["layer"])
    model = MODELS.get(named["model"], named["model"])
    return known(model_name=model, hook_name=f"blocks.{layer}.{RESIDUAL}", hook_layer=layer, prepend_bos=True)


def describe(path: Path) -> Description:
    """The shapes in the file, and what its name says."""
    about, weights = metadata(path), read_header(path)
    names = _layers(weights.keys())
    assert names is not None
    F, d = matrix_shape(path, weights, f"{names[0]}.weight")
    return Description(
        "goodfire", path, d, F, dtype_name(weights), "relu", about.get("model_name"), about.get("hook_name"),
        about.get("hook_layer"), conventions=("b_dec is not subtracted from the input",),
    )  # fmt: skip


def _layers(names: Any) -> tuple[str, str] | None:
    """What a file calls its two layers."""
    for encoder, decoder in LAYERS:
        if set(names) == {f"{layer}.{part}" for layer in (encoder, decoder) for part in ("weight", "bias")}:
            return encoder, decoder
    return None
