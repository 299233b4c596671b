"""Pairs of activations of the same tokens: what a transcoder is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sae_torch.activations.rows import Rows
from sae_torch.activations.shards import Activations
from sae_torch.errors import InputError


@dataclass(frozen=True, eq=False)
class Pairs:
    """Inputs and targets of the same tokens, beside each other in one row.

    ::

        row_i = (x_i, y_i)

    `ActivationReader` shuffles them as it does any rows, and `Trainer` of a transcoder takes the batches as they come;
    `sides_of` gives the pair.

    Parameters
    ----------
    inputs : Rows
        What is read: of one site.
    targets : Rows
        What is to be computed: of another, the same tokens in the same order.

    Raises
    ------
    InputError
        If they have not as many rows, or shards say that they are of other tokens.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_torch.activations import ActivationReader, ArrayRows, Pairs
    >>> pairs = Pairs(ArrayRows((np.ones((10, 4)),)), ArrayRows((np.ones((10, 3)),)))
    >>> x, y = pairs.sides_of(next(iter(ActivationReader(pairs, batch_size=5))))
    >>> x.shape, y.shape
    (torch.Size([5, 4]), torch.Size([5, 3]))
    """

    inputs: Rows
    targets: Rows

    def __post_init__(self) -> None:
        x, y = self.inputs, self.targets
        if len(x) != len(y):
            raise InputError(f"targets: expected as many rows as the {len(x)} inputs, found {len(y)}")
        if isinstance(x, Activations) and isinstance(y, Activations):
            for number, (one, other) in enumerate(zip(x.shards, y.shards, strict=False)):
                for name in ("window", "position", "token_ids"):
                    if not torch.equal(getattr(one, name), getattr(other, name)):
                        raise InputError(
                            f"targets: expected the tokens of the inputs, found others in shard {number}; harvest both "
                            "sites together, so that the same tokens are dropped"
                        )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def d_model(self) -> int:
        """Width of a row: of both sides together."""
        return self.inputs.d_model + self.targets.d_model

    @cached_property
    def header(self) -> Mapping[str, str]:
        """Where the inputs come from, and as ``target`` the site of the targets."""
        own = self.targets.header
        digest = {"target_files_sha256": own["files_sha256"]} if "files_sha256" in own else {}
        return {**self.inputs.header, "target": own.get("site") or own.get("activations", ""), **digest}

    @property
    def d_in(self) -> int:
        """Width of the inputs."""
        return self.inputs.d_model

    @property
    def by_site(self) -> dict[str, Activations]:
        """Both sides by their site, where they were harvested."""
        sides = (side for side in (self.inputs, self.targets) if isinstance(side, Activations))
        return {side.header["site"]: side for side in sides}

    def gather(self, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Rows by index, ``(len(rows), d_in + d_out)`` of type `dtype`, in the order of `rows`."""
        return torch.cat([self.inputs.gather(rows, dtype), self.targets.gather(rows, dtype)], dim=1)

    def sides_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets in such rows."""
        return rows[:, : self.inputs.d_model], rows[:, self.inputs.d_model :]
