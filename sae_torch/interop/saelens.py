"""The SAELens folder: our format on disk, readable by `SAE.load_from_disk`.

`cfg.json` and `sae_weights.safetensors`. Token choice becomes `topk`, the others `jumprelu`
with their prices as thresholds. No training state is written: the thresholds are the prices.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import allocation
from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.balanced_choice import BalancedChoice
from sae_torch.choices import Choice, MutualChoice, TokenChoice
from sae_torch.errors import InputError
from sae_torch.feature_choice import FeatureChoice
from sae_torch.thresholds import Threshold

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# SAELens keeps nested metadata only with a version at least that of its current format.
FORMAT_VERSION = "6.0.0"
# Decoder rows this close to norm 1 are written as they are, so that a reload gives the same bits.
UNIT_NORM = 1e-5


def save(sae: SparseAutoencoder, folder: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> Path:
    """Write an autoencoder as a SAELens folder.

    ::

        pre = (x - b_dec) W_enc + b_enc,   a = relu(pre) where pre > threshold (or top k),   x_hat = a W_dec + b_dec

    Thresholds have the unit of the scores `z ||W_dec||`; decoder norms other than 1 are folded into the encoder.

    Parameters
    ----------
    sae : SparseAutoencoder
        Trained or calibrated, unless it is token choice.
    folder : path
        Made if missing. Files are replaced one by one, never left half-written.
    metadata : dict, optional
        Added to the metadata, for instance ``model_name`` and ``hook_name``.

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
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     st.load(st.save(sae, folder)).choice
    TokenChoice(k=2)
    """
    from safetensors.torch import save_file

    config = {
        "d_in": sae.d_model,
        "d_sae": sae.n_features,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    tensors = _folded(sae)
    batch_free = sae.choice.batch_free()
    if isinstance(batch_free, TokenChoice):
        config |= {"architecture": "topk", "k": int(batch_free.k), "rescale_acts_by_decoder_norm": False}
    elif isinstance(batch_free, Threshold):
        config["architecture"] = "jumprelu"
        tensors["threshold"] = batch_free.theta.expand(sae.n_features).to(sae.W_dec.dtype).cpu().contiguous()
    else:
        raise InputError(
            f"sae: {type(sae.choice).__name__} with limits per token has no equivalent in the SAELens format, whose "
            "thresholds judge every match by itself; keep its state_dict instead"
        )
    config["metadata"] = {
        "sae_lens_version": FORMAT_VERSION,
        **(metadata or {}),
        "allocation": {"version": allocation.__version__, **_described(sae.choice)},
    }
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    _replace(place / WEIGHTS, lambda path: save_file(tensors, path))
    _replace(place / CONFIG, lambda path: path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8"))
    return place


def load(folder: str | os.PathLike[str], k: float | None = None) -> SparseAutoencoder:
    """Read a SAELens folder, ours or another's; the result is in eval mode.

    ::

        x_hat = a W_dec + b_dec   with the a that `save` wrote

    Parameters
    ----------
    folder : path
        With ``cfg.json`` and ``sae_weights.safetensors``; architecture ``jumprelu`` or ``topk``.
    k : float, optional
        Mean number of features per token for training on, where the folder does not say.

    Returns
    -------
    SparseAutoencoder

    Raises
    ------
    InputError
        If a file is missing or does not fit; the message names it.

    Examples
    --------
    >>> import tempfile, torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> x = torch.randn(3, 4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.equal(st.load(st.save(sae, folder))(x).x_hat, sae(x).x_hat)
    True
    """
    place = Path(folder)
    config, tensors = _read(place)
    architecture = config.get("architecture")
    if architecture not in ("jumprelu", "topk"):
        raise InputError(f"{place / CONFIG}: expected architecture jumprelu or topk, found {architecture!r}")
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") != "none":
            raise InputError(f"{place / CONFIG}: {key} = {config[key]!r} is not supported, expected 'none'")
    d_model, n_features = _sizes(place, config, tensors, architecture)
    choice = _choice(place, config, tensors, k)
    sae = SparseAutoencoder(d_model, n_features, choice, dtype=tensors["W_dec"].dtype)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(sae, name).copy_(tensors[name])
        if not config.get("apply_b_dec_to_input", True):
            sae.b_enc.add_(sae.b_dec @ sae.W_enc)
        if config.get("rescale_acts_by_decoder_norm") is False and not _is_unit(sae.W_dec):
            raise InputError(f"{place / WEIGHTS}: topk without rescaling needs decoder rows of norm 1")
        if architecture == "jumprelu":
            # thresholds are compared with pre-activations there, with scores here
            theta = tensors["threshold"].float()
            if not _is_unit(sae.W_dec):
                theta = theta * sae.W_dec.norm(dim=1).float()
            _set_thresholds(choice, theta)
    return sae.eval()


def _folded(sae: SparseAutoencoder) -> dict[str, Tensor]:
    """The weights with decoder norms moved into the encoder."""
    weights = {name: getattr(sae, name).detach().cpu() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if not _is_unit(weights["W_dec"]):
        norms = weights["W_dec"].norm(dim=1)
        if not bool((norms > 0).all()):
            raise InputError(f"sae: decoder row {int((norms == 0).nonzero()[0])} is zero and has no direction")
        weights["W_enc"] = weights["W_enc"] * norms
        weights["b_enc"] = weights["b_enc"] * norms
        weights["W_dec"] = weights["W_dec"] / norms[:, None]
    return {name: tensor.contiguous() for name, tensor in weights.items()}


def _is_unit(W_dec: Tensor) -> bool:
    return bool(((W_dec.float().norm(dim=1) - 1.0).abs() < UNIT_NORM).all())


def _described(choice: Choice) -> dict[str, Any]:
    """What is needed to make the same choice again."""
    described: dict[str, Any] = {"choice": type(choice).__name__, "k": choice.k}
    if isinstance(choice, FeatureChoice):
        described["quotas"] = choice.quotas if isinstance(choice.quotas, str) else "given"
        described["switch"] = choice.switch
        if choice.zipf is not None:
            described["zipf"] = {"alpha": choice.zipf.alpha, "beta": choice.zipf.beta}
            described["zipf"] |= {"r_squared": choice.zipf.r_squared, "excluded": choice.zipf.excluded}
    if isinstance(choice, BalancedChoice):
        limits = {"feature_caps": choice.feature_caps, "feature_floors": choice.feature_floors}
        described["limits"] = {name: limit.tolist() for name, limit in limits.items() if limit is not None}
    return described


def _choice(place: Path, config: dict[str, Any], tensors: dict[str, Tensor], k: float | None) -> Choice:
    metadata = config.get("metadata") or {}
    ours = metadata.get("allocation") or {}
    if config["architecture"] == "topk":
        return TokenChoice(int(config["k"]))
    mean = k or ours.get("k") or metadata.get("l0")
    if mean is None:
        raise InputError(
            f"{place / CONFIG}: the mean number of features per token is not recorded; pass load(folder, k=)"
        )
    if ours.get("choice") == "BalancedChoice":
        return BalancedChoice(mean, **ours.get("limits", {}))
    theta = tensors["threshold"]
    if ours.get("choice", "FeatureChoice") == "MutualChoice" or (not ours and bool((theta == theta[0]).all())):
        return MutualChoice(mean)
    quotas = ours.get("quotas", "zipf")
    return FeatureChoice(mean, quotas if quotas != "given" else "zipf", switch=ours.get("switch") or 0.85)


def _set_thresholds(choice: Choice, theta: Tensor) -> None:
    if isinstance(choice, FeatureChoice | BalancedChoice):
        choice.build(theta.numel())
        choice.tracker.restart(theta)
    elif isinstance(choice, MutualChoice):
        choice.tracker.restart(theta[0])


def _read(place: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (CONFIG, WEIGHTS):
        if not (place / name).is_file():
            raise InputError(f"{place}: expected a SAELens folder, but {name} is missing")
    try:
        config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{place / CONFIG}: not readable as JSON: {error}") from None
    try:
        return config, load_file(place / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{place / WEIGHTS}: not readable as safetensors: {error}") from None


def _sizes(place: Path, config: dict[str, Any], tensors: dict[str, Tensor], architecture: str) -> tuple[int, int]:
    """d_model and n_features, after a look at every shape."""
    try:
        d, F = int(config["d_in"]), int(config["d_sae"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{place / CONFIG}: d_in and d_sae must be integers") from None
    shapes = {"W_enc": (d, F), "b_enc": (F,), "W_dec": (F, d), "b_dec": (d,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (F,)
    for name, shape in shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        if found != shape:
            raise InputError(f"{place / WEIGHTS}: {name} must have shape {shape}, found {found}")
    return d, F


def _replace(path: Path, write: Any) -> None:
    """Write beside the file, then take its place, so that no reader sees half of it."""
    part = path.with_name(path.name + ".part")
    try:
        part.touch()
        mode = part.stat().st_mode  # as the user's umask has it; safetensors would keep others from reading
        write(part)
        part.chmod(mode)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
