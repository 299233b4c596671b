"""Evaluation: quality on held-out activations, spliced-in model loss, contexts of features, the report."""

from __future__ import annotations

from sae_torch.evaluation.contexts import FeatureContexts, TokenContext, feature_contexts, spread_features
from sae_torch.evaluation.metrics import Quality, batch_free, measure
from sae_torch.evaluation.model_loss import ModelLoss, model_loss
from sae_torch.evaluation.report import Chapter, render_report
from sae_torch.evaluation.results import Result, text_table
from sae_torch.evaluation.results_folder import ResultsFolder
from sae_torch.evaluation.splice import splice

__all__ = [
    "Chapter",
    "FeatureContexts",
    "ModelLoss",
    "Quality",
    "Result",
    "ResultsFolder",
    "TokenContext",
    "batch_free",
    "feature_contexts",
    "measure",
    "model_loss",
    "render_report",
    "splice",
    "spread_features",
    "text_table",
]
