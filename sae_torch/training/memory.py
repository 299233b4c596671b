"""Whether a GPU has room for the scores of a step, and how many features at a time fit where it has not."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sae_torch.matches import is_on_device
from sae_torch.training.trainer import Trainer

# What a step needs in multiples of its matrix of scores: a bit per score, bounds of columns, products with weights.
SHARE = 1.25
# The same of a block of features: the auxiliary loss holds it a second time, weighted.
BLOCK_SHARE = 2.25
# With fewer features at a time a step would be launches and little else.
LEAST = 256


def room_for_scores(trainers: Iterable[Trainer], device: torch.device) -> int:
    """Bytes of a GPU left beside what these trainers will hold before their first step is over.

    ::

        free + held by torch for reuse - sum over trainers (gradients, two moments of Adam) - one scaled encoder
    """
    weights = [sum(p.numel() * p.element_size() for p in trainer.sae.parameters()) for trainer in trainers]
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + held - 3 * sum(weights) - max(weights, default=0) // 2


def fitting_chunk(tokens: int, n_features: int, entry_bytes: int, room: int) -> int | None:
    """Features that are encoded and selected at a time: None for all, else the largest power of two that fits.

    At least 256 in any case: with less room, training is left to fail for lack of memory.

    Examples
    --------
    >>> from sae_torch.training.memory import fitting_chunk
    >>> fitting_chunk(tokens=4096, n_features=1 << 20, entry_bytes=2, room=40 << 30)
    >>> fitting_chunk(tokens=4096, n_features=1 << 20, entry_bytes=2, room=8 << 30)
    262144
    """
    row = tokens * entry_bytes
    if SHARE * row * n_features <= room:
        return None
    chunk = 1 << max(LEAST, int(max(room, 0) / (BLOCK_SHARE * row))).bit_length() - 1
    return chunk if chunk < n_features else None


def fit_to_gpu(trainers: dict[str, Trainer], tokens: int) -> dict[str, int]:
    """Where the scores of a batch do not fit the GPU, encode and select in blocks; which, and of how many features.

    Choices that read the whole matrix, and steps that become a graph, stay as they are.
    """
    chunks = {}
    for name, trainer in trainers.items():
        sae = trainer.sae
        if not is_on_device(sae.W_dec) or sae.feature_chunk is not None:
            continue
        if trainer.config.graph or sae.choice.limits(0) is None:
            continue
        size = sae.product_dtype(tokens).itemsize
        chunk = fitting_chunk(tokens, sae.n_features, size, room_for_scores(trainers.values(), sae.W_dec.device))
        if chunk is not None:
            sae.feature_chunk = chunks[name] = chunk
    return chunks
