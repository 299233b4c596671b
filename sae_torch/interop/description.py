"""What a published dictionary is, told without reading its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sae_torch.interop.files import type_name
from sae_torch.interop.tensor_header import Shaped


@dataclass(frozen=True)
class Description:
    """What the files and the path of a dictionary say about it.

    Attributes
    ----------
    format : str
        Name of the format, as ``--format`` takes it.
    path : Path
        The folder or the file.
    d_model, n_features : int
        Width of what it reads, number of features.
    dtype : str
        Type of the stored weights, for instance ``bfloat16``.
    activation : str
        For instance ``jumprelu``, ``topk``, ``relu``, ``gated``.
    model, site : str or None
        Language model and hook name, as far as anything says them.
    layer : int or None
    k : float or None
        Features per token, of a top k or as a mean; None where nothing says it.
    kind : str
        ``autoencoder`` or ``transcoder``.
    d_out : int or None
        Width of what a transcoder writes, where it is not `d_model`.
    conventions : tuple of str
        What is done to weights or inputs to give the same function here, one short sentence each.
    lost : tuple of str
        What the files hold that an import leaves out.
    defects : tuple of str
        What is known to be wrong with files like this one.

    Examples
    --------
    >>> from sae_torch.interop.description import Description
    >>> print(Description("saelens", Path("sae"), 4, 8, "float32", "topk", k=2).text())
    sae (saelens)
      autoencoder   8 features of width 4, topk of k = 2, float32
    """

    format: str
    path: Path
    d_model: int
    n_features: int
    dtype: str
    activation: str
    model: str | None = None
    site: str | None = None
    layer: int | None = None
    k: float | None = None
    kind: str = "autoencoder"
    d_out: int | None = None
    conventions: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    defects: tuple[str, ...] = ()

    def text(self) -> str:
        """For a terminal: one line for each thing that is known."""
        width = (
            f"width {self.d_model}" if self.d_out in (None, self.d_model) else f"widths {self.d_model}, {self.d_out}"
        )
        chosen = self.activation if self.k is None else f"{self.activation} of k = {self.k:g}"
        rows = [(self.kind, f"{self.n_features} features of {width}, {chosen}, {self.dtype}")]
        facts = {"model": self.model, "site": self.site, "layer": self.layer}
        rows += [(name, str(value)) for name, value in facts.items() if value is not None]
        for name, sentences in (("convention", self.conventions), ("left out", self.lost), ("defect", self.defects)):
            rows += [(name, sentence) for sentence in sentences]
        return "\n".join([f"{self.path} ({self.format})", *(f"  {name:<12}  {value}" for name, value in rows)])

    def json(self) -> str:
        """The same as a JSON object."""
        facts: dict[str, Any] = asdict(self) | {"path": str(self.path)}
        return json.dumps(facts, indent=1)


def dtype_name(weights: Mapping[str, Shaped]) -> str:
    """Type of the largest of some tensors."""
    largest = max(weights.values(), key=lambda each: each.numel(), default=None)
    return "nothing" if largest is None else type_name(largest.dtype)


def layer_of(site: str | None) -> int | None:
    """The number of the block that a hook name or a module path names.

    Examples
    --------
    >>> from sae_torch.interop.description import layer_of
    >>> layer_of("blocks.10.hook_resid_post"), layer_of("model.layers.3.mlp"), layer_of(None)
    (10, 3, None)
    """
    found = re.search(r"(?:^|\.)(?:blocks|layers|layer|h)\.(\d+)(?:\.|$)", site or "")
    return int(found[1]) if found else None
