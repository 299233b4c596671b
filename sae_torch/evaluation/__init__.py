"""Evaluation: quality on held-out activations, spliced-in model loss, contexts of features, the report."""

from __future__ import annotations

from sae_torch.evaluation.batch_mode import BatchMode, batch_sensitivity
from sae_torch.evaluation.collapse import DecoderCosines, decoder_cosines
from sae_torch.evaluation.contexts import FeatureContexts, TokenContext, feature_contexts, spread_features
from sae_torch.evaluation.dashboard import write_dashboard
from sae_torch.evaluation.difficulty import Difficulty, token_difficulty
from sae_torch.evaluation.edge_swap import EdgeSwapNull, edge_swap_null, swap_edges
from sae_torch.evaluation.evaluation import Evaluation, evaluate
from sae_torch.evaluation.evaluation_file import EvaluationFile
from sae_torch.evaluation.feature_pages import FeaturePage
from sae_torch.evaluation.lens import logit_lens
from sae_torch.evaluation.metrics import Quality, batch_free, measure
from sae_torch.evaluation.model_loss import ModelLoss, model_loss
from sae_torch.evaluation.report.page import render_report, write_report
from sae_torch.evaluation.results import Result, text_table
from sae_torch.evaluation.results_folder import ResultsFolder
from sae_torch.evaluation.splice import splice

__all__ = [
    "BatchMode",
    "DecoderCosines",
    "Difficulty",
    "EdgeSwapNull",
    "Evaluation",
    "EvaluationFile",
    "FeatureContexts",
    "FeaturePage",
    "ModelLoss",
    "Quality",
    "Result",
    "ResultsFolder",
    "TokenContext",
    "batch_free",
    "batch_sensitivity",
    "decoder_cosines",
    "edge_swap_null",
    "evaluate",
    "feature_contexts",
    "logit_lens",
    "measure",
    "model_loss",
    "render_report",
    "splice",
    "spread_features",
    "swap_edges",
    "text_table",
    "token_difficulty",
    "write_dashboard",
    "write_report",
]
