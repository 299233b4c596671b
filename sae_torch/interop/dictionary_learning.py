"""The folder of the library dictionary_learning: `ae.pt` and `config.json`.

Token choice becomes `AutoEncoderTopK`, one common threshold `BatchTopKSAE`, thresholds per feature
`JumpReluAutoEncoder`.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.files import read_json, replacing, write_json
from sae_torch.interop.description import Description, dtype_name, layer_of
from sae_torch.interop.files import NUMBER, TABLE, TEXT, check_entries, check_tensors, read_entries, require
from sae_torch.interop.torch_headers import number_of
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from sae_torch.interop.inference_form import InferenceForm
    from sae_torch.sparse_coder import SparseCoder

CONFIG, WEIGHTS = "config.json", "ae.pt"
FILES = (WEIGHTS, CONFIG)
TRAINERS = {
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}
ENTRIES = {"dict_class": TEXT, "lm_name": TEXT, "submodule_name": TEXT, "k": NUMBER, "target_l0": NUMBER}
READABLE = (*TRAINERS, "MatryoshkaBatchTopKSAE", "AutoEncoder", "GatedAutoEncoder")


def save(sae: SparseCoder, folder: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> Path:
    """Write an autoencoder as a folder of dictionary_learning.

    ::

        a = relu(pre) where pre > threshold (or top k),   x_hat = a W_dec + b_dec

    `JumpReluAutoEncoder` does not subtract `b_dec` from its input, so its `b_enc` takes that up; a common threshold
    needs a whole `k`, which that format demands.

    Parameters
    ----------
    sae : SparseAutoencoder
        Trained or calibrated, unless it is token choice.
    folder : path
        Made if missing.
    metadata : dict, optional
        As in SAELens folders; ``model_name``, ``hook_name`` and ``context_size`` have a place here.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the choice has no thresholds yet, or no equivalent in this format.

    Examples
    --------
    >>> import tempfile, sae_torch as st
    >>> from sae_torch.interop import dictionary_learning
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dictionary_learning.load(dictionary_learning.save(sae, folder)).choice
    TokenChoice(k=2)
    """
    import torch

    from sae_torch.interop.inference_form import InferenceForm

    form = InferenceForm.of(sae)
    form.require_autoencoder("dictionary_learning")
    form.require_thresholds_alone("dictionary_learning")
    form.require_plain_inputs("dictionary_learning")
    kind, tensors = _tensors(form, sae.choice.k)
    known = metadata or {}
    site = str(known.get("hook_name") or "")
    layer = re.search(r"(?:blocks|layers|h)\.(\d+)", site)
    trainer = {
        "trainer_class": TRAINERS[kind],
        "dict_class": kind,
        "activation_dim": sae.d_in,
        "dict_size": sae.n_features,
        "k": int(tensors["k"]) if "k" in tensors else sae.choice.k,
        "layer": int(layer[1]) if layer else None,
        "lm_name": known.get("model_name"),
        "submodule_name": site or None,
    }
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    with replacing(path / WEIGHTS) as beside, beside.open("wb") as stream:
        torch.save(tensors, stream)  # by its name, a file would hold the name of the one beside
    write_json(path / CONFIG, {"trainer": trainer, "buffer": {"ctx_len": known.get("context_size")}})
    return path


def load(folder: str | os.PathLike[str], k: float | None = None) -> SparseCoder:
    """Read a folder of dictionary_learning; the result is in eval mode.

    ::

        x_hat = a W_dec + b_dec   with the a of `save`

    Classes `AutoEncoderTopK`, `BatchTopKSAE`, `MatryoshkaBatchTopKSAE`, `JumpReluAutoEncoder`, and `AutoEncoder` (a
    threshold of 0, its rows brought to norm 1 as its own loader does). The file is read as plain tensors; code in it
    is never run. A `BatchTopKSAE` whose threshold was never measured loads, and says in eval mode that it needs
    `sae_torch.calibrate`.

    Parameters
    ----------
    folder : path
        With ``ae.pt`` and ``config.json``.
    k : float, optional
        Mean number of features per token, where the folder does not say.

    Returns
    -------
    SparseAutoencoder

    Raises
    ------
    InputError
        If a file is missing, does not fit, or holds a class that has no equivalent here; the message names it.
    """
    path = Path(folder)
    require(path, (CONFIG, WEIGHTS), "dictionary_learning")
    return form(path, k).autoencoder(str(path / WEIGHTS))


def recognises(path: Path) -> bool:
    """Whether both files are there."""
    return all((path / name).is_file() for name in FILES)


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights of a folder."""
    trainer = _trainer(path)
    kind = trainer.get("dict_class")
    if kind not in READABLE:
        raise InputError(f"{path / CONFIG}: expected dict_class {', '.join(READABLE)}, found {kind!r}")
    tensors = read_tensors(path / WEIGHTS)
    return changed(_form(path / WEIGHTS, kind, tensors), l0=k or _recorded(trainer, tensors))


