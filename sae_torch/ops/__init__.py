"""Autograd Functions on sparse codes. Nothing here knows of models or losses.

Only the encoder's forward product is dense. Everything after the selection costs matches x d_model.
"""

from sae_torch.ops.counting import count_above
from sae_torch.ops.decode import decode
from sae_torch.ops.gather import selected_preactivations
from sae_torch.ops.rounding import rounded_down

__all__ = ["count_above", "decode", "rounded_down", "selected_preactivations"]
