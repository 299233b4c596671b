"""Sparse autoencoders whose activation is an exact token-feature allocation."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("sae_torch needs torch: pip install 'sae-allocation[torch]'") from error

from sae_torch import losses, parallel
from sae_torch.autoencoder import Output, SparseAutoencoder
from sae_torch.calibration import calibrate
from sae_torch.choices.balanced import BalancedChoice
from sae_torch.choices.choice import Choice
from sae_torch.choices.feature import FeatureChoice
from sae_torch.choices.mutual import MutualChoice
from sae_torch.choices.soft import SoftChoice
from sae_torch.choices.thresholds import Threshold
from sae_torch.choices.token import TokenChoice
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.evaluation.splice import splice
from sae_torch.interop.formats import load
from sae_torch.interop.saelens import save
from sae_torch.training import TrainConfig, Trainer, TrainLog
from sae_torch.transcoder import Transcoder

__all__ = [
    "BalancedChoice",
    "Choice",
    "FeatureChoice",
    "InputError",
    "MutualChoice",
    "Output",
    "SoftChoice",
    "SparseAutoencoder",
    "SparseCodes",
    "Threshold",
    "TokenChoice",
    "TrainConfig",
    "TrainLog",
    "Trainer",
    "Transcoder",
    "calibrate",
    "load",
    "losses",
    "parallel",
    "save",
    "splice",
]
