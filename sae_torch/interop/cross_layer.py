"""Cross-layer transcoders of circuit-tracer: `W_enc_i` and `W_dec_i.safetensors` of each layer. Described, refused.

A feature there reads one layer and writes to all that follow, so that no layer stands for itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop.circuit_tracer import read_config
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import matrix_shape
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

FILES = ("W_enc_0.safetensors", "W_dec_0.safetensors")
_ENCODER = re.compile(r"W_enc_(0|[1-9][0-9]{0,2})\.safetensors")  # no model has 1000 layers


def recognises(path: Path) -> bool:
    """Whether the files of the first layer are there."""
    return all((path / name).is_file() for name in FILES)


def form(path: Path, k: float | None = None) -> InferenceForm:
    """Never."""
    raise InputError(
        f"{path}: expected a dictionary of one layer, found cross-layer transcoders, whose features write to several "
        "layers"
    )


def metadata(path: Path) -> dict[str, Any]:
    """Nothing: no layer stands for itself."""
    return {}


def describe(path: Path) -> Description:
    """The shapes in the headers of all encoders, what `config.yaml` says, and which files are missing."""
    config = read_config(path)
    found = (_ENCODER.fullmatch(each.name) for each in path.iterdir())
    layers = sorted(int(each[1]) for each in found if each is not None)
    encoders = {layer: read_header(path / f"W_enc_{layer}.safetensors") for layer in layers}
    sizes = [matrix_shape(path / f"W_enc_{n}.safetensors", held, f"W_enc_{n}") for n, held in encoders.items()]
    F, d = sizes[0]
    widths = f"{F}" if {width for width, _ in sizes} == {F} else ", ".join(f"{width}" for width, _ in sizes)
    needed = [f"W_{side}_{layer}.safetensors" for layer in range(layers[-1] + 1) for side in ("enc", "dec")]
    missing = tuple(f"{name} is missing" for name in needed if not (path / name).is_file())
    return Description(
        "cross-layer", path, d, F, dtype_name(encoders[0]), "jumprelu" if "threshold_0" in encoders[0] else "relu",
        config.get("model_name"), config.get("feature_input_hook"), kind="cross-layer transcoder",
        conventions=(f"{len(layers)} layers of {widths} features, which write to their layer and all that follow",),
        lost=("everything: features that write to several layers have no equivalent, so it does not import",),
        defects=missing,
    )  # fmt: skip
