"""Choices: activations that are allocation problems, and their batch-free form."""

from sae_torch.choices.balanced import BalancedChoice
from sae_torch.choices.choice import Choice, MutualChoice, TokenChoice
from sae_torch.choices.feature import FeatureChoice
from sae_torch.choices.soft import SoftChoice
from sae_torch.choices.thresholds import Threshold

__all__ = ["BalancedChoice", "Choice", "FeatureChoice", "MutualChoice", "SoftChoice", "Threshold", "TokenChoice"]
