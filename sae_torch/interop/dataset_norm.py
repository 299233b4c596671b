"""What folders of OpenMOSS have in common: inputs scaled to norm sqrt(d), thresholds that may count decoder norms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop.files import FLAG, NUMBER, TABLE, TEXT, is_kind

if TYPE_CHECKING:
    from torch import Tensor

    from sae_torch.interop.inference_form import InferenceForm

ENTRIES = {
    "sae_type": TEXT, "hook_point_in": TEXT, "hook_point_out": TEXT, "act_fn": TEXT, "norm_activation": TEXT,
    "top_k": NUMBER, "jump_relu_threshold": NUMBER, "dataset_average_activation_norm": TABLE, "use_decoder_bias": FLAG,
    "apply_decoder_bias_to_pre_encoder": FLAG, "sparsity_include_decoder_norm": FLAG, "use_glu_encoder": FLAG,
}  # fmt: skip
NOT_CENTRED = "b_dec is not subtracted from the input"
SCALED = "inputs are scaled to a mean norm of sqrt(d_model), and so are activations"
WITH_NORMS = "thresholds are compared with activations times decoder norms"


def norm_factor(file: Path, d: int, norm: Any) -> float:
    """What inputs are multiplied by, from their mean norm in the data.

    Raises
    ------
    InputError
        If that is no positive number.
    """
    value = float(norm) if is_kind(norm, NUMBER) else 0.0
    if not value > 0:
        raise InputError(f"{file}: the mean norm of activations must be a positive number, found {norm!r}")
    return math.sqrt(d) / value


def thresholds_with_norms(read: InferenceForm, threshold: Tensor) -> InferenceForm:
    """Thresholds of activations times decoder norms, in the units of activations; a row of zeros adds nothing."""
    norms = read.norms
    return replace(read, threshold=(threshold.float() / norms).where(norms > 0, 0.0))


def is_transcoder(config: dict[str, Any]) -> bool:
    """Whether it writes to another site than it reads."""
    return config.get("hook_point_out", config.get("hook_point_in")) != config.get("hook_point_in")


def site_out(config: dict[str, Any]) -> str | None:
    """The site that a transcoder writes to; None of an autoencoder."""
    return config["hook_point_out"] if is_transcoder(config) else None


def refuse_settings(file: Path, config: dict[str, Any]) -> None:
    """Settings that change the function and have no equivalent."""
    if config.get("use_glu_encoder"):
        raise InputError(
            f"{file}: use_glu_encoder: expected false, found true: a gated linear encoder has no equivalent"
        )
