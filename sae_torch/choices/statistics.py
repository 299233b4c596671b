"""Modules whose buffers are measurements: they go where the weights go, and keep their precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

from torch import Tensor, nn

from sae_torch.parallel.world import ALONE, World


class Statistics(nn.Module):
    """A module whose buffers follow the device and not the type that it is cast to: ``half()`` casts weights alone.

    A threshold rounded to 8 bits decides otherwise, and counts beyond 256 no longer grow.

    Attributes
    ----------
    world : World
        The processes whose tokens are measured together.
    on_host : tuple of str
        Buffers that stay in main memory wherever the module goes: what decides how the next batch is stated is read
        before the device has any of it.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.choices.statistics import Statistics
    >>> measured = Statistics()
    >>> measured.register_buffer("counts", torch.zeros(3, dtype=torch.float64))
    >>> measured.half().counts.dtype
    torch.float64
    """

    world: World = ALONE
    on_host: ClassVar[tuple[str, ...]] = ()

    def join(self, world: World) -> None:
        """Measure together with other processes."""
        for module in self.modules():
            if isinstance(module, Statistics):
                module.world = world

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        buffers = {id(buffer) for buffer in self.buffers()}
        on_host = {name: self._buffers[name] for name in self.on_host if name in self._buffers}

        def applied(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if id(tensor) in buffers and moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved

        super()._apply(applied, recurse)  # type: ignore[no-untyped-call]
        self._buffers.update(on_host)
        return self
