"""What `cfg.json` of a SAELens folder says, in the words of its present version, and what of it has no equivalent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.files import read_json
from sae_torch.input_transform import TRANSFORMS
from sae_torch.interop.files import FLAG, LIST, NUMBER, TABLE, TEXT, TEXT_OR_FLAG, check_entries, read_entries

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
# What a checkpoint holds beside its weights where inputs are whitened in training.
WHITENED, WHITENING = "covariance_whitening", "activation_whitening.safetensors"
# Checkpoints of its trainer, which its own loader does not read; one threshold for all features.
BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
# A token's limits are more than thresholds: an architecture that SAELens does not know, so that it refuses the folder.
OURS_ALONE = "allocation_token_limits"
# Transcoders without a skip connection and with one.
RELU_TRANSCODERS = ("transcoder", "skip_transcoder")
JUMPRELU_TRANSCODERS = ("jumprelu_transcoder", "jumprelu_skip_transcoder")
# Those that SAELens has no class for, with a top k and with limits per token.
OUR_TRANSCODERS = ("allocation_topk_transcoder", "allocation_token_limits_transcoder")
TRANSCODERS = (*RELU_TRANSCODERS, *JUMPRELU_TRANSCODERS, *OUR_TRANSCODERS)
READABLE = ("jumprelu", "topk", "standard", "gated", *BATCH_TOPK, OURS_ALONE, *TRANSCODERS)
# Keys from before version 6, as they are called since.
RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
# Keys that lay beside the others before version 6 and are metadata since.
METADATA = ("model_name", "hook_name", "hook_name_out", "context_size", "prepend_bos", "dataset_path", "neuronpedia_id")
# Entries that are read, of the object itself, and of those under metadata.
ENTRIES = {
    "metadata": TABLE, "architecture": TEXT, "model_name": TEXT, "hook_name": TEXT, "hook_point": TEXT,
    "hook_name_out": TEXT, "k": NUMBER, "normalize_activations": TEXT_OR_FLAG, "reshape_activations": TEXT_OR_FLAG,
    "apply_b_dec_to_input": FLAG, "rescale_acts_by_decoder_norm": FLAG,
    "activation_fn": TEXT, "activation_fn_str": TEXT, "activation_fn_kwargs": TABLE,
}  # fmt: skip
IN_METADATA = {
    "l0": NUMBER, "training_architecture": TEXT, "training_architecture_details": TABLE, "allocation": TABLE,
    "known_defects": LIST,
}  # fmt: skip
# The first version whose exports of a BatchTopK training rescale the threshold with the weights.
RESCALED_SINCE = (6, 54, 12)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a folder, those from before version 6 in today's words, by the rules of SAELens' reader.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file is damaged, or names an activation that has no equivalent.
    """
    file = folder / CONFIG
    config = read_entries(file, ENTRIES)
    metadata = config.get("metadata") or {}
    check_entries(file, metadata, ENTRIES | IN_METADATA, "metadata.")
    for name in ("allocation", "training_architecture_details"):
        check_entries(file, metadata.get(name) or {}, {"choice": TEXT, "k": NUMBER}, f"metadata.{name}.")
    check_entries(file, config.get("activation_fn_kwargs") or {}, {"k": NUMBER}, "activation_fn_kwargs.")
    if version_of(config) >= (6,):
        return config
    config = {"architecture": "standard", **renamed(config)}
    activation = config.get("activation_fn") or "relu"
    if activation not in ("relu", "topk"):  # their reader takes it for relu
        raise InputError(f"{file}: activation_fn: expected relu or topk, found {activation!r}")
    if "topk" in (activation, config["architecture"]):
        given = config.get("activation_fn_kwargs") or {}
        config |= {"architecture": "topk", "k": given.get("k", config.get("k"))}
    if "hook_z" in str(config.get("hook_name")):
        config = {"reshape_activations": "hook_z", **config}
    if config.get("normalize_activations") is True:
        config["normalize_activations"] = "expected_average_only_in"
    return config


def metadata_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says about model, site and text."""
    recorded = config.get("metadata")
    found = dict(recorded) if isinstance(recorded, dict) else {key: config[key] for key in METADATA if key in config}
    if config.get("reshape_activations") == "hook_z":
        found["reshape_activations"] = "hook_z"
    return found


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys as they are called today."""
    return {RENAMED.get(key, key): value for key, value in config.items()}


