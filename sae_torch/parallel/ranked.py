"""Several processes as one of them sees them: what `World` says of one process, summed and gathered."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import allocation as al
from sae_torch.errors import InputError
from sae_torch.parallel.mesh import DATA, FEATURES
from sae_torch.parallel.reductions import mean_over, shared_over, sum_over
from sae_torch.parallel.torch_ranks import OneRank, TorchRanks
from sae_torch.parallel.world import ALONE, Summed, T, Vector, World
from sae_torch.retyped import retyped

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class _Ranked(World):
    """Several processes: along `data` with other tokens, along `features` with other features of the same tokens."""

    def __init__(
        self, data: TorchRanks, features: TorchRanks, everyone: TorchRanks, n_features: int, mesh: DeviceMesh
    ) -> None:
        self.ranks = self.everyone = everyone
        self.data, self.features, self.n_features, self.mesh = data, features, n_features, mesh
        self.index, self.count = everyone.index, everyone.count
        self.leads = everyone.index == 0
        self.cuts_features = features.count > 1

    @property
    def own(self) -> World:
        if not self.cuts_features:
            return ALONE
        return _Ranked(OneRank(), self.features, self.features, self.n_features, self.mesh)

    def share(self, batch: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        index, count = self.data.index, self.data.count
        if len(sizes) == count:
            return batch[sum(sizes[:index]) : sum(sizes[: index + 1])]
        return batch[len(batch) * index // count : len(batch) * (index + 1) // count]

    def all_tokens(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        flat = retyped(rows.detach().cpu().contiguous().reshape(-1), torch.uint8).numpy()
        parts = [retyped(torch.from_numpy(part), rows.dtype) for part in self.data.gather(flat)]
        parts = [part.reshape(-1, *rows.shape[1:]) for part in parts]
        return torch.cat(parts).to(rows.device), [len(part) for part in parts]

    def span(self, tokens: int) -> tuple[int, int]:
        sizes = _numbers(self.data, tokens)
        return sum(sizes[: self.data.index]), sum(sizes)

    def sum_tokens(self, values: Summed) -> Summed:
        return _sum(self.data, values)

    def mean(self, rows: Tensor) -> Tensor:
        return mean_over(rows, self.data)

    def cut(self, features: int) -> slice:
        size = -(-features // self.features.count)  # as torch cuts
        return slice(min(self.features.index * size, features), min((self.features.index + 1) * size, features))

    def width(self, features: int) -> int:
        held = range(self.n_features)[self.cut(self.n_features)]
        return self.n_features if features == len(held) else features

    def mine(self, values: Vector) -> Vector:
        return values[self.cut(len(values))] if values.ndim else values

    def of_features(self, values: Vector) -> Vector:
        summed = _sum(self.data, values)
        if isinstance(summed, np.ndarray):
            return self.all_features(summed)
        return torch.from_numpy(self.all_features(summed.cpu().numpy())).to(values)

    def all_features(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate(self.features.gather(values)) if self.cuts_features else values

    def smallest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.all_features(np.min(self.data.gather(values), axis=0))

    def add_features(self, rows: Tensor) -> Tensor:
        return sum_over(rows, self.features) if self.cuts_features else rows

    def shared(self, tensor: Tensor) -> Tensor:
        return shared_over(tensor, self.features) if self.cuts_features else tensor

    def cut_weight(self, weight: Tensor) -> Tensor:
        if not self.cuts_features:
            return weight
        # a copy, since a view would hold on to the memory of all rows
        return self.from_rows(weight[self.cut(len(weight))].clone(), len(weight))

    def empty_rows(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if not self.cuts_features:
            return super().empty_rows(shape, dtype)
        held = len(range(shape[0])[self.cut(shape[0])])
        return self.from_rows(torch.empty(held, *shape[1:], dtype=dtype), shape[0])

    def from_rows(self, held: Tensor, features: int) -> Tensor:
        if not self.cuts_features:
            return held
        from torch.distributed.tensor import DTensor, Replicate, Shard

        shape = torch.Size((features, *held.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(held, self.mesh, (Replicate(), Shard(0)), run_check=False, shape=shape, stride=stride)

    def is_cut(self, weight: Tensor) -> bool:
        return hasattr(weight, "placements") and any(place.is_shard() for place in weight.placements)

    def placed_like(self, value: Tensor, weight: Tensor) -> Tensor:
        if hasattr(value, "placements") or not hasattr(weight, "placements"):
            return value
        return self.cut_weight(value) if self.is_cut(weight) else self.whole_weight(value)

    def whole_weight(self, weight: Tensor) -> Tensor:
        if not self.cuts_features:
            return weight
        from torch.distributed.tensor import DTensor, Replicate

        return DTensor.from_local(weight, self.mesh, (Replicate(), Replicate()), run_check=False)

    def local(self, weight: Tensor) -> Tensor:
        return weight.to_local() if hasattr(weight, "to_local") else weight

    def gathered(self, weight: Tensor) -> Tensor:
        return weight.full_tensor() if self.cuts_features else weight  # type: ignore[attr-defined]

    def part(self, shape: tuple[int, ...]) -> al.Part | None:
        return al.Part(self.span(shape[0]), (self.cut(self.n_features).start, self.n_features))

    def part_of_column(self, length: int) -> al.Part | None:
        sizes = _numbers(self.everyone, length)
        return al.Part((sum(sizes[: self.everyone.index]), sum(sizes)))

    def sum(self, values: Summed) -> Summed:
        return _sum(self.everyone, values)

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        gradients = []
        for weight in weights:
            if weight.requires_grad:
                if weight.grad is None:  # nothing of this rank's depends on it
                    weight.grad = torch.zeros_like(weight)
                gradients.append(self.local(weight.grad))
        self.data.add_up(*gradients)

    def agreed(self, work: Callable[[], T], number: Callable[[T], int]) -> tuple[T, list[int]]:
        done, error = None, None
        try:
            done = work()
        except Exception as raised:
            error = raised
        numbers = _numbers(self.everyone, -1 if error is not None else number(done))  # type: ignore[arg-type]
        if min(numbers) < 0:
            texts = self.everyone.gather(np.frombuffer(_sent(error), np.uint8))
            if error is not None:
                raise error
            sent = texts[next(rank for rank, value in enumerate(numbers) if value < 0)]
            raise pickle.loads(sent.tobytes())
        return done, numbers  # type: ignore[return-value]

    def divided(self, work: Sequence[Callable[[], T]]) -> list[T]:
        own, _ = self.agreed(lambda: [piece() for piece in work[self.index :: self.count]], len)
        sent = self.everyone.gather(np.frombuffer(pickle.dumps(own), np.uint8))
        answers: list[list[T]] = [pickle.loads(part.tobytes()) for part in sent]
        return [answers[number % self.count][number // self.count] for number in range(len(work))]

    def taken(self, batch: Callable[[], Tensor]) -> tuple[Tensor, int]:
        x, sizes = self.agreed(batch, len)
        width = self.features.count
        rows = [sizes[start : start + width] for start in range(0, len(sizes), width)]
        for number, row in enumerate(rows):
            if len(set(row)) > 1:
                raise InputError(
                    f'batches: expected the same tokens on the ranks with "data" coordinate {number}, found '
                    f"{' and '.join(map(str, row))} tokens"
                )
        return x, sum(row[0] for row in rows)

    def same(self, name: str, value: int) -> int:
        values = _numbers(self.everyone, value)
        if len(set(values)) > 1:
            found = ", ".join(map(str, values))
            raise InputError(f"{name}: expected the same on every rank, found {found}")
        return value

    def require_alike(self, name: str, state: Callable[[], Iterable[Any]]) -> None:
        digests = _numbers(self.everyone, _digest(self._held(value) for value in state()))
        width = self.features.count
        other = [rank for rank, digest in enumerate(digests) if digest != digests[rank % width]]
        if other:
            raise InputError(
                f"{name}: expected the same on every rank, found another on rank {other[0]} than on rank "
                f"{other[0] % width}"
            )

    def _held(self, value: Any) -> Any:
        return self.local(value) if isinstance(value, Tensor) else value


def _numbers(ranks: TorchRanks, number: int) -> list[int]:
    return [int(each[0]) for each in ranks.gather_equal(np.array([number], np.int64))]


def _sum(ranks: TorchRanks, values: Summed) -> Summed:
    if isinstance(values, Tensor):
        wide = torch.float64 if values.dtype.is_floating_point else torch.int64
        total = ranks.sum(values.detach().to("cpu", wide).numpy())
        return torch.from_numpy(np.asarray(total)).to(values)
    return ranks.sum(values) if isinstance(values, np.ndarray) else sum(_numbers(ranks, values))


def _sent(error: Exception | None) -> bytes:
    """An error for the other ranks: itself where it can travel, else its text."""
    if error is None:
        return b""
    try:
        sent = pickle.dumps(error)
        pickle.loads(sent)
        return sent
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))


def _digest(state: Iterable[Any]) -> int:
    """A number that says whether two states are the same."""
    digest = 0
    for value in state:
        if isinstance(value, Tensor):
            content: Any = retyped(value.detach().cpu().reshape(-1).contiguous(), torch.uint8).numpy()
        else:
            content = repr(value).encode()
        digest = zlib.crc32(content, digest)
    return digest


def world_of(mesh: DeviceMesh | None, n_features: int) -> World:
    """The processes of a mesh, with a dictionary of so many features.

    Raises
    ------
    InputError
        If its dimensions are not those of `st.parallel.mesh`, or a process would be left without features.
    """
    if mesh is None:
        return ALONE
    names = getattr(mesh, "mesh_dim_names", None)
    if names != (DATA, FEATURES):
        raise InputError(f"mesh: expected one of st.parallel.mesh(data=..., features=...), found {mesh!r}")
    data, features = mesh.shape
    if data == features == 1:
        return ALONE
    if (features - 1) * -(-n_features // features) >= n_features:
        raise InputError(f"n_features: expected some for each of {features} processes, found {n_features}")
    along_data, along_features = (TorchRanks(mesh[name].get_group()) for name in (DATA, FEATURES))
    return _Ranked(along_data, along_features, TorchRanks(), n_features, mesh)


def workers_of(mesh: DeviceMesh | None) -> World:
    """All processes of a mesh, whatever its dimensions, for work that each does alone."""
    if mesh is None or mesh.size() == 1:
        return ALONE
    everyone = TorchRanks()
    return _Ranked(everyone, OneRank(), everyone, 0, mesh)
