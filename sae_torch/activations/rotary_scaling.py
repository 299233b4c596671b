"""Scaled rotary positions of a GGUF file, which transformers' loader drops without a word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sae_torch.activations.gguf_header import GgufHeader
from sae_torch.errors import InputError

# Families whose scaling transformers reads from the file, or knows without it.
_READ_BY_TRANSFORMERS = ("gpt-oss", "gemma4")
# What a file may say of a scaling without effect on these types: by how much, from where, and that it was trained so.
_PLAIN = frozenset({"type", "factor", "original_context_length", "finetuned"})
_YARN = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
# Entries that multiply or add, where these values change nothing.
_NEUTRAL = {"attn_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_ext_factor": 1.0, "yarn_log_multiplier": 0.0}
_FREQUENCIES = "rope_freqs.weight"


@dataclass(frozen=True, eq=False)
class RotaryScaling:
    """How a GGUF file scales the frequencies of its rotary positions.

    ::

        f_i <- f_i / (factor_i s)   with factors of the file (Llama 3.1 and later) and a linear factor s, or by YaRN

    Parameters
    ----------
    file : path
    parameters : mapping
        For the configuration's `rope_parameters`, empty where frequencies are as usual.
    factors : (frequencies,) tensor, optional
        Of each frequency.
    """

    file: Path
    parameters: Mapping[str, Any] = field(default_factory=dict)
    factors: Tensor | None = None

    @classmethod
    def of(cls, file: Path) -> RotaryScaling:
        """What a file says.

        Raises
        ------
        InputError
            If it scales in a way that cannot be filled in.
        """
        header = GgufHeader.read(file)
        family = str(header.entries.get("general.architecture"))
        if family in _READ_BY_TRANSFORMERS:
            return cls(file)
        if any(name.startswith("rope_factors_") for name in header.tensors):
            raise _unknown(file, "longrope")
        factors = None
        if _FREQUENCIES in header.tensors:
            factors = torch.from_numpy(header.float32(_FREQUENCIES))
            factors = None if bool((factors == 1).all()) else factors
        return cls(file, _parameters(file, header.entries, family), factors)

    @property
    def provenance(self) -> dict[str, str]:
        """Empty without scaling; without the entry, shards were harvested when it was dropped."""
        return {"rotary_scaling": "of the file"} if self.parameters or self.factors is not None else {}

    def configure(self, config: Any) -> None:
        """Write the scaling into a configuration of transformers, before the model is made."""
        if not self.parameters:
            return
        there = getattr(config, "rope_parameters", None)
        if not isinstance(there, dict):
            raise _unknown(self.file, f"{self.parameters['rope_type']} for {type(config).__name__}")
        # where layers differ, those with a sliding window are never scaled
        there.get("full_attention", there).update(self.parameters)

    def apply(self, model: nn.Module) -> None:
        """Divide the frequencies of a model by the factors, in place."""
        if self.factors is None:
            return
        names = ("inv_freq", "original_inv_freq")
        found = [buffer for name, buffer in model.named_buffers() if name.rsplit(".", 1)[-1] in names]
        if not found or any(buffer.shape != self.factors.shape for buffer in found):
            raise _unknown(self.file, f"{len(self.factors)} factors of frequencies that {type(model).__name__} lacks")
        for buffer in found:
            buffer.div_(self.factors.to(buffer.device))


def _parameters(file: Path, entries: Mapping[str, Any], family: str) -> dict[str, Any]:
    start = f"{family}.rope.scaling."
    stated = {name.removeprefix(start): value for name, value in entries.items() if name.startswith(start)}
    factor = float(stated.get("factor") or entries.get(f"{family}.rope.scale_linear") or 1.0)
    # a factor without a type is linear, as llama.cpp reads it
    kind = stated.get("type", "linear")
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {}
    known = _PLAIN | (_YARN.keys() if kind == "yarn" else set())
    others = [name for name in stated if name not in known and stated[name] != _NEUTRAL.get(name)]
    if others:
        raise _unknown(file, f"{kind} with {', '.join(others)}")
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    length = stated.get("original_context_length")
    if kind != "yarn" or not length:
        raise _unknown(file, kind if kind != "yarn" else "yarn without original_context_length")
    betas = {ours: float(stated[name]) for name, ours in _YARN.items() if name in stated}
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": int(length), **betas}


def _unknown(file: Path, found: str) -> InputError:
    return InputError(
        f"model {file}: expected rotary positions as usual, or scaled by factors of the file, linearly or by yarn, "
        f"found {found}; transformers would drop the scaling"
    )
