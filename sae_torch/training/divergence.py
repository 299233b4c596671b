"""Losses beyond recovery: refused before the step on the CPU; on a GPU skipped there and seen at the next reading."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_torch.errors import InputError
from sae_torch.training.log import StepRecord, read_all

# A reconstruction this many times worse than none, of a batch of the usual size, is beyond recovery.
DIVERGED = 100.0
# Steps on a GPU between two readings of their losses: each waits for all that was launched.
LOOK_EVERY = 50


class LossWatch:
    """Refuses a step whose loss diverges.

    ::

        refused iff not   loss <= 100 max((1/N) sum_i ||x_i||^2, usual) < inf

    A batch far quieter than the others, or of zeros, is no reason to stop.

    Parameters
    ----------
    usual : float
        Squared norm of usual activations.
    remedy : str
        What to do about it, for the message.

    Attributes
    ----------
    failed_step : int or None
        The step that was refused.
    """

    def __init__(self, usual: float, remedy: str) -> None:
        self.usual = usual
        self.remedy = remedy
        self.failed_step: int | None = None
        self._unread: list[StepRecord] = []
        self._failed: Tensor | None = None

    @torch.no_grad()
    def flag(self, loss: Tensor, baseline: Tensor) -> Tensor:
        """On a GPU: 1 from the first refused step on, else 0; fused Adam takes it to skip its steps."""
        accepted = (loss <= DIVERGED * baseline.clamp_min(self.usual)) & baseline.isfinite()  # NaN is not
        refused = accepted.logical_not().float()
        if self._failed is None:
            self._failed = torch.zeros_like(refused)
        return torch.maximum(self._failed, refused, out=self._failed)

    def add(self, record: StepRecord) -> None:
        """A step that was launched; reads when enough of them have been."""
        self._unread.append(record)
        if record.is_read or len(self._unread) >= LOOK_EVERY:
            self.check_losses()

    def check_losses(self) -> None:
        """Read the losses since the last reading, and raise for the first that was refused."""
        records, self._unread = self._unread, []
        read_all(records)
        for record in records:
            baseline = max(record.baseline, self.usual)
            if record.loss <= DIVERGED * baseline and math.isfinite(record.baseline):
                continue
            self.failed_step = record.step
            if self._failed is not None:
                self._failed.zero_()
            if not math.isfinite(record.baseline):
                raise InputError(f"batches: batch {record.step} holds NaN or infinite activations")
            raise FloatingPointError(
                f"the loss is {record.loss:.3g} at step {record.step}, where reconstructing nothing would cost "
                f"{baseline:.3g}: {self.remedy}"
            )
