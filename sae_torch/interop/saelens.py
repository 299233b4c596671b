"""The SAELens folder: our format on disk, readable by `SAE.load_from_disk`.

`cfg.json` and `sae_weights.safetensors`. Token choice becomes `topk`, the others `jumprelu`
with their prices as thresholds. No training state is written: the thresholds are the prices.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.files import filling, write_json
from sae_torch.input_transform import TRANSFORMS
from sae_torch.interop.description import Description, dtype_name, layer_of
from sae_torch.interop.files import check_tensors, read_whole_number, require
from sae_torch.interop.saelens_config import (
    BATCH_TOPK,
    CONFIG,
    JUMPRELU_TRANSCODERS,
    OUR_TRANSCODERS,
    OURS_ALONE,
    RELU_TRANSCODERS,
    TRANSCODERS,
    WEIGHTS,
    WHITENED,
    WHITENING,
    conventions_of,
    defects_of,
    dtype_of,
    input_scale,
    metadata_in,
    read_config,
    refuse_others,
)
from sae_torch.interop.saelens_training import register
from sae_torch.interop.weight_files import read_safetensors
from sae_torch.interop.weight_headers import is_one_value, read_header

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from sae_torch.adapter import Adapter
    from sae_torch.choices.choice import Choice
    from sae_torch.interop.inference_form import InferenceForm
    from sae_torch.sparse_coder import SparseCoder

__all__ = ["FILES", "describe", "form", "load", "metadata", "metadata_of", "recognises", "register", "save", "write"]

SPARSITY = "sparsity.safetensors"
FILES = (WEIGHTS, CONFIG)
# SAELens keeps nested metadata only with a version at least that of its current format.
FORMAT_VERSION = "6.0.0"


def save(sae: SparseCoder | Adapter, folder: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> Path:
    """Write an autoencoder or transcoder as a SAELens folder.

    ::

        pre = (x - b_dec) W_enc + b_enc,   a = relu(pre) where pre > threshold (or top k),   x_hat = a W_dec + b_dec

    Thresholds have the unit of the scores `z ||W_dec||`; decoder norms other than 1 are folded into the encoder.
    The quotas of feature choice go to `sparsity.safetensors` as log10 frequencies, as SAELens keeps densities. A choice
    with limits per token is more than thresholds: this package alone reads its folder, SAELens refuses it.

    A transcoder becomes a `jumprelu_transcoder`, or a `jumprelu_skip_transcoder` with ``W_skip`` (d_out, d_in). SAELens
    has none with a top k: one with token choice is read by this package alone.

    Parameters
    ----------
    sae : SparseAutoencoder, Transcoder, or Adapter of a module of your own
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
        If the choice has no thresholds yet, or those of the last training batches did not fire as often as they should.

    Examples
    --------
    >>> import tempfile, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     st.load(st.save(sae, folder)).choice
    TokenChoice(k=2)
    """
    from sae_torch.adapter import Adapter
    from sae_torch.interop.inference_form import InferenceForm
    from sae_torch.sparse_coder import SparseCoder

    path = Path(folder)
    if isinstance(sae, Adapter):
        form, choice = InferenceForm.of_adapter(sae)
        world = choice.world
    elif isinstance(sae, SparseCoder):
        form, choice, world = InferenceForm.of(sae), sae.choice, sae.world
    else:
        raise InputError(
            f"sae: expected an autoencoder of this library, or st.Adapter(module, encoder=..., decoder=...) of a "
            f"module of your own, found {type(sae).__name__}"
        )
    world.once(lambda: write(form, choice, path, metadata))
    if form.has_token_limits and world.leads:
        warnings.warn(
            f"{path}: limits per token are more than thresholds, so sae_torch alone reads this folder", stacklevel=2
        )
    elif form.is_transcoder and form.k is not None and world.leads:
        warnings.warn(
            f"{path}: SAELens has no transcoder with a top k, so sae_torch alone reads this folder", stacklevel=2
        )
    return path


def write(
    form: InferenceForm,
    choice: Choice,
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    says_norms_fold: bool = False,
) -> None:
    """Write a form as it is, block by block: weights that lie in a mapped file are never all in memory.

    Parameters
    ----------
    form : InferenceForm
        With thresholds or a `k`.
    choice : Choice
        Whose name, settings and quotas are recorded.
    path : Path
        Folder; made if missing.
    metadata : mapping, optional
        As for `save`.
    says_norms_fold : bool
        Whether a top k says that activations are times decoder norms, for tools that fold them; rows must have norm 1.

    Raises
    ------
    InputError
        If the form has neither, or an input transform that the format has no word for.
    """
    import allocation
    from sae_torch.choices.token import TokenChoice
    from sae_torch.interop.inference_form import settings
    from sae_torch.interop.weight_writing import Rows, write_safetensors

    transform = form.input_transform
    if transform is not None and TRANSFORMS.get(transform.name) != transform:
        known = " or ".join(map(repr, TRANSFORMS.values()))
        raise InputError(f"input_transform: expected {known}, which a folder has words for, found {transform!r}")
    if form.threshold is None and form.k is None:
        raise InputError(f"{path}: the thresholds were never measured; load it and call st.calibrate(sae, batches)")
    choice.build(form.b_enc.numel())
    if isinstance(choice, TokenChoice):
        form = form.with_unit_rows()  # ranks by decoder norms, and activations are as they are written
    said = dict(metadata or {})
    config: dict[str, Any] = {
        "d_in": form.W_enc.shape[0],
        "d_sae": form.b_enc.numel(),
        "dtype": str(form.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none" if form.input_transform is None else form.input_transform.name,
        "reshape_activations": said.pop("reshape_activations", "none"),
        "architecture": "jumprelu",
    }
    if form.k is not None:
        # rows of norm 1 are the same function either way, but SAELens then makes NaN of a row that is zeroed later
        config |= {"architecture": "topk", "k": form.k, "rescale_acts_by_decoder_norm": says_norms_fold}
    if form.has_token_limits:
        config["architecture"] = OURS_ALONE
    if form.is_transcoder:
        named = _transcoder_named(form)
        config |= {"d_out": form.W_dec.shape[1], "apply_b_dec_to_input": False, "architecture": named}
    ours = {"version": allocation.__version__, **settings(choice)}
    config["metadata"] = {"sae_lens_version": FORMAT_VERSION, **said, "allocation": ours}
    with filling(path):
        (path / SPARSITY).unlink(missing_ok=True)  # of an autoencoder that lay here before
        write_safetensors(path / WEIGHTS, form.rows)
        quotas = choice.density_targets()
        if quotas is not None:
            frequencies = {"sparsity": quotas.clamp_min(1e-10).log10().float(), "quota_densities": quotas}
            write_safetensors(path / SPARSITY, {name: Rows.of(tensor) for name, tensor in frequencies.items()})
        write_json(path / CONFIG, config)


def _transcoder_named(form: InferenceForm) -> str:
    """What SAELens calls such a transcoder; names of ours for what it does not know."""
    if form.k is not None or form.has_token_limits:
        return OUR_TRANSCODERS[int(form.has_token_limits)]
    return JUMPRELU_TRANSCODERS[int(form.W_skip is not None)]


def load(folder: str | os.PathLike[str], k: float | None = None, mesh: DeviceMesh | None = None) -> SparseCoder:
    """Read a SAELens folder, ours or another's; the result is in eval mode.

    ::

        x_hat = a W_dec + b_dec   with the a that `save` wrote

    Architectures `jumprelu`, `topk`, `standard` (a threshold of 0), and checkpoints of a `batchtopk` training; folders
    from before version 6 are read by the rules of SAELens' own reader. Transcoders `transcoder`, `skip_transcoder`,
    `jumprelu_transcoder` and `jumprelu_skip_transcoder`.

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
    SparseAutoencoder or Transcoder

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
    config = read_config(path)
    refuse_others(path / CONFIG, config)
    read = _form(path, config, read_safetensors(path / WEIGHTS))
    factor = input_scale(path, config)
    if factor is not None:
        read = read.for_scaled_inputs(factor)
    if config.get("normalize_activations") == WHITENED:
        read = read.for_whitened_inputs(**_whitening(path / WHITENING, len(read.b_dec)))
    described = config.get("metadata") or {}
    ours = described.get("allocation") or {}
    trained = described.get("training_architecture_details") or {}
    read = replace(read, l0=k or ours.get("k") or config.get("k") or described.get("l0") or trained.get("k"))
    return replace(read, own_choice=_own_choice(path, ours, read))


