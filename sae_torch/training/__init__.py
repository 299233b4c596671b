"""Training: configuration, schedule, and the loop."""

from sae_torch.training.config import TrainConfig
from sae_torch.training.trainer import Trainer, TrainLog

__all__ = ["TrainConfig", "TrainLog", "Trainer"]
