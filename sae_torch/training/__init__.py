"""Training: configuration, schedule, and the loop."""

from sae_torch.training.config import TrainConfig
from sae_torch.training.log import TrainLog
from sae_torch.training.trainer import Trainer

__all__ = ["TrainConfig", "TrainLog", "Trainer"]