def describe(path: Path) -> Description:
    """What a folder says, and the shapes in the header of its weights."""
    config = read_config(path)
    said, weights = metadata_in(config), read_header(path / WEIGHTS)
    d, F = (read_whole_number(path / CONFIG, config, name) for name in ("d_in", "d_sae"))
    jumps = config.get("architecture") == "jumprelu" and "threshold" in weights
    one_threshold = jumps and is_one_value(path / WEIGHTS, "threshold")
    trained = said.get("training_architecture_details") or {}
    is_transcoder = config.get("architecture") in TRANSCODERS
    return Description(
        format="saelens",
        path=path,
        d_model=d,
        n_features=F,
        dtype=dtype_name(weights),
        activation=str(config.get("architecture")),
        model=said.get("model_name"),
        site=said.get("hook_name"),
        layer=layer_of(said.get("hook_name")),
        k=(said.get("allocation") or {}).get("k") or config.get("k") or said.get("l0") or trained.get("k"),
        kind="transcoder" if is_transcoder else "autoencoder",
        d_out=read_whole_number(path / CONFIG, config, "d_out") if is_transcoder else None,
        conventions=conventions_of(path, config),
        defects=defects_of(path, config, one_threshold),
    )


def metadata(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a folder says about its autoencoder: model, site, text, ours under ``allocation``."""
    return metadata_in(read_config(Path(folder)))


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
    from sae_torch.activations.sites import hook_name

    found = {
        "model_name": header.get("model"),
        "hook_name": hook_name(header["site"]) if "site" in header else None,
        "hook_name_out": hook_name(header["target"]) if "target" in header else None,
        "context_size": int(header["window"]) if "window" in header else None,
        # files of other tools do not say how their windows began
        "prepend_bos": "bos" in header if "window" in header else None,
        "dataset_path": header.get("text"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _form(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> InferenceForm:
    import torch

    from sae_torch.interop.gated import gated
    from sae_torch.interop.inference_form import InferenceForm

    file, architecture = path / CONFIG, config["architecture"]
    _refuse_scaling(file, config, tensors.get("scaling_factor"))
    d, F = (read_whole_number(file, config, name) for name in ("d_in", "d_sae"))
    is_transcoder = architecture in TRANSCODERS
    d_out = read_whole_number(file, config, "d_out") if is_transcoder else d
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d, F), "W_dec": (F, d_out), "b_dec": (d_out,)}
    has_skip = "skip" in architecture or (architecture in OUR_TRANSCODERS and "W_skip" in tensors)
    shapes |= {"W_skip": (d_out, d)} if has_skip else {}
    gates = ("b_gate", "b_mag", "r_mag")
    shapes |= dict.fromkeys(gates, (F,)) if architecture == "gated" else {"b_enc": (F,)}
    jumps = architecture in ("jumprelu", *JUMPRELU_TRANSCODERS)
    keeps_threshold = architecture in (OURS_ALONE, OUR_TRANSCODERS[1])
    shapes |= {"threshold": (F,)} if jumps or keeps_threshold else {}
    shapes |= {"topk_threshold": ()} if architecture in BATCH_TOPK else {}
    check_tensors(path / WEIGHTS, tensors, shapes)
    dtype = dtype_of(file, config)
    W_enc, W_dec, b_dec = tensors["W_enc"], tensors["W_dec"], tensors["b_dec"].to(dtype)
    if architecture == "gated":
        b_gate, b_mag, r_mag = (tensors[name].to(dtype) for name in gates)
        read = gated(W_enc, b_gate, b_mag, r_mag, W_dec, b_dec, dtype)
    else:
        read = InferenceForm(W_enc, tensors["b_enc"].to(dtype), W_dec, b_dec, as_type=dtype)
    if is_transcoder:
        read = replace(read, is_transcoder=True, W_skip=tensors["W_skip"] if has_skip else None)
    elif not config.get("apply_b_dec_to_input", True):
        read = read.absorb_b_dec()
    if config.get("rescale_acts_by_decoder_norm", architecture in BATCH_TOPK):
        read = read.with_unit_rows()  # its activations are in these units
    read = replace(read, input_transform=TRANSFORMS.get(str(config.get("normalize_activations"))))
    if architecture in ("topk", OUR_TRANSCODERS[0]):
        return replace(read, k=read_whole_number(file, config, "k"))
    if architecture == "gated":
        return read
    if architecture in ("standard", *RELU_TRANSCODERS):
        return replace(read, threshold=torch.zeros(F, dtype=dtype))
    if keeps_threshold:  # its own reader casts to the nearest; folders of ours alone keep thresholds
        return replace(read, threshold=tensors["threshold"])
    threshold = tensors["threshold"] if jumps else tensors["topk_threshold"].expand(F)
    return replace(read, threshold=threshold.to(dtype))


def _whitening(file: Path, d: int) -> dict[str, Tensor]:
    """What a checkpoint was whitened with in training."""
    tensors = read_safetensors(file)
    check_tensors(file, tensors, {"mean": (d,), "matrix": (d, d), "inverse_matrix": (d, d)})
    return {name: tensors[name] for name in ("mean", "matrix", "inverse_matrix")}


def _refuse_scaling(file: Path, config: dict[str, Any], factor: Tensor | None) -> None:
    """Features may have a factor; for a while one was always written, of ones mostly."""
    scaled = config.get("finetuning_scaling_factor") not in (None, False)
    if factor is not None:
        scaled = not factor.allclose(factor.new_ones(factor.shape))
    if scaled:
        raise InputError(f"{file}: finetuning_scaling_factor = True is not supported")


def _own_choice(path: Path, ours: Mapping[str, Any], read: InferenceForm) -> Choice | None:
    """The choice that a folder of ours names, with its quotas; None in folders of others, and for token choice."""
    from sae_torch.choices.choice import Choice

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
        try:
            choice = kind.from_settings(given | {"k": read.l0})
            choice.build(read.b_enc.numel())
        except InputError as error:
            named = str(error).partition(":")[0]
            table = next(
                (f"{name}." for name, entry in given.items() if isinstance(entry, dict) and named in entry), ""
            )
            raise InputError(f"{path / CONFIG}: metadata.allocation.{table}{error}") from None
        except (TypeError, ValueError, KeyError) as error:  # what a class makes of names and values that it lacks
            raise InputError(
                f"{path / CONFIG}: metadata.allocation: expected the settings of {name}, found {given} ({error})"
            ) from None
    choice.build(read.b_enc.numel())
    sparsity = read_safetensors(path / SPARSITY) if (path / SPARSITY).is_file() else {}
    if "quota_densities" in sparsity:
        check_tensors(path / SPARSITY, sparsity, {"quota_densities": (read.b_enc.numel(),)})
        try:
            choice.set_density_targets(sparsity["quota_densities"])
        except InputError as error:
            raise InputError(f"{path / SPARSITY}: {error}") from None
    return choice
