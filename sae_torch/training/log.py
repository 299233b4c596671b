"""What training reports: one record per step, and a bar that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from sae_torch.notebook import card
from sae_torch.sparse_coder import SparseCoder


@dataclass(eq=False)
class StepRecord:
    """What one step did. What a GPU measured stays there until it is asked for: then the host waits.

    Attributes
    ----------
    step : int
    learning_rate : float
    tokens : int
        Seen so far, this step included.
    numbers : list of float, or (5,) tensor
        `loss`, `reconstruction`, `auxiliary` and `l0` as in `TrainLog`; `baseline`, the error of no reconstruction.
    """

    step: int
    learning_rate: float
    tokens: int
    numbers: list[float] | Tensor = field(default_factory=list, repr=False)

    @property
    def is_read(self) -> bool:
        """Whether the numbers are in main memory."""
        return isinstance(self.numbers, list)

    def read(self) -> list[float]:
        """The numbers in main memory."""
        if isinstance(self.numbers, Tensor):
            self.numbers = self.numbers.tolist()
        return self.numbers

    @property
    def loss(self) -> float:
        """Reconstruction plus weighted auxiliary loss."""
        return self.read()[0]

    @property
    def baseline(self) -> float:
        """Squared error of reconstructing nothing."""
        return self.read()[4]

    def values(self) -> dict[str, float]:
        """What is logged, by the names of `TrainLog`."""
        measured = dict(zip(("loss", "reconstruction", "auxiliary", "l0"), self.read(), strict=False))
        return measured | {"learning_rate": self.learning_rate, "tokens": self.tokens}


def read_all(records: list[StepRecord]) -> None:
    """Read the numbers of several steps at once."""
    unread = [record for record in records if isinstance(record.numbers, Tensor)]
    if unread:
        for record, numbers in zip(unread, torch.stack([r.numbers for r in unread]).tolist(), strict=True):  # type: ignore[misc]
            record.numbers = numbers


@dataclass(frozen=True, repr=False)
class TrainLog:
    """One entry per step.

    Attributes
    ----------
    loss : list of float
        Reconstruction plus weighted auxiliary loss, in units where activations have norm sqrt(d_model).
    reconstruction, auxiliary : list of float
        The two parts, the auxiliary one without its weight; the first averages over prefixes where there are some.
    l0 : list of float
        Matches per token in the batch.
    learning_rate : list of float
    tokens : list of int
        Tokens seen so far.
    """

    loss: list[float] = field(default_factory=list)
    reconstruction: list[float] = field(default_factory=list)
    auxiliary: list[float] = field(default_factory=list)
    l0: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    _waiting: list[StepRecord] = field(default_factory=list, repr=False)

    def __repr__(self) -> str:
        return f"TrainLog({', '.join(f'{name} {text}' for name, text in self._told())})"

    def _repr_html_(self) -> str:
        return card("Training", "", self._told())

    def _told(self) -> list[tuple[str, str]]:
        """Where training began and where it is, of the steps that have been read."""
        told = [("steps", f"{len(self.loss):,}"), ("tokens", f"{self.tokens[-1] if self.tokens else 0:,}")]
        if not self.loss:
            return told
        ends = [(name, getattr(self, name)) for name in ("loss", "reconstruction", "auxiliary", "l0")]
        return told + [(name, f"{values[0]:.4g} to {values[-1]:.4g}") for name, values in ends if any(values)]

    def append(self, record: StepRecord) -> None:
        """Add one step; it shows once its numbers have been read."""
        self._waiting.append(record)
        if record.is_read:
            self.settle()

    @property
    def seen(self) -> int:
        """Tokens seen so far, whether the numbers have been read or not."""
        return self._waiting[-1].tokens if self._waiting else self.tokens[-1] if self.tokens else 0

    def settle(self) -> None:
        """Read what waits."""
        read_all(self._waiting)
        for record in self._waiting:
            for name, value in record.values().items():
                getattr(self, name).append(value)
        self._waiting.clear()


class Measuring(Protocol):
    """What of a trainer a bar asks for."""

    sae: SparseCoder

    def measured(self, error: float, x: Tensor) -> dict[str, float]:
        """Share of dead features and normalised error."""
        ...


def with_progress(batches: Iterable[Tensor], steps: int, log: TrainLog, trainer: Measuring) -> Iterator[Tensor]:
    """The batches, with a bar that shows tokens per second and the last numbers that were read; it changes nothing."""
    from tqdm import tqdm

    with tqdm(desc=f"train {type(trainer.sae.choice).__name__}", unit=" tokens", unit_scale=True) as bar:
        for step, x in enumerate(batches):
            yield x
            if step == 0:
                bar.reset(total=steps * log.seen)
            if log.loss:
                values = {"loss": log.loss[-1], "l0": log.l0[-1]} | trainer.measured(log.reconstruction[-1], x)
                bar.set_postfix(shown(values), refresh=False)
            bar.update(log.seen - bar.n)


def shown(values: Mapping[str, float]) -> dict[str, str]:
    """What a progress bar shows of a step."""
    return {
        "loss": f"{values['loss']:.1f}",
        "L0": f"{values['l0']:.1f}",
        "dead": f"{values['dead']:.1%}",
        "NMSE": f"{values['nmse']:.3f}",
    }
