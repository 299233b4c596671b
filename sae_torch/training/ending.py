"""The end of a schedule whose batches can be read again: runs that were stopped calibrate as unbroken ones do."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sae_torch.training.trainer import Trainer


def calibrated_end(trainer: Trainer, batch: Callable[[int], Tensor], batch_size: int) -> None:
    """End a schedule whose batches can be read again, and set the thresholds on the last of them, as `fit` does.

    Parameters
    ----------
    trainer : Trainer
        After its last step.
    batch : callable (step) -> tensor
        This process's part of a batch of raw activations.
    batch_size : int
        Tokens per batch of all processes.
    """
    schedule = trainer.schedule
    assert schedule is not None
    first = schedule.steps - trainer.config.calibration_batches(schedule.steps, batch_size)
    trainer.end()
    schedule.first_sight.calibrate(trainer.sae, {step: batch(step) for step in range(first, schedule.steps)})
