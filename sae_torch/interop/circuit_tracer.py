"""Sets of transcoders of the library circuit-tracer: `config.yaml` and a `layer_i.safetensors` for each layer.

A dictionary of the format is one such file; its folder is a set of them. Transcoders there are ReLU or JumpReLU.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.files import replacing, write_text
from sae_torch.interop.description import Description, dtype_name
from sae_torch.interop.files import check_tensors
from sae_torch.interop.module_places import place_of
from sae_torch.interop.weight_files import read_safetensors
from sae_torch.interop.weight_headers import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from sae_torch.interop.inference_form import InferenceForm
    from sae_torch.sparse_coder import SparseCoder

CONFIG, KIND = "config.yaml", "transcoder_set"
# A folder holds one file of another name for each layer, so that no list of names makes one.
FILES: tuple[str, ...] = ()
THRESHOLD = "activation_function.threshold"
MATRICES = {"W_enc", "W_dec", "b_enc", "b_dec"}
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
# An entry that begins a line; entries further in belong to others.
_ENTRY = re.compile(r"""(["']?)(\w[\w.-]*)\1[ \t]*:(?:[ \t]+(.*?))?[ \t]*""")
# What a double-quoted text of YAML spells out, beside what JSON does.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")


def save(sae: SparseCoder, folder: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> Path:
    """Write a transcoder as a layer of a set; the folder may hold others already, and entries of `config.yaml`.

    ::

        a = pre where pre > threshold,   pre = x W_enc.T + b_enc,   y_hat = a W_dec + b_dec + x W_skip.T

    circuit-tracer reads a set that has every layer from 0 on.

    Parameters
    ----------
    sae : Transcoder
        Trained or calibrated, with another choice than token choice.
    folder : path
        Made if missing.
    metadata : dict
        ``hook_name`` and ``hook_name_out``, which say the layer and the places in it, as hooks or as modules of
        transformers; ``model_name``, whose family says where a module of that name lies. Where ``hook_name`` is
        ``hook_mlp_in``, the module in ``hf_hook_name`` counts more.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If it is no transcoder with thresholds, its layer or place is not known, the folder holds something else than a
        set, or a set that has that layer already or is of other sizes, places or types.

    Examples
    --------
    >>> import tempfile, torch, sae_torch as st
    >>> from sae_torch.interop import circuit_tracer
    >>> transcoder = st.Transcoder(4, 4, 8, choice=st.MutualChoice(k=2))
    >>> st.calibrate(transcoder, [torch.randn(100, 4)])
    >>> about = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(path.name for path in circuit_tracer.save(transcoder, folder, about).iterdir())
    ['config.yaml', 'layer_0.safetensors']
    """
    from safetensors.torch import save_file

    from sae_torch.interop.inference_form import InferenceForm

    path, form = Path(folder), InferenceForm.of(sae)
    _require_writable(form, sae)
    known = metadata or {}
    layer, hooks = _places(known)
    config = {"model_name": str(known.get("model_name") or ""), "model_kind": KIND, **hooks}
    tensors = form.tensors
    if "threshold" in tensors:
        tensors[THRESHOLD] = tensors.pop("threshold")
    tensors["W_enc"] = tensors["W_enc"].T.contiguous()
    file = path / f"layer_{layer}.safetensors"
    if file.exists():
        raise InputError(f"{file}: expected a layer that the set does not have yet, found it")
    _require_set(path)
    config_text = _extended(path, config)
    _require_same_layers(path, tensors)
    path.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside:
        save_file(tensors, beside)
    write_text(path / CONFIG, config_text)
    return path


def recognises(path: Path) -> bool:
    """Whether a file is a layer of a set, by its name and those of its tensors."""
    if not (path.is_file() and _LAYER.fullmatch(path.name)):
        return False
    header = read_header(path)
    return header.keys() >= MATRICES and header["W_enc"].shape == header["W_dec"].shape


def form(path: Path, k: float | None = None) -> InferenceForm:
    """The weights of a layer; `k` is said nowhere."""
    import torch

    from sae_torch.interop.inference_form import InferenceForm

    tensors = read_safetensors(path)
    header = read_header(path)
    F, d = header["W_enc"].shape if header["W_enc"].ndim == 2 else (0, 0)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (F, d), "W_dec": (F, d), "b_enc": (F,), "b_dec": (d,)}
    optional: dict[str, tuple[int, ...]] = {THRESHOLD: (F,), "W_skip": (d, d)}
    shapes |= {name: shape for name, shape in optional.items() if name in tensors}
    check_tensors(path, tensors, shapes)
    _refuse_others(path, tensors, shapes)
    threshold = tensors.get(THRESHOLD)
    if threshold is None:
        threshold = torch.zeros(F, dtype=tensors["b_enc"].dtype)
    below = (threshold < 0).nonzero()
    if len(below):
        first = int(below[0])
        raise InputError(
            f"{path}: {THRESHOLD}: expected 0 or more, found {float(threshold[first]):.4g} at feature {first}; "
            "circuit-tracer lets negative activations pass there, which has no equivalent here"
        )
    weights = tensors["W_enc"].T, tensors["b_enc"], tensors["W_dec"], tensors["b_dec"]
    read = InferenceForm(*weights, threshold=threshold, l0=k, is_transcoder=True)
    return replace(read, W_skip=tensors.get("W_skip"))


def metadata(path: Path) -> dict[str, Any]:
    """What `config.yaml` and the file's name say."""
    config, layer = read_config(path.parent), _layer_of(path)
    hooks = {"hook_name": "feature_input_hook", "hook_name_out": "feature_output_hook"}
    found = {name: f"blocks.{layer}.{config[key]}" for name, key in hooks.items() if key in config}
    return {"model_name": config["model_name"], **found} if config.get("model_name") else found


def describe(path: Path) -> Description:
    """What the header of a layer, its name and `config.yaml` say."""
    header, said = read_header(path), metadata(path)
    (F, d), activation = header["W_enc"].shape, "jumprelu" if THRESHOLD in header else "relu"
    conventions = ("W_skip is (d_out, d_in)",) if "W_skip" in header else ()
    return Description(
        "circuit-tracer", path, d, F, dtype_name(header), activation, said.get("model_name"), said.get("hook_name"),
        _layer_of(path), None, "transcoder", d, conventions,
    )  # fmt: skip


def _layer_of(path: Path) -> int:
    found = _LAYER.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def read_config(folder: Path) -> dict[str, str]:
    """Names and texts of `config.yaml`; lists of other places are left out, and so is a missing file."""
    file = folder / CONFIG
    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not readable as text: {error}") from None
    entries = map(_ENTRY.fullmatch, text.splitlines())
    values = {entry[2]: _value(entry[3] or "") for entry in entries if entry is not None}
    return {name: value for name, value in values.items() if value}


def _value(text: str) -> str:
    """A text of YAML without its quotes and the comment behind it."""
    quoted = re.match(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')[ \t]*(?:#.*)?$""", text)
    if quoted is None:
        return re.sub(r"(^|[ \t]+)#.*", "", text)
    value = quoted[1]
    if value[0] == "'":
        return value[1:-1].replace("''", "'")
    try:
        return str(json.loads(value))
    except json.JSONDecodeError:  # escapes that JSON lacks
        return value[1:-1]


def _quoted(value: str) -> str:
    """A text as YAML, on one line whatever it holds."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _refuse_others(path: Path, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> None:
    unknown = sorted(tensors.keys() - known.keys())
    if unknown:
        raise InputError(f"{path}: expected {', '.join(known)}, found {unknown[0]} too, which has no equivalent here")
    kind = read_config(path.parent).get("model_kind", KIND)
    if kind != KIND:
        raise InputError(f"{path.parent / CONFIG}: model_kind: expected {KIND}, found {kind!r}")


def _require_writable(form: InferenceForm, sae: SparseCoder) -> None:
    if not form.is_transcoder:
        raise InputError("sae: expected a transcoder, as circuit-tracer has them, found an autoencoder")
    if sae.d_in != sae.d_out:
        raise InputError(
            f"sae: circuit-tracer has transcoders whose sides have one width, found {sae.d_in} and {sae.d_out}"
        )
    if form.k is not None:
        raise InputError(
            f"sae: circuit-tracer reads transcoders with thresholds, found {type(sae.choice).__name__}; mutual, "
            "feature and balanced choice have them"
        )
    form.require_thresholds_alone("circuit-tracer")


def _places(known: Mapping[str, Any]) -> tuple[int, dict[str, str]]:
    """The layer, and the places in it as circuit-tracer calls them."""
    names = {"hook_name": "feature_input_hook", "hook_name_out": "feature_output_hook"}
    layers, hooks = set(), {}
    for name, key in names.items():
        site = str(known.get(name) or "")
        found = re.search(r"(?:blocks|layers|h)\.(\d+)\.(.+)$", site)
        if found is None:
            raise InputError(f"metadata: expected {name} with a layer, as blocks.0.hook_mlp_out, found {site!r}")
        layers.add(int(found[1]))
        place = found[2]
        # SAELens calls what enters the MLP of Gemma 3 so too, behind the norm; the module tells which is meant
        module = re.search(r"layers\.\d+\.(.+)$", str(known.get("hf_hook_name") or ""))
        if place == "hook_mlp_in" and module is not None:
            place = module[1]
        hooks[key] = place_of(place, known.get("model_name"))
    if len(layers) > 1:
        raise InputError(f"metadata: expected both sites in one layer, found layers {sorted(layers)}")
    return layers.pop(), hooks


def _require_set(folder: Path) -> None:
    """Refuse to write beside what is no set."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    layers = folder.is_dir() and any(map(recognises, folder.iterdir()))
    if not layers and read_config(folder).get("model_kind") != KIND:
        raise InputError(f"out: expected a folder that holds nothing or a set of circuit-tracer, found {folder}")


def _extended(folder: Path, config: Mapping[str, str]) -> str:
    """The text of `config.yaml` as it is, with the entries it lacks."""
    file, there = folder / CONFIG, read_config(folder)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    for line in text.splitlines():
        if not re.match(r"[\s#]|---|- |$", line) and _ENTRY.fullmatch(line) is None:
            raise InputError(f"{file}: expected one entry a line, as name: value, found {line!r}")
    for name, value in config.items():
        if value and there.get(name, value) != value:
            raise InputError(f"{file}: {name}: expected {value!r}, found {there[name]!r} of the others")
    named = {entry[2] for entry in map(_ENTRY.fullmatch, text.splitlines()) if entry is not None}
    missing = "".join(f"{name}: {_quoted(value)}\n" for name, value in config.items() if name not in named)
    return text + ("\n" if missing and text and not text.endswith("\n") else "") + missing


def _require_same_layers(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """The layers of a set have one size and type."""
    for file in filter(recognises, sorted(folder.glob("layer_*.safetensors"))):
        header = read_header(file)
        shape, found = (tuple(each["W_enc"].shape) for each in (header, tensors))
        if shape != found:
            raise InputError(f"sae: expected (features, d) = {shape} like the other layers of the set, found {found}")
        types = dtype_name(header), dtype_name(tensors)
        if types[0] != types[1]:
            raise InputError(f"sae: expected {types[0]} weights like the other layers of the set, found {types[1]}")
        if ("W_skip" in header) != ("W_skip" in tensors):
            raise InputError(
                f"sae: expected a skip connection in all layers of a set or in none, found {file} otherwise"
            )
        return
