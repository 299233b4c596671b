"""An autoencoder written out densely, so that what evaluation says of it can be worked out by hand."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from sae_torch.activations import Activations
from sae_torch.activations.shards import Shard
from sae_torch.codes import SparseCodes


class PlainAutoencoder(nn.Module):
    """``relu(x W_enc + b_enc)`` above a threshold, decoded by ``W_dec`` and ``b_dec``."""

    def __init__(self, d_model: int, n_features: int, seed: int = 0, threshold: float = 0.5) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.W_enc = nn.Parameter(torch.randn(d_model, n_features, generator=draw) / d_model**0.5)
        self.W_dec = nn.Parameter(torch.randn(n_features, d_model, generator=draw) / n_features**0.5)
        self.b_dec = nn.Parameter(torch.randn(d_model, generator=draw))
        self.threshold = threshold

    def dense(self, x: Tensor) -> Tensor:
        z = x @ self.W_enc
        return torch.where(z > self.threshold, z, torch.zeros_like(z))

    def encode(self, x: Tensor) -> SparseCodes:
        dense = self.dense(x)
        tokens, features = dense.nonzero(as_tuple=True)
        return SparseCodes(tokens, features, dense[tokens, features], (x.shape[0], self.W_enc.shape[1]))

    def decode(self, codes: SparseCodes) -> Tensor:
        dense = torch.zeros(codes.shape, dtype=codes.values.dtype)
        dense = dense.index_put((codes.tokens, codes.features), codes.values, accumulate=True)
        return dense @ self.W_dec + self.b_dec


def make_activations(*sizes: int, d_model: int = 6, seed: int = 0) -> Activations:
    """Shards of the given numbers of windows of 5 tokens, position 0 dropped, so 4 rows each."""
    draw = torch.Generator().manual_seed(seed)
    shards = []
    for windows in sizes:
        token_ids = torch.randint(0, 60, (windows, 5), generator=draw, dtype=torch.int32)
        window, position = (torch.ones(windows, 4).nonzero(as_tuple=True)[i].int() + i for i in range(2))
        shards.append(
            Shard(
                activations=(3 + torch.randn(4 * windows, d_model, generator=draw)).half(),
                window=window,
                position=position,
                token_ids=token_ids,
                documents=torch.zeros_like(token_ids),
                header={"documents": json.dumps(["only"])},
            )
        )
    return Activations(tuple(shards), 4 * sum(sizes))
