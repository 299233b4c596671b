"""The same selections by torch's own operations, for CUDA tensors where CuPy is not installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from allocation.cuda.scores import DeviceScores, Top
from allocation.scores import Array, Indices


@dataclass(frozen=True)
class TorchEngine:
    """`torch.topk` for the prices; what lies above them, and the first of their equals. Slower, equally exact."""

    device: str

    def top(self, scores: DeviceScores, axis: int | None, caps: Indices) -> Top:
        """The best positive entries of every group."""
        import torch

        array: Any = scores.array
        if array.dtype in (torch.uint16, torch.uint32):  # torch ranks no unsigned integers but bytes
            array = array.to(torch.int64)
        tensor: Any = array if axis == 0 else array.T if axis == 1 else array.reshape(1, -1)
        groups, length = tensor.shape
        if tensor.numel() == 0:
            flat = torch.zeros(0, dtype=torch.int64, device=tensor.device)
            return Top(flat, np.full(groups, np.inf), np.zeros(groups))
        caps_here = torch.from_numpy(np.minimum(caps, length)).to(tensor.device)
        ranked = torch.topk(tensor, min(int(caps.max()) + 1, length), dim=1).values.clamp_min(0)
        # the last taken and the next; a column of zeros where a line ends before its cap
        ranked = torch.cat([ranked, ranked.new_zeros(groups, 1)], dim=1)
        price = ranked.gather(1, (caps_here - 1).clamp_min(0)[:, None])
        after = ranked.gather(1, caps_here[:, None]).squeeze(1)
        above = (tensor > price) & (caps_here > 0)[:, None]
        room = caps_here - above.sum(1)
        line, place = ((tensor == price) & (price > 0)).nonzero(as_tuple=True)
        rank = torch.arange(line.numel(), device=line.device) - torch.searchsorted(line, line)
        line, place = line[rank < room[line]], place[rank < room[line]]
        above[line, place] = True
        flat = (above.T if axis == 1 else above).reshape(-1).nonzero().squeeze(1)
        # where fewer are positive than the cap allows, the last taken is the smallest of them
        smallest = torch.where(
            above, tensor, torch.inf if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max
        )
        last, taken = self._reals(smallest.amin(1)), self.get(above.any(1))
        return Top(flat, np.where(taken, last, np.inf), self._reals(after))

    def inspect(self, scores: DeviceScores) -> Indices:
        """NaN entries, the first, +inf entries, the first."""
        found = []
        tensor: Any = scores.array
        for bad in (tensor.isnan(), tensor.isposinf()):
            places = bad.reshape(-1).nonzero().squeeze(1)
            found += [places.numel(), int(places[0]) if places.numel() else scores.n_edges]
        return np.array(found)

    def at(self, scores: DeviceScores, flat: Any) -> DeviceScores:
        """The entries at flat positions, as a matrix of one row."""
        return DeviceScores(scores.array.reshape(-1)[flat][None], scores.type, self)

    def matches(self, scores: DeviceScores, flat: Any) -> tuple[Any, Any, Any]:
        """Tokens, features and scores at flat positions."""
        width = max(scores.shape[1], 1)
        return flat // width, flat % width, scores.values_at(flat)

    def put(self, array: Array) -> Any:
        """A NumPy array on the device."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def get(self, array: Any) -> Array:
        """A tensor in NumPy; bfloat16 as its bit patterns."""
        import torch

        tensor = array.view(torch.int16) if array.dtype == torch.bfloat16 else array
        return np.asarray(tensor.cpu().numpy())

    def _reals(self, tensor: Any) -> Any:
        return self.get(tensor.double())
