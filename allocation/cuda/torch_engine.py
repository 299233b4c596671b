"""The same selections by torch's own operations, for CUDA tensors where CuPy is not installed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.arrays import Array, Indices
from allocation.cuda.scores import DeviceScores, FixedTop
from allocation.cuda.torch_namespace import torch_namespace
from allocation.threads import rows_per_block

# Entries for which ranks and positions are held at once.
BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class TorchEngine:
    """`torch.topk` for the prices; what lies above them, and the first of their equals. Slower, equally exact."""

    device: str
    name: str = "TorchEngine"

    @property
    def namespace(self) -> Any:
        """Torch, as the passes call it."""
        return torch_namespace(self.device)

    def scope(self) -> AbstractContextManager[None]:
        """Makes the device current; torch's operations follow its current stream."""
        import torch

        device = torch.device(self.device)
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def wait(self) -> None:
        """Nothing to wait for: tensors are read on the stream they were made on."""

    def padded_top(
        self,
        scores: DeviceScores,
        axis: int | None,
        caps: Indices,
        only_positive: bool = True,
        expected: Any = None,
    ) -> FixedTop:
        """The best entries of every group; the sequence of operations and all sizes follow from the caps alone.

        What is expected of the prices saves `torch.topk` nothing.
        """
        import torch

        tensor: Any = scores.array
        if tensor.dtype in (torch.uint16, torch.uint32):  # torch ranks no unsigned integers but bytes
            tensor = tensor.to(torch.int64)
        lines = tensor if axis == 0 else tensor.T if axis == 1 else tensor.reshape(1, -1)
        caps = np.minimum(caps, lines.shape[1])
        limit = torch.inf if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
        if tensor.numel() == 0:
            nothing = tensor.new_zeros(lines.shape[0], dtype=torch.float64)
            positions, count = (tensor.new_zeros(size, dtype=torch.int64) for size in (0, 1))
            return FixedTop(positions, count, nothing + torch.inf, nothing)
        if caps.min() == caps.max():  # written there: a captured graph would copy main memory that others use by then
            caps_on_device = torch.full((len(caps),), int(caps[0]), device=tensor.device)
        else:
            caps_on_device = self.put(caps)
        ranked = torch.topk(lines, min(int(caps.max()) + 1, lines.shape[1]), dim=1).values
        least = 0 if only_positive else -torch.inf if tensor.is_floating_point() else None
        # one entry more, where a line ends before its cap
        ranked = torch.cat([ranked, ranked.new_full((len(ranked), 1), least or 0)], dim=1)
        wanted = ranked if least is None else ranked.clamp_min(least)
        price = wanted.gather(1, (caps_on_device - 1).clamp_min(0)[:, None]).squeeze(1)
        refused = wanted.gather(1, caps_on_device[:, None]).squeeze(1)
        price = torch.where(caps_on_device > 0, price, limit)
        room = caps_on_device - (wanted[:, :-1] > price[:, None]).sum(1)
        if least is not None:  # what is merely forbidden, or not positive, ties with nothing
            room = torch.where(price > least, room, 0)
        taken = torch.minimum(caps_on_device, (wanted[:, :-1] > least).sum(1)) if least is not None else caps_on_device
        last = wanted.gather(1, (taken - 1).clamp_min(0)[:, None]).squeeze(1).double()
        positions, count = self._positions(tensor, axis, price, room, int(caps.sum()))
        return FixedTop(positions, count, torch.where(taken > 0, last, torch.inf), refused.double())

    def _positions(self, tensor: Any, axis: int | None, price: Any, room: Any, most: int) -> tuple[Any, Any]:
        """Ascending positions of what exceeds its group's price, and of as many of its equals as there is room for."""
        import torch

        rows, columns = tensor.shape
        positions = torch.zeros(most + 1, dtype=torch.int64, device=tensor.device)
        count, equals = positions.new_zeros(1), positions.new_zeros(1, columns if axis == 1 else 1)
        price, room = (x[:, None] if axis == 0 else x[None, :] for x in (price, room))
        step = rows_per_block(columns, BLOCK_ENTRIES)
        for start in range(0, rows, step):
            block = tensor[start : start + step]
            block_groups = slice(start, start + step) if axis == 0 else slice(None)
            above, equal = block > price[block_groups], block == price[block_groups]
            if axis is None:
                rank = equals + equal.reshape(-1).cumsum(0).view(block.shape)
            else:
                rank = equal.cumsum(1) if axis == 0 else equals + equal.cumsum(0)
            if axis != 0:
                equals = rank[-1:, -1:] if axis is None else rank[-1:]
            taken = (above | (equal & (rank <= room[block_groups]))).reshape(-1)
            position = count + taken.cumsum(0)
            # what is not taken goes to the position past the last
            flat = torch.arange(taken.numel(), device=tensor.device) + start * columns
            positions.scatter_(0, torch.where(taken, position - 1, most), flat)
            count = position[-1:]
        return positions[:most], count

    def inspect(self, scores: DeviceScores) -> Indices:
        """NaN entries, the first, +inf entries, the first."""
        counts = []
        tensor: Any = scores.array
        for bad in (tensor.isnan(), tensor.isposinf()):
            positions = bad.reshape(-1).nonzero().squeeze(1)
            counts += [positions.numel(), int(positions[0]) if positions.numel() else scores.n_edges]
        return np.array(counts)

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.pin_memory().to(self.device, non_blocking=True) if "cuda" in self.device else tensor

    def get(self, array: Any) -> Array:
        """A tensor in NumPy; bfloat16 as its bit patterns."""
        import torch

        tensor = array.view(torch.int16) if array.dtype == torch.bfloat16 else array
        return np.asarray(tensor.cpu().numpy())

    def returned(self, array: Any) -> Any:
        """Tensors stay tensors."""
        return array
