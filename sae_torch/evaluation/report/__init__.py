"""The report: one HTML page from one evaluation."""

from sae_torch.evaluation.report.page import render_report

__all__ = ["render_report"]
