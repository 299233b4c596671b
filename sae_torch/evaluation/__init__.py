"""Evaluation: quality on held-out activations, spliced-in model loss, contexts of features, the report."""

from __future__ import annotations

from sae_torch.evaluation.contexts import FeatureContexts, TokenContext, feature_contexts, spread_features
from sae_torch.evaluation.metrics import Quality, measure
from sae_torch.evaluation.model_loss import ModelLoss, model_loss
from sae_torch.evaluation.splice import splice

__all__ = [
    "FeatureContexts",
    "ModelLoss",
    "Quality",
    "TokenContext",
    "feature_contexts",
    "measure",
    "model_loss",
    "splice",
    "spread_features",
]
