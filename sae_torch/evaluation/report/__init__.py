"""The report: one HTML page, or one folder, about evaluations."""

from sae_torch.evaluation.report.page import render_report, write_report

__all__ = ["render_report", "write_report"]
