"""The processes of `torch.distributed` as `allocation` asks for them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from sae_torch.errors import InputError
from sae_torch.parallel.survivors import among_the_living

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work


class TorchRanks:
    """The processes of a group: arrays in main memory go in, the same arrays come out on every rank.

    Attributes
    ----------
    index, count : int
        This rank, and how many there are.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self.index, self.count = dist.get_rank(group), dist.get_world_size(group)
        self._group = group
        self._device = "cpu" if "cpu:" in dist.get_backend_config(group) else "cuda"

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """The sum over all ranks, element by element, of int64 or float64 arrays of one shape.

        Floating-point numbers are added in the order of the ranks, so that every rank has the same bits.
        """
        if values.dtype not in (np.int64, np.float64):
            raise InputError(f"values: expected int64 or float64, found {values.dtype}")
        if values.size == 0:
            return values.copy()
        if values.dtype == np.int64 and self.count > 1:
            total = torch.from_numpy(np.array(values)).to(self._device)
            among_the_living(lambda: dist.all_reduce(total, group=self._group))
            return total.cpu().numpy()
        return functools.reduce(np.add, self.gather_equal(values))

    def gather(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """The vectors of all ranks in their order, of one dtype and any length."""
        own = torch.from_numpy(np.ascontiguousarray(values).view(np.uint8).copy())
        sizes = [int(size) for size in self._all(torch.tensor(len(own)))]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(own)] = own
        parts = self._all(padded) if len(padded) else [padded] * self.count
        return [part[:size].numpy().view(values.dtype) for part, size in zip(parts, sizes, strict=True)]

    def gather_equal(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """As `gather`, where all have one shape and a type that torch has too: one round instead of two."""
        return [part.numpy() for part in self._all(torch.from_numpy(np.array(values)))]

    def start_sum(self, tensor: Tensor) -> Work | None:
        """Begin to add up a tensor of one shape in its place; every rank has the same bits when it is waited for."""
        return None if self.count == 1 else dist.all_reduce(tensor, group=self._group, async_op=True)

    def add_up(self, *tensors: Tensor) -> None:
        """Add up tensors in their places, all under way at once."""
        for started in [self.start_sum(tensor) for tensor in tensors]:
            if started is not None:
                among_the_living(started.wait)

    def _all(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of one shape and type."""
        if self.count == 1:
            return [tensor]
        tensor = tensor.to(self._device)
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        among_the_living(lambda: dist.all_gather(parts, tensor, group=self._group))
        return [part.cpu() for part in parts]


class OneRank(TorchRanks):
    """A process on its own."""

    def __init__(self) -> None:
        self.index, self.count = 0, 1


def ranks(group: ProcessGroup | None = None) -> TorchRanks:
    """The processes of a group of `torch.distributed`, as ``al.solve(problem, ranks=...)`` takes them.

    Parameters
    ----------
    group : ProcessGroup, optional
        All processes by default; ``mesh["data"].get_group()`` is one dimension of a mesh.

    Raises
    ------
    InputError
        If no process group has been made yet.

    Examples
    --------
    >>> import tempfile
    >>> import torch.distributed as dist
    >>> import sae_torch as st
    >>> with tempfile.TemporaryDirectory() as folder:  # under torchrun st.parallel.mesh() joins instead
    ...     dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    ...     print(st.parallel.ranks().count)
    ...     dist.destroy_process_group()
    1
    """
    if not dist.is_initialized():
        raise InputError(
            "ranks: expected processes that have joined, found none; call st.parallel.mesh(...) under torchrun, or "
            "torch.distributed.init_process_group, first"
        )
    return TorchRanks(group)
