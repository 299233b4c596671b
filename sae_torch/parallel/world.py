"""The one place that knows about ranks: everything else asks it for what is of the whole batch and dictionary.

One process is its own world: then sums are what is summed, and every answer is the same bits as without this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

import allocation as al

T = TypeVar("T")
Summed = TypeVar("Summed", int, Tensor, NDArray[Any])
Vector = TypeVar("Vector", Tensor, NDArray[Any])


class World:
    """The processes that train together, as one of them sees it; here one process alone.

    Each has the scores of some tokens and some features. The batch is the tokens of all, in order of the ranks, and the
    dictionary is the features of all. What is called a sum, a mean or a total here is of the whole. All ranks call the
    same methods in the same order.

    Attributes
    ----------
    ranks : al.Ranks or None
        What `al.solve` takes with a part of a problem.
    index, count : int
        Number of this process, and how many there are.
    leads : bool
        Whether this process is the one that writes and shows.
    cuts_features : bool
        Whether there are features that this process does not hold.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.parallel.world import ALONE
    >>> ALONE.total(5), ALONE.part((5, 7)), float(ALONE.mean(torch.tensor([1.0, 2.0])))
    (5, None, 1.5)
    """

    ranks: al.Ranks | None = None
    index: int = 0
    count: int = 1
    leads: bool = True
    cuts_features: bool = False

    @property
    def own(self) -> World:
        """Those that hold the same tokens: in eval mode no other takes part."""
        return self

    # tokens

    def share(self, batch: Tensor, sizes: Sequence[int] = ()) -> Tensor:
        """Of a batch that every rank has, the tokens that are this rank's; `sizes` say how it was shared before."""
        return batch

    def all_tokens(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """The rows of all ranks' tokens, and how many each has."""
        return rows, [len(rows)]

    def span(self, tokens: int) -> tuple[int, int]:
        """Number of this rank's first token in the whole batch, and how many tokens that has."""
        return 0, tokens

    def total(self, tokens: int) -> int:
        """How many tokens the whole batch has."""
        return self.span(tokens)[1]

    def every(self, tokens: int, step: int) -> slice:
        """Those of this rank's tokens that are among every `step`-th of the whole batch."""
        return slice(-self.span(tokens)[0] % step if step > 1 else 0, None, step)

    def among_first(self, tokens: int, most: int) -> int:
        """How many of this rank's tokens, its first, are among the first `most` of the whole batch."""
        return min(max(most - self.span(tokens)[0], 0), tokens)

    def sum_tokens(self, values: Summed) -> Summed:
        """The sum of what is measured on tokens, whatever their features."""
        return values

    def mean(self, rows: Tensor) -> Tensor:
        """The mean over the tokens of the whole batch, with gradient for this rank's."""
        return rows.mean(dim=0)

    # features

    def cut(self, features: int) -> slice:
        """Which of so many features this rank holds."""
        return slice(0, features)

    def width(self, features: int) -> int:
        """How many features there are where this rank holds so many."""
        return features

    def mine(self, values: Vector) -> Vector:
        """Of one number per feature those of this rank's; of one number for all, that."""
        return values

    def of_features(self, values: Vector) -> Vector:
        """Of sums per feature over this rank's tokens, those over the batch, for all features."""
        return values

    def all_features(self, values: NDArray[Any]) -> NDArray[Any]:
        """Of numbers per feature that are the same whatever the tokens, those of all features."""
        return values

    def smallest(self, values: NDArray[Any]) -> NDArray[Any]:
        """As `of_features`, the smallest in place of the sum."""
        return values

    def add_features(self, rows: Tensor) -> Tensor:
        """The sum of what each rank's features contribute to its tokens."""
        return rows

    def shared(self, tensor: Tensor) -> Tensor:
        """What every rank's features read: its gradient is the sum of theirs."""
        return tensor

    def cut_weight(self, weight: Tensor) -> Tensor:
        """What this rank holds of a weight with one row per feature."""
        return weight

    def whole_weight(self, weight: Tensor) -> Tensor:
        """A weight that every rank holds."""
        return weight

    def from_rows(self, held: Tensor, features: int) -> Tensor:
        """The weight of so many features of which this process holds these rows."""
        return held

    def is_cut(self, weight: Tensor) -> bool:
        """Whether this process holds only rows of it."""
        return False

    def empty_rows(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A weight of that shape in which nothing has been written yet, with the rows that this process holds."""
        return torch.empty(shape, dtype=dtype)

    def placed_like(self, value: Tensor, weight: Tensor) -> Tensor:
        """A tensor that one process wrote whole, as this one holds a weight of the same shape."""
        return value

    def local(self, weight: Tensor) -> Tensor:
        """The rows that this rank holds, as they lie in its memory."""
        return weight

    def gathered(self, weight: Tensor) -> Tensor:
        """All rows of a weight, on every rank."""
        return weight

    # both

    def part(self, shape: tuple[int, ...]) -> al.Part | None:
        """Which part of the whole problem this rank's scores are; None where they are all."""
        return None

    def part_of_column(self, length: int) -> al.Part | None:
        """Which part of one column this rank's entries are, those of all ranks one below the other."""
        return None

    def sum(self, values: Summed) -> Summed:
        """The sum of what is measured on scores, element by element, the same bits on each rank."""
        return values

    def sum_gradients(self, weights: Iterable[Tensor]) -> None:
        """Make the gradient of every weight that of the whole batch."""

    # agreement

    def agreed(self, work: Callable[[], T], number: Callable[[T], int]) -> tuple[T, list[int]]:
        """What this rank's own work gives, and a number from the work of every rank. What one raises, all raise."""
        done = work()
        return done, [number(done)]

    def once(self, work: Callable[[], object]) -> None:
        """Do something on the rank that leads; the others wait for it, and raise what it raises."""
        self.agreed(lambda: work() if self.leads else None, lambda _: 0)

    def divided(self, work: Sequence[Callable[[], T]]) -> list[T]:
        """What pieces of work give, each done by one rank; every rank has all answers, which can be pickled."""
        return [piece() for piece in work]

    def taken(self, batch: Callable[[], Tensor]) -> tuple[Tensor, int]:
        """The part of a batch that this rank has, and how many tokens the whole has."""
        x = batch()
        return x, len(x)

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
        """Tensors and values that must be the same on every rank that holds them, to the last bit.

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