def describe(path: Path) -> Description:
    """What a folder says, and the shapes of its tensors."""
    trainer, said, weights = _trainer(path), metadata(path), read_header(path / WEIGHTS)
    kind, site = str(trainer.get("dict_class")), said.get("hook_name")
    name = "encoder.weight" if "encoder.weight" in weights else "W_enc"
    if name not in weights or weights[name].ndim != 2:
        raise InputError(f"{path / WEIGHTS}: expected a matrix encoder.weight or W_enc, found none")
    F, d = weights[name].shape if name == "encoder.weight" else weights[name].shape[::-1]
    number = None if "k" not in weights else number_of(path / WEIGHTS, weights["k"])
    k: Any = None if number is None else int(number)
    if k is None:
        k = _recorded(trainer, read_tensors(path / WEIGHTS) if "k" in weights else {})
    conventions = {
        "JumpReluAutoEncoder": ("b_dec is not subtracted from the input",),
        "AutoEncoder": ("decoder rows get norm 1, as its own loader gives them",),
        "GatedAutoEncoder": ("gate and magnitude are one threshold, mag_bias - exp(r_mag) gate_bias",),
    }
    return Description(
        "dictionary-learning", path, d, F, dtype_name(weights), kind, said.get("model_name"), site, layer_of(site), k,
        conventions=conventions.get(kind, ()),
    )  # fmt: skip


def metadata(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a folder says about its autoencoder, in the words of SAELens folders."""
    trainer = _trainer(Path(folder))
    buffer = read_entries(Path(folder) / CONFIG, {"buffer": TABLE}).get("buffer") or {}
    site = trainer.get("submodule_name")
    if site is None and trainer.get("layer") is not None:
        site = f"blocks.{trainer['layer']}.hook_resid_post"
    facts = {"model_name": trainer.get("lm_name"), "hook_name": site, "context_size": buffer.get("ctx_len")}
    return {name: value for name, value in facts.items() if value is not None}


def _recorded(trainer: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """Features per token, as the tensors or the configuration have it."""
    if "k" in tensors and tensors["k"].numel() == 1:
        return int(tensors["k"])
    return trainer.get("k") or trainer.get("target_l0")


def _trainer(path: Path) -> dict[str, Any]:
    trainer = read_json(path / CONFIG).get("trainer")
    if not isinstance(trainer, dict):
        raise InputError(f"{path / CONFIG}: expected an object named trainer, found {type(trainer).__name__}")
    check_entries(path / CONFIG, trainer, ENTRIES, "trainer.")
    return trainer


def _tensors(form: InferenceForm, k: float) -> tuple[str, dict[str, Tensor]]:
    """Class and state dict."""
    import torch

    threshold = form.threshold
    if threshold is not None and not bool((threshold == threshold[0]).all()):
        return "JumpReluAutoEncoder", form.restore_b_dec().tensors
    tensors = form.tensors
    as_linear = {
        "encoder.weight": tensors["W_enc"].T.contiguous(),
        "encoder.bias": tensors["b_enc"],
        "decoder.weight": tensors["W_dec"].T.contiguous(),
        "b_dec": tensors["b_dec"],
    }
    kind = "AutoEncoderTopK" if threshold is None else "BatchTopKSAE"
    if int(k) != k:
        raise InputError(
            f"sae: {kind} of dictionary_learning needs a whole number of features per token, found k = {k}"
        )
    as_linear["k"] = torch.tensor(int(k), dtype=torch.int32)
    as_linear["threshold"] = torch.tensor(-1.0) if threshold is None else threshold[0].float()
    return kind, as_linear


def _form(file: Path, kind: str, tensors: dict[str, Tensor]) -> InferenceForm:
    import torch

    from sae_torch.interop.gated import gated
    from sae_torch.interop.inference_form import InferenceForm

    linear = kind in ("AutoEncoderTopK", "BatchTopKSAE", "AutoEncoder", "GatedAutoEncoder")
    name = "encoder.weight" if linear else "W_enc"
    if name not in tensors or tensors[name].ndim != 2:
        raise InputError(f"{file}: {name} must be a matrix, found {'another shape' if name in tensors else 'nothing'}")
    F, d = tensors[name].shape if linear else tensors[name].T.shape
    bias = {"AutoEncoder": "bias", "GatedAutoEncoder": "decoder_bias"}.get(kind, "b_dec")
    gates = ("gate_bias", "mag_bias", "r_mag")
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d, F), "b_enc": (F,), "W_dec": (F, d), "b_dec": (d,)}
    if linear:
        shapes = {"encoder.weight": (F, d), "decoder.weight": (d, F), bias: (d,)}
        shapes |= dict.fromkeys(gates, (F,)) if kind == "GatedAutoEncoder" else {"encoder.bias": (F,)}
    scalars = kind in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE")
    shapes |= {"k": ()} if scalars else {}
    if kind == "JumpReluAutoEncoder":
        shapes["threshold"] = (F,)
    elif scalars and kind != "AutoEncoderTopK":
        shapes["threshold"] = ()
    check_tensors(file, tensors, shapes)
    if kind == "GatedAutoEncoder":
        encoder, decoder = tensors["encoder.weight"].T, tensors["decoder.weight"].T
        b_gate, b_mag, r_mag = (tensors[name] for name in gates)
        return gated(encoder, b_gate, b_mag, r_mag, decoder, tensors[bias])
    if linear:
        weights = tensors["encoder.weight"].T, tensors["encoder.bias"], tensors["decoder.weight"].T, tensors[bias]
    else:
        weights = tensors["W_enc"], tensors["b_enc"], tensors["W_dec"], tensors["b_dec"]
    form = InferenceForm(*weights)
    if kind == "AutoEncoderTopK":
        return changed(form, k=int(tensors["k"]))
    if kind == "AutoEncoder":
        # its loader gives the rows norm 1, and the encoder what they lose
        return changed(form.with_unit_rows(), threshold=torch.zeros(F))
    if kind == "JumpReluAutoEncoder":
        return changed(form.absorb_b_dec(), threshold=tensors["threshold"])
    if float(tensors["threshold"]) < 0:  # never measured
        return form
    return changed(form, threshold=tensors["threshold"].expand(F))
