"""The dashboard of features: what is shown of every feature of a dictionary, in a file that is read in parts."""

from __future__ import annotations

from sae_torch.evaluation.dashboard.blocks import BlockFile
from sae_torch.evaluation.dashboard.dashboard import write_dashboard

__all__ = ["BlockFile", "write_dashboard"]
