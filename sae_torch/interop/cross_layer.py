"""Cross-layer transcoders of circuit-tracer: `W_enc_i` and `W_dec_i.safetensors` of each layer. Described, refused.

A feature there reads one layer and writes to all that follow, so that no layer stands for itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import matrix_shape
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm

FILES = ("W_enc_0.safetensors", "W_dec_0.safetensors")


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
    """The shapes of the first layer."""
    weights = read_header(path / FILES[0])
    F, d = matrix_shape(path / FILES[0], weights, "W_enc_0")
    activation = "jumprelu" if "threshold_0" in weights else "relu"
    return Description(
        "cross-layer", path, d, F, dtype_name(weights), activation, kind="cross-layer transcoder",
        lost=("everything: features that write to several layers have no equivalent, so it does not import",),
    )  # fmt: skip
