"""The folder of the library sparsify: `sae.safetensors` and `cfg.json`. It holds token choice only."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.files import replacing, write_json
from sae_torch.interop.description import Description, dtype_name, layer_of
from sae_torch.interop.files import FLAG, TEXT, check_tensors, read_entries, read_whole_number, require
from sae_torch.interop.weight_files import read_safetensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm
    from sae_torch.sparse_coder import SparseCoder

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
FILES = (WEIGHTS, CONFIG)
ENTRIES = {"activation": TEXT, "skip_connection": FLAG, "transcode": FLAG}
# What its configuration may say without a change of the function.
SUPPORTED: dict[str, Any] = {"activation": "topk"}


def save(sae: SparseCoder, folder: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> Path:
    """Write an autoencoder or transcoder with token choice as a folder of sparsify.

    ::

        a = the k largest of relu((x - b_dec) W_enc + b_enc),   x_hat = a W_dec + b_dec

    A transcoder reads `x` itself, and may add ``W_skip x``; its two sides have one width there.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
        With token choice.
    folder : path
        Made if missing; sparsify looks for it under the name of the module, for instance ``layers.10``.
    metadata : dict, optional
        The format has no place for it; it is left out.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the choice is another one, or a transcoder's sides differ in width.

    Examples
    --------
    >>> import tempfile, sae_torch as st
    >>> from sae_torch.interop import sparsify
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sparsify.load(sparsify.save(sae, folder)).choice
    TokenChoice(k=2)
    """
    from safetensors.torch import save_file

    from sae_torch.interop.inference_form import InferenceForm

    if sae.choice.token_k is None:
        raise InputError(
            f"sae: the sparsify format has no thresholds, so it holds token choice only, found "
            f"{type(sae.choice).__name__}; export to saelens or dictionary-learning"
        )
    if sae.d_in != sae.d_out:
        raise InputError(
            f"sae: the sparsify format holds transcoders whose sides have one width, found {sae.d_in} and {sae.d_out}; "
            "export to saelens"
        )
    form = InferenceForm.of(sae)
    form.require_plain_inputs("sparsify")
    weights = form.tensors
    tensors = {
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "encoder.bias": weights["b_enc"],
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
    }
    tensors |= {name: weights[name] for name in ("W_skip",) if name in weights}
    config = SUPPORTED | {
        "skip_connection": form.W_skip is not None,
        "transcode": form.is_transcoder,
        "expansion_factor": max(1, sae.n_features // sae.d_in),
        "normalize_decoder": True,
        "num_latents": sae.n_features,
        "k": form.k,
        "multi_topk": False,
        "d_in": sae.d_in,
    }
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with replacing(path / WEIGHTS) as beside:
        save_file(tensors, beside)
    write_json(path / CONFIG, config)
    return path


def load(folder: str | os.PathLike[str], k: float | None = None) -> SparseCoder:
    """Read a folder of sparsify; the result is in eval mode.

    ::

        x_hat = a W_dec + b_dec   with the a of `save`

    Parameters
    ----------
    folder : path
        With ``sae.safetensors`` and ``cfg.json``, of one module.
    k : float, optional
        Ignored: the folder always says it.

    Returns
    -------
    SparseAutoencoder or Transcoder
        A transcoder also where an autoencoder has a skip connection.

    Raises
    ------
    InputError
        If a file is missing or does not fit, or the coder has another activation.
    """
    path = Path(folder)
    require(path, (CONFIG, WEIGHTS), "sparsify")
    return form(path).autoencoder(str(path / WEIGHTS))


def recognises(path: Path) -> bool:
    """Whether both files are there."""
    return all((path / name).is_file() for name in FILES)


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights of a folder; its `k` is always said."""
    from sae_torch.interop.inference_form import InferenceForm

    config = read_entries(path / CONFIG, ENTRIES)
    for key, expected in SUPPORTED.items():
        if config.get(key, expected) != expected:
            raise InputError(f"{path / CONFIG}: {key} = {config[key]!r} is not supported, expected {expected!r}")
    d, F = _sizes(path, config)
    tensors = read_safetensors(path / WEIGHTS)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.weight": (F, d),
        "encoder.bias": (F,),
        "W_dec": (F, d),
        "b_dec": (d,),
    }
    has_skip, transcodes = bool(config.get("skip_connection")), bool(config.get("transcode"))
    shapes |= {"W_skip": (d, d)} if has_skip else {}
    check_tensors(path / WEIGHTS, tensors, shapes)
    read = InferenceForm(
        W_enc=tensors["encoder.weight"].T,
        b_enc=tensors["encoder.bias"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        k=read_whole_number(path / CONFIG, config, "k"),
    )
    if not (transcodes or has_skip):
        return read
    # an autoencoder with a skip connection subtracts b_dec first; a transcoder of ours never does
    read = read if transcodes else read.restore_b_dec()
    return replace(read, is_transcoder=True, W_skip=tensors["W_skip"] if has_skip else None)


def describe(path: Path) -> Description:
    """What a folder says, and the types in the header of its weights."""
    config, site = read_entries(path / CONFIG, ENTRIES), metadata(path)["hook_name"]
    d, F = _sizes(path, config)
    weights = read_header(path / WEIGHTS)
    kind = (
        "transcoder" if config.get("transcode") or config.get("skip_connection") else "autoencoder"
    )  # as `form` reads it
    return Description(
        "sparsify", path, d, F, dtype_name(weights), str(config.get("activation", "topk")), None, site, layer_of(site),
        read_whole_number(path / CONFIG, config, "k"), kind,
    )  # fmt: skip


def _sizes(path: Path, config: dict[str, Any]) -> tuple[int, int]:
    d = read_whole_number(path / CONFIG, config, "d_in")
    named = "num_latents" if config.get("num_latents") else "expansion_factor"
    return d, read_whole_number(path / CONFIG, config, named) * (1 if named == "num_latents" else d)


def metadata(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a folder says about its autoencoder: the module, by the folder's name."""
    return {"hook_name": Path(folder).resolve().name}
