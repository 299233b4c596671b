"""What training reports: one record per step, and a bar that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class StepRecord:
    """What one step did; the fields are those of `TrainLog`."""

    loss: float
    reconstruction: float
    auxiliary: float
    l0: float
    learning_rate: float
    tokens: int


@dataclass(frozen=True)
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

    def append(self, record: StepRecord) -> None:
        """Add one step."""
        for name, value in vars(record).items():
            getattr(self, name).append(value)


def with_progress(batches: Iterable[Tensor], steps: int, log: TrainLog, name: str) -> Iterator[Tensor]:
    """The batches, with a bar that shows tokens per second; it reads the log and changes nothing."""
    from tqdm import tqdm

    with tqdm(desc=f"train {name}", unit=" tokens", unit_scale=True) as bar:
        for step, x in enumerate(batches):
            if step == 0:
                bar.reset(total=steps * x.shape[0])
            yield x
            bar.set_postfix(loss=f"{log.loss[-1]:.1f}", refresh=False)
            bar.update(x.shape[0])
