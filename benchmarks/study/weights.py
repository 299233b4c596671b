"""Weights of a run on disk, with what is done to the activations before."""

from __future__ import annotations

from pathlib import Path

import sae_torch as st
from benchmarks.study.cell import Cell
from benchmarks.study.long.whitening import Whitening
from benchmarks.study.request import blank

WEIGHTS = "weights.safetensors"
WHITENING = {part: f"whitening.{part}" for part in ("shift", "matrix", "inverse")}


def write_weights(sae: st.SparseAutoencoder, file: Path) -> None:
    """Write an autoencoder's weights."""
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in sae.state_dict().items()}
    if isinstance(sae.input_transform, Whitening):
        tensors |= {name: getattr(sae.input_transform, part).contiguous() for part, name in WHITENING.items()}
    save_file(tensors, file)


def read_weights(cell: Cell, file: Path) -> st.SparseAutoencoder:
    """The autoencoder of a run, in eval mode."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    whitening = {part: tensors.pop(name) for part, name in WHITENING.items() if name in tensors}
    sae = blank(cell, tensors["W_dec"].shape[1])
    sae.load_state_dict(tensors)
    sae.input_transform = Whitening(**whitening) if whitening else None
    return sae.eval()
