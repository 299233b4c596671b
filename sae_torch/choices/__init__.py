"""Choices: activations that are allocation problems, and their batch-free form."""

from sae_torch.choices.balanced import BalancedChoice
from sae_torch.choices.choice import Choice
from sae_torch.choices.feature import FeatureChoice
from sae_torch.choices.mutual import MutualChoice
from sae_torch.choices.soft import SoftChoice
from sae_torch.choices.thresholds import Threshold
from sae_torch.choices.token import TokenChoice

__all__ = ["BalancedChoice", "Choice", "FeatureChoice", "MutualChoice", "SoftChoice", "Threshold", "TokenChoice"]
