"""The one place that knows about ranks: everything else asks it for sums over the tokens of the whole batch.

One process is its own world: then sums are what is summed, and every answer is the same bits as without this module.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function

import allocation as al
from sae_torch.errors import InputError
from sae_torch.parallel.mesh import DATA, FEATURES
from sae_torch.parallel.torch_ranks import TorchRanks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")
Summed = TypeVar("Summed", int, Tensor, NDArray[Any])


class World:
    """The processes that train together, as one of them sees it; here one process alone.

    Each has tokens of its own, and the batch is those of all, in order of the ranks. What is called a sum, a mean or a
    total here is of the whole batch. All ranks call the same methods in the same order.

    Attributes
    ----------
    ranks : al.Ranks or None
        What `al.solve` takes with a part of a problem.
    leads : bool
        Whether this process is the one that writes and shows.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.parallel.world import ALONE
    >>> ALONE.total(5), ALONE.part(5), float(ALONE.mean(torch.tensor([1.0, 2.0])))
    (5, None, 1.5)
    """

    ranks: al.Ranks | None = None
    leads: bool = True

    def span(self, tokens: int) -> tuple[int, int]:
        """Number of this rank's first token in the whole batch, and how many tokens that has."""
        return 0, tokens

    def sum(self, values: Summed) -> Summed:
        """The sum over the ranks, element by element, the same bits on each."""
        return values

    def smallest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The smallest over the ranks, element by element."""
        return values

    def agreed(self, work: Callable[[], T], number: Callable[[T], int]) -> tuple[T, list[int]]:
        """What this rank's own work gives, and a number from the work of every rank. What one raises, all raise."""
        done = work()
        return done, [number(done)]

    def mean(self, rows: Tensor) -> Tensor:
        """The mean over the tokens of the whole batch, with gradient for this rank's."""
        return rows.mean(dim=0)

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Make the gradient of every weight that of the whole batch."""

    def part(self, tokens: int) -> al.Part | None:
        """Which part of the whole problem the scores of this rank's tokens are; None where they are all."""
        return None

    def total(self, tokens: int) -> int:
        """How many tokens the whole batch has."""
        return self.span(tokens)[1]

    def every(self, tokens: int, step: int) -> slice:
        """Those of this rank's tokens that are among every `step`-th of the whole batch."""
        return slice(-self.span(tokens)[0] % step if step > 1 else 0, None, step)

    def among_first(self, tokens: int, most: int) -> int:
        """How many of this rank's tokens, its first, are among the first `most` of the whole batch."""
        return min(max(most - self.span(tokens)[0], 0), tokens)

    def taken(self, batch: Callable[[], Tensor]) -> tuple[Tensor, int]:
        """The part of a batch that this rank has, and how many tokens the whole has."""
        x, sizes = self.agreed(batch, len)
        return x, sum(sizes)

    def together(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """The batches of this rank, as long as every rank has another."""
        while True:
            batch, present = self.agreed(lambda: next(batches, None), lambda x: int(x is not None))
            if batch is None or not all(present):
                return
            yield batch

    def same(self, name: str, value: int) -> int:
        """A number that must be the same on every rank.

        Raises
        ------
        InputError
            If it is not; on every rank.
        """
        return value

    def require_alike(self, name: str, state: Callable[[], Iterable[Any]]) -> None:
        """Tensors and values that must be the same on every rank, to the last bit.

        Raises
        ------
        InputError
            If they are not; on every rank.
        """

    # processes are not part of what is copied or kept
    def __deepcopy__(self, memo: dict[int, Any]) -> World:
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        return _alone, ()


ALONE = World()


def _alone() -> World:
    return ALONE


class _Ranked(World):
    """Several processes with tokens of their own and the same weights.

    Parameters
    ----------
    data : TorchRanks
        Those along the dimension "data".
    """

    def __init__(self, data: TorchRanks) -> None:
        self.ranks = self.data = data
        self.leads = data.index == 0

    def span(self, tokens: int) -> tuple[int, int]:
        sizes = self._numbers(tokens)
        return sum(sizes[: self.data.index]), sum(sizes)

    def part(self, tokens: int) -> al.Part | None:
        return al.Part(tokens=self.span(tokens))

    def sum(self, values: Summed) -> Summed:
        if isinstance(values, Tensor):
            wide = torch.int64 if not values.dtype.is_floating_point else torch.float64
            total = self.data.sum(values.detach().to("cpu", wide).numpy())
            return torch.from_numpy(np.asarray(total)).to(values)
        if isinstance(values, np.ndarray):
            return self.data.sum(values)
        return sum(self._numbers(values))

    def smallest(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.min(self.data.gather(values), axis=0)  # type: ignore[no-any-return]

    def agreed(self, work: Callable[[], T], number: Callable[[T], int]) -> tuple[T, list[int]]:
        done, error = None, None
        try:
            done = work()
        except Exception as raised:
            error = raised
        numbers = self._numbers(-1 if error is not None else number(done))  # type: ignore[arg-type]
        if min(numbers) < 0:
            texts = self.data.gather(np.frombuffer(_sent(error), np.uint8))
            if error is not None:
                raise error
            raise pickle.loads(texts[next(rank for rank, value in enumerate(numbers) if value < 0)].tobytes())
        return done, numbers  # type: ignore[return-value]

    def same(self, name: str, value: int) -> int:
        values = self._numbers(value)
        if len(set(values)) > 1:
            raise InputError(f"{name}: expected the same on every rank, found {', '.join(map(str, values))}")
        return value

    def require_alike(self, name: str, state: Callable[[], Iterable[Any]]) -> None:
        digests = self._numbers(_digest(state()))
        other = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if other:
            raise InputError(
                f"{name}: expected the same on every rank, found another on rank {other[0]} than on rank 0"
            )

    def mean(self, rows: Tensor) -> Tensor:
        mean: Tensor = _Mean.apply(rows, self)  # type: ignore[no-untyped-call]
        return mean

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        waiting = []
        for weight in weights:
            if weight.requires_grad:
                if weight.grad is None:  # nothing of this rank's depends on it
                    weight.grad = torch.zeros_like(weight)
                waiting.append(self.data.start_sum(weight.grad))
        for each in waiting:
            each.wait()

    def _numbers(self, number: int) -> list[int]:
        return [int(each[0]) for each in self.data.gather_equal(np.array([number], np.int64))]


class _Mean(Function):
    """Forward is of the whole batch; backward is for this rank's tokens, so that gradients add up over the ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: _Ranked) -> Tensor:
        own = torch.cat([rows.double().sum(dim=0).reshape(-1), torch.tensor([float(len(rows))], dtype=torch.float64)])
        summed = world.sum(own)
        ctx.total, ctx.shape = float(summed[-1]), rows.shape
        return (summed[:-1] / summed[-1]).reshape(rows.shape[1:]).to(rows)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return (upstream / ctx.total).expand(ctx.shape), None


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
            content: Any = value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
        else:
            content = repr(value).encode()
        digest = zlib.crc32(content, digest)
    return digest


def world_of(mesh: DeviceMesh | None) -> World:
    """The processes of a mesh.

    Raises
    ------
    InputError
        If its dimensions are not those of `st.parallel.mesh`, or it cuts the features.
    """
    if mesh is None:
        return ALONE
    names = getattr(mesh, "mesh_dim_names", None)
    if names != (DATA, FEATURES):
        raise InputError(f"mesh: expected one of st.parallel.mesh(data=..., features=...), found {mesh!r}")
    data, features = mesh.shape
    if features > 1:
        raise InputError(f"mesh: expected features = 1, found {features}; only tokens are cut so far")
    return ALONE if data == 1 else _Ranked(TorchRanks(mesh[DATA].get_group()))
