"""The SAELens folder: our format on disk, readable by `SAE.load_from_disk`.

`cfg.json` and `sae_weights.safetensors`. Token choice becomes `topk`, the others `jumprelu`
with their prices as thresholds. No training state is written: the thresholds are the prices.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import allocation
from sae_torch.activations.sites import hook_name
from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.choices.choice import Choice
from sae_torch.errors import InputError
from sae_torch.files import read_json, replacing, write_json
from sae_torch.interop.description import Description, dtype_name, layer_of
from sae_torch.interop.files import check_tensors, read_whole_number, require
from sae_torch.interop.inference_form import InferenceForm, settings
from sae_torch.interop.saelens_training import register
from sae_torch.interop.weight_files import read_header, read_safetensors
from sae_torch.sparse_coder import SparseCoder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["FILES", "describe", "form", "load", "metadata", "metadata_of", "recognises", "register", "save"]

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
FILES = (WEIGHTS, CONFIG)
# SAELens keeps nested metadata only with a version at least that of its current format.
FORMAT_VERSION = "6.0.0"
# Checkpoints of its trainer, which its own loader does not read; one threshold for all features.
BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
# A token's limits are more than thresholds: an architecture that SAELens does not know, so that it refuses the folder.
OURS_ALONE = "allocation_token_limits"
# Keys from before version 6, as they are called since.
RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
READABLE = ("jumprelu", "topk", "standard", *BATCH_TOPK, OURS_ALONE)


def save(sae: SparseCoder, folder: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> Path:
    """Write an autoencoder as a SAELens folder.

    ::

        pre = (x - b_dec) W_enc + b_enc,   a = relu(pre) where pre > threshold (or top k),   x_hat = a W_dec + b_dec

    Thresholds have the unit of the scores `z ||W_dec||`; decoder norms other than 1 are folded into the encoder.
    The quotas of feature choice go to `sparsity.safetensors` as log10 frequencies, as SAELens keeps densities. A choice
    with limits per token is more than thresholds: this package alone reads its folder, SAELens refuses it.

    Parameters
    ----------
    sae : SparseAutoencoder
        Trained or calibrated, unless it is token choice.
    folder : path
        Made if missing. Files are replaced one by one, never left half-written. Of the processes of a mesh all call
        `save`, and one writes.
    metadata : dict, optional
        Added to the metadata, for instance ``model_name`` and ``hook_name``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the choice has no thresholds yet.

    Examples
    --------
    >>> import tempfile, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     st.load(st.save(sae, folder)).choice
    TokenChoice(k=2)
    """
    form, path = InferenceForm.of(sae), Path(folder)
    sae.world.once(lambda: _write(sae, form, path, metadata))
    if form.has_token_limits and sae.world.leads:
        warnings.warn(
            f"{path}: limits per token are more than thresholds, so sae_torch alone reads this folder", stacklevel=2
        )
    return path


def _write(sae: SparseCoder, form: InferenceForm, path: Path, metadata: dict[str, Any] | None) -> None:
    from safetensors.torch import save_file

    config: dict[str, Any] = {
        "d_in": sae.d_in,
        "d_sae": sae.n_features,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "architecture": "jumprelu",
    }
    if form.k is not None:
        config |= {"architecture": "topk", "k": form.k, "rescale_acts_by_decoder_norm": False}
    if form.has_token_limits:
        config["architecture"] = OURS_ALONE
    config["metadata"] = {
        "sae_lens_version": FORMAT_VERSION,
        **(metadata or {}),
        "allocation": {"version": allocation.__version__, **settings(sae.choice)},
    }
    path.mkdir(parents=True, exist_ok=True)
    (path / SPARSITY).unlink(missing_ok=True)  # of an autoencoder that lay here before
    with replacing(path / WEIGHTS) as beside:
        save_file(form.tensors, beside)
    quotas = sae.choice.density_targets()
    if quotas is not None:
        frequencies = {"sparsity": quotas.clamp_min(1e-10).log10().float(), "quota_densities": quotas.contiguous()}
        with replacing(path / SPARSITY) as beside:
            save_file(frequencies, beside)
    write_json(path / CONFIG, config)


def load(folder: str | os.PathLike[str], k: float | None = None, mesh: DeviceMesh | None = None) -> SparseAutoencoder:
    """Read a SAELens folder, ours or another's; the result is in eval mode.

    ::

        x_hat = a W_dec + b_dec   with the a that `save` wrote

    Architectures `jumprelu`, `topk`, `standard` (a threshold of 0), and checkpoints of a `batchtopk` training; folders
    from before version 6 are read by the rules of SAELens' own reader.

    Parameters
    ----------
    folder : path
        With ``cfg.json`` and ``sae_weights.safetensors``.
    k : float, optional
        Mean number of features per token for training on, where the folder does not say.
    mesh : torch.distributed.DeviceMesh, optional
        Of `st.parallel.mesh`, whatever processes wrote the folder.

    Returns
    -------
    SparseAutoencoder

    Raises
    ------
    InputError
        If a file is missing, does not fit, or states what this autoencoder cannot do; the message names it.

    Examples
    --------
    >>> import tempfile, torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> x = torch.randn(3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.equal(st.load(st.save(sae, folder))(x).x_hat, sae(x).x_hat)
    True
    """
    path = Path(folder)
    require(path, (CONFIG, WEIGHTS), "SAELens")
    return form(path, k).autoencoder(str(path / WEIGHTS), mesh)


def recognises(path: Path) -> bool:
    """Whether both files are there."""
    return all((path / name).is_file() for name in FILES)


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights of a folder, with the choice that wrote it where that is one of this library's."""
    config = _current(path / CONFIG, read_json(path / CONFIG))
    _refuse_others(path / CONFIG, config)
    tensors = read_safetensors(path / WEIGHTS)
    _refuse_scaling(path / CONFIG, config, tensors.get("scaling_factor"))
    read = _form(path, config, tensors)
    described = config.get("metadata") or {}
    ours = described.get("allocation") or {}
    read = changed(read, l0=k or ours.get("k") or config.get("k") or described.get("l0"))
    return changed(read, own_choice=_own_choice(path, ours, read))


def describe(path: Path) -> Description:
    """What a folder says, and the shapes in the header of its weights."""
    config = _current(path / CONFIG, read_json(path / CONFIG))
    said, weights = metadata(path), read_header(path / WEIGHTS)
    d, F = (read_whole_number(path / CONFIG, config, name) for name in ("d_in", "d_sae"))
    site = said.get("hook_name")
    conventions = []
    if not config.get("apply_b_dec_to_input", True):
        conventions.append("b_dec is not subtracted from the input")
    if config.get("rescale_acts_by_decoder_norm", config.get("architecture") in BATCH_TOPK):
        conventions.append("activations are multiplied by the norms of decoder rows")
    mean = config.get("k") or (said.get("allocation") or {}).get("k") or said.get("l0")
    return Description(
        "saelens", path, d, F, dtype_name(weights), str(config.get("architecture")), said.get("model_name"), site,
        layer_of(site), mean, conventions=tuple(conventions),
    )  # fmt: skip


def metadata(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a folder says about its autoencoder: model, site, text, ours under ``allocation``."""
    config = read_json(Path(folder) / CONFIG)
    recorded = config.get("metadata")
    if isinstance(recorded, dict):
        return recorded
    # before version 6 the keys lay beside the others
    config = _renamed(config)
    return {key: config[key] for key in ("model_name", "hook_name", "context_size", "prepend_bos") if key in config}


def metadata_of(header: Mapping[str, str]) -> dict[str, Any]:
    """What `save` is told of the activations that an autoencoder was trained on.

    Parameters
    ----------
    header : mapping
        Of the activations; what it does not say is left out.

    Returns
    -------
    dict
    """
    found = {
        "model_name": header.get("model"),
        "hook_name": hook_name(header["site"]) if "site" in header else None,
        "context_size": int(header["window"]) if "window" in header else None,
        # files of other tools do not say how their windows began
        "prepend_bos": "bos" in header if "window" in header else None,
        "dataset_path": header.get("text"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _current(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Configurations from before version 6 in today's words, by the rules of SAELens' own reader."""
    described = config.get("metadata")
    version = config.get("sae_lens_version") or (described or {}).get("sae_lens_version")
    major = re.match(r"\d+", str(version or ""))
    if major is not None and int(major[0]) >= 6:
        return config
    config = {"architecture": "standard", **_renamed(config)}
    activation = config.get("activation_fn") or "relu"
    if activation not in ("relu", "topk"):  # their reader takes it for relu
        raise InputError(f"{file}: activation_fn: expected relu or topk, found {activation!r}")
    if "topk" in (activation, config["architecture"]):
        given = config.get("activation_fn_kwargs") or {}
        config |= {"architecture": "topk", "k": given.get("k", config.get("k"))}
    if "hook_z" in str(config.get("hook_name")):
        config = {"reshape_activations": "hook_z", **config}
    return config


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    return {RENAMED.get(key, key): value for key, value in config.items()}


def _refuse_others(file: Path, config: dict[str, Any]) -> None:
    architecture = config.get("architecture")
    if architecture not in READABLE:
        raise InputError(f"{file}: expected architecture {', '.join(READABLE)}, found {architecture!r}")
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key) not in (None, False, "none"):
            raise InputError(
                f"{file}: {key} = {config[key]!r} is not supported, expected 'none'; fold it into the weights with "
                "SAELens where it can, and save again"
            )


def _refuse_scaling(file: Path, config: dict[str, Any], factor: Tensor | None) -> None:
    """Features may have a factor; for a while one was always written, of ones mostly."""
    scaled = config.get("finetuning_scaling_factor") not in (None, False)
    if factor is not None:
        scaled = not torch.allclose(factor, torch.ones_like(factor))
    if scaled:
        raise InputError(f"{file}: finetuning_scaling_factor = True is not supported")


def _form(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> InferenceForm:
    file, architecture = path / CONFIG, config["architecture"]
    d, F = (read_whole_number(file, config, name) for name in ("d_in", "d_sae"))
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d, F), "b_enc": (F,), "W_dec": (F, d), "b_dec": (d,)}
    shapes |= {"threshold": (F,)} if architecture in ("jumprelu", OURS_ALONE) else {}
    shapes |= {"topk_threshold": ()} if architecture in BATCH_TOPK else {}
    check_tensors(path / WEIGHTS, tensors, shapes)
    dtype = getattr(torch, str(config.get("dtype", "float32")).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"{file}: dtype must be a floating-point type, found {config['dtype']!r}")
    W_enc, b_enc, W_dec, b_dec = (tensors[name].to(dtype) for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    form = InferenceForm(W_enc, b_enc, W_dec, b_dec)
    if not config.get("apply_b_dec_to_input", True):
        form = form.absorb_b_dec()
    if config.get("rescale_acts_by_decoder_norm", architecture in BATCH_TOPK):
        form = form.with_unit_rows()  # its activations are in these units
    if architecture == "topk":
        return changed(form, k=read_whole_number(file, config, "k"))
    if architecture == "standard":
        return changed(form, threshold=torch.zeros(F, dtype=dtype))
    threshold = (
        tensors["threshold"] if architecture in ("jumprelu", OURS_ALONE) else tensors["topk_threshold"].expand(F)
    )
    # its own reader casts to the nearest; folders of ours alone keep thresholds as they are
    return changed(form, threshold=threshold if architecture == OURS_ALONE else threshold.to(dtype))


def _own_choice(path: Path, ours: Mapping[str, Any], read: InferenceForm) -> Choice | None:
    """The choice that a folder of ours names, with its quotas; None in folders of others, and for token choice."""
    name = ours.get("choice")
    if name is None or read.l0 is None or read.k is not None:
        return None
    kind = Choice.named(name)
    if kind is None:
        choice = read.choice(str(path / CONFIG))
        warnings.warn(
            f"{path / CONFIG}: choice {name} is not defined here, so its thresholds are loaded as "
            f"{type(choice).__name__}; import the module that defines it first to train on or to allocate batches",
            stacklevel=4,
        )
    else:
        given = {key: value for key, value in ours.items() if key not in ("version", "choice")}
        choice = kind.from_settings(given | {"k": read.l0})
    choice.build(read.b_enc.numel())
    targets = read_safetensors(path / SPARSITY).get("quota_densities") if (path / SPARSITY).is_file() else None
    if targets is not None:
        choice.set_density_targets(targets)
    return choice
