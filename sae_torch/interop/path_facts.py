"""What the names of folders and files say about a published dictionary that its files do not.

Links are not followed: the cache of a hub holds its files under names that say nothing, and links that say everything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# The sites of a block, as TransformerLens and SAELens call them.
RESIDUAL, MLP, ATTENTION = "hook_resid_post", "hook_mlp_out", "attn.hook_z"


def said(path: Path, pattern: str) -> re.Match[str] | None:
    r"""The last match of a pattern in a path, from its end: what is nearest to the file says most.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sae_torch.interop.path_facts import said
    >>> said(Path("layer_3/width_16k"), r"layer_(\d+)")[1]
    '3'
    """
    found = list(re.finditer(pattern, path.absolute().as_posix()))
    return found[-1] if found else None


def number(path: Path, pattern: str) -> int | None:
    """The number that the first group of a pattern matches in a path; None where it does not."""
    found = said(path, pattern)
    return int(found[1]) if found else None


def known(**facts: Any) -> dict[str, Any]:
    """Those facts that are not None."""
    return {name: value for name, value in facts.items() if value is not None}
