"""What circuit-tracer calls the places of a block that transformers names by modules.

A name there is not always one place: `post_attention_layernorm` gives out what enters the MLP in most families, and
what attention adds to the residual stream in those that norm what a module gives out.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from sae_torch.errors import InputError

# `mlp.hook_in` and `mlp.hook_out` are the MLP's own sides; `hook_mlp_out` lies behind the norm that some have after it.
HOOKS = {
    r"(pre_feedforward_layernorm|ln_2)(\.output)?|mlp\.input": "mlp.hook_in",
    r"mlp(\.output)?": "mlp.hook_out",
    r"post_feedforward_layernorm(\.output)?": "hook_mlp_out",
    # the residual stream before the norm, under a name that circuit-tracer has no hook of
    r"hook_mlp_in": "hook_resid_mid",
}
AMBIGUOUS = re.compile(r"post_attention_layernorm(\.output)?")
# Families by their names in hubs, or by the type in a configuration, whose module of that name lies behind attention.
# OLMo Hybrid is not among them: it has layers of both kinds.
BEHIND_ATTENTION = re.compile(
    r"(?<![a-z])gemma[-_]?(2|3n?|4)(?![\db])|(flex[-_]?olmo|olmo[-_]?[23])(?!\w*[-_]hybrid)|exaone[-_]?4", re.IGNORECASE
)
# `diffusion_gemma` and the like are other families than the one that their name ends with.
BEFORE_MLP = re.compile(
    r"llama|smollm|qwen|mistral|ministral|mixtral|gpt[-_]?oss|pythia|gpt[-_]?neox|phi-?3|granite|deepseek|stablelm"
    r"|starcoder2|falcon|glm|(?<![a-z_-])(gemma(-[27]b|$)|olmoe?(-\d+b|$))",
    re.IGNORECASE,
)


def place_of(path: str, model: str | None) -> str:
    """What circuit-tracer calls a place within a block; a name that it has already stays.

    Parameters
    ----------
    path : str
        Behind the number of the layer: a module of transformers, or a hook.
    model : str or None
        Name of the language model, or a folder of transformers.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If the family decides and is not known; the text says what to pass.

    Examples
    --------
    >>> from sae_torch.interop.module_places import place_of
    >>> place_of("post_attention_layernorm", "Qwen3-0.6B"), place_of("post_attention_layernorm", "gemma-2-2b")
    ('mlp.hook_in', 'hook_attn_out')
    """
    if AMBIGUOUS.fullmatch(path) is None:
        return next((hook for module, hook in HOOKS.items() if re.fullmatch(module, path)), path)
    family = _family(model or "")
    if BEHIND_ATTENTION.search(family):
        return "hook_attn_out"
    if BEFORE_MLP.search(family):
        return "mlp.hook_in"
    raise InputError(
        f"metadata: expected a hook_name that is one place in every family, found {path!r} of model {model or None!r}; "
        "pass --hook-name with mlp.hook_in in its place if it enters the MLP, with hook_attn_out if it leaves attention"
    )


def _family(model: str) -> str:
    """The type that a folder's configuration says, or the last part of the name."""
    file = Path(model, "config.json")
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError):
        return model.rstrip("/").rpartition("/")[2]