def version_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The version of SAELens that wrote a folder; () where it is not recorded."""
    said = config.get("sae_lens_version") or (config.get("metadata") or {}).get("sae_lens_version") or ""
    found = re.match(r"\d+(?:\.\d+)*", str(said))
    return tuple(map(int, found[0].split("."))) if found else ()


def dtype_of(file: Path, config: Mapping[str, Any]) -> torch.dtype:
    """The type that the weights get when they are read."""
    import torch

    dtype = getattr(torch, str(config.get("dtype", "float32")).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"{file}: dtype must be a floating-point type, found {config['dtype']!r}")
    return dtype


def refuse_others(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse what has no equivalent.

    Raises
    ------
    InputError
        The text names it.
    """
    architecture = config.get("architecture")
    if architecture not in READABLE:
        raise InputError(f"{file}: expected architecture {', '.join(READABLE)}, found {architecture!r}")
    if architecture in TRANSCODERS and config.get("normalize_activations") not in (None, False, "none"):
        raise InputError(
            f"{file}: normalize_activations = {config['normalize_activations']!r} is not supported in a transcoder"
        )
    if config.get("normalize_activations") == WHITENED and not (file.parent / WHITENING).is_file():
        raise InputError(
            f"{file}: normalize_activations = {WHITENED!r}: expected {WHITENING} beside it, which says how, found none"
        )
    for key, known in (
        ("normalize_activations", ("none", "expected_average_only_in", WHITENED, *TRANSFORMS)),
        ("reshape_activations", ("none", "hook_z")),
    ):
        if config.get(key) not in (None, False, *known):
            raise InputError(
                f"{file}: {key} = {config[key]!r} is not supported, expected one of {', '.join(known)}; fold it into "
                "the weights with SAELens where it can, and save again"
            )


def input_scale(folder: Path, config: Mapping[str, Any]) -> float | None:
    """The factor of the inputs that a checkpoint was trained with; None where there is none or it is not known."""
    if config.get("normalize_activations") != "expected_average_only_in" or not (folder / SCALER).is_file():
        return None
    factor = read_json(folder / SCALER).get("scaling_factor")
    if factor is None:
        return None
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < float("inf"):
        raise InputError(f"{folder / SCALER}: scaling_factor must be a positive number, found {factor!r}")
    return float(factor)


def conventions_of(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """How the folder's function differs from the plain one, one sentence each."""
    found = []
    is_transcoder = config.get("architecture") in TRANSCODERS
    if not (config.get("apply_b_dec_to_input", True) or is_transcoder):
        found.append("b_dec is not subtracted from the input")
    if config.get("rescale_acts_by_decoder_norm", config.get("architecture") in BATCH_TOPK) and not _ours(config):
        found.append("activations are multiplied by the norms of decoder rows")
    if config.get("architecture") == "gated":
        found.append("gate and magnitude are one threshold, b_mag - exp(r_mag) b_gate, equal up to rounding")
    if config.get("reshape_activations") == "hook_z":
        found.append("inputs are the heads' outputs side by side")
    if config.get("normalize_activations") in TRANSFORMS:
        found.append(f"each token's activations are normalised first, by {config['normalize_activations']}")
    if config.get("normalize_activations") == WHITENED:
        found.append("inputs were whitened in training, which is folded into the weights")
    factor = input_scale(folder, config)
    if factor is not None:
        found.append(f"inputs were multiplied by {factor:g} in training, which is folded into the weights")
    return tuple(found)


def defects_of(folder: Path, config: Mapping[str, Any], one_threshold: bool) -> tuple[str, ...]:
    """What is known to be wrong with such a folder, one sentence each.

    Parameters
    ----------
    folder : Path
    config : mapping
    one_threshold : bool
        Whether it has one threshold for all features, as a BatchTopK training gives.
    """
    metadata = config.get("metadata") or {}
    found = [str(text) for text in metadata.get("known_defects") or ()]  # of what an import read
    if config.get("normalize_activations") == "expected_average_only_in" and input_scale(folder, config) is None:
        found.append(
            "inputs were multiplied by a factor in training that the folder does not hold: as in SAELens they are "
            "taken as they come, so that features fire too often or too rarely"
        )
    trained = metadata.get("training_architecture")
    batch_topk = trained in BATCH_TOPK if trained is not None else one_threshold and not _ours(config)
    if config.get("architecture") == "jumprelu" and batch_topk and (6,) <= version_of(config) < RESCALED_SINCE:
        found.append(
            "SAELens before 6.54.12 exported a BatchTopK training with expected_average_only_in without rescaling its "
            "threshold, and the folder does not say whether this is one: compare its L0 with its k, and measure the "
            "threshold anew with st.calibrate if they differ"
        )
    return tuple(dict.fromkeys(found))


def _ours(config: Mapping[str, Any]) -> bool:
    return "allocation" in (config.get("metadata") or {})
