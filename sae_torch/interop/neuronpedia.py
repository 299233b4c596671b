"""Folders for dashboards of Neuronpedia: those of SAELens, with all that its tool `sae-dashboard` asks for.

The tool says what it lacks once it has loaded the language model; here that is one sentence before anything is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_torch.errors import InputError
from sae_torch.interop import saelens

if TYPE_CHECKING:
    from sae_torch.interop.inference_form import InferenceForm
    from sae_torch.sparse_coder import SparseCoder

# What the tool finds in TransformerLens and can carry to the residual stream, for the tokens that a feature promotes.
SITE = re.compile(
    r"blocks\.\d+\.(hook_resid_(pre|mid|post)|hook_(attn|mlp)_out|hook_mlp_in|ln[12]\.hook_normalized"
    r"|mlp\.hook_(pre|post)|attn\.hook_z)"
)

# A folder with one of these in its path is read as a model of TransformerLens' list.
TAKEN = re.compile("llama|gemma", re.IGNORECASE)


def save(sae: SparseCoder, folder: str | os.PathLike[str], metadata: dict[str, Any] | None = None) -> Path:
    """Write a folder that Neuronpedia's tool makes dashboards of, and that `st.load` and SAELens read.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
        Trained or calibrated; no transcoder with a skip connection or with token choice.
    folder : path
        Made if missing.
    metadata : dict
        ``model_name``, a name that TransformerLens knows or a folder of transformers; ``hook_name``, the site as
        TransformerLens calls it. ``prepend_bos`` says how windows begin, where no option of the tool does.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the tool could not make dashboards of it; the text says why.

    Examples
    --------
    >>> import tempfile, sae_torch as st
    >>> from sae_torch.interop import neuronpedia
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> about = {"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post", "prepend_bos": True}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(path.name for path in neuronpedia.save(sae, folder, about).iterdir())
    ['cfg.json', 'sae_weights.safetensors']
    """
    from sae_torch.interop.inference_form import InferenceForm

    form, path = InferenceForm.of(sae), Path(folder)
    _require_shown(form, sae)
    _require_said(metadata or {})
    # the tool folds norms, and refuses a top k that does not say that they may be
    sae.world.once(lambda: saelens.write(form, sae.choice, path, metadata, says_norms_fold=True))
    return path


def _require_shown(form: InferenceForm, sae: SparseCoder) -> None:
    from sae_torch.choices.activation_token import ActivationTokenChoice

    form.require_thresholds_alone("neuronpedia")
    if isinstance(sae.choice, ActivationTokenChoice) and not form.has_unit_rows:
        raise InputError(
            "sae: expected features that are ranked by activation times decoder norm, since Neuronpedia's tool "
            "multiplies by the norms, found ActivationTokenChoice with norms that differ"
        )
    if form.is_transcoder and (form.W_skip is not None or form.k is not None):
        found = "token choice" if form.W_skip is None else "a skip connection"
        raise InputError(
            f"sae: expected a transcoder with thresholds, as Neuronpedia's tool reads them, found one with {found}"
        )


def _require_said(known: Mapping[str, Any]) -> None:
    if not known.get("model_name"):
        raise InputError(
            "metadata: expected model_name, which TransformerLens knows or which is a folder, found none; pass "
            "--model-name"
        )
    model = str(known["model_name"])
    path = str(Path(model).resolve()) if Path(model).is_dir() else model if model.startswith(("/", ".", "~")) else ""
    taken = TAKEN.search(path)
    if taken is not None:
        raise InputError(
            f"metadata: expected a folder as model_name without {taken[0]!r} in its path, which Neuronpedia's tool "
            f"takes for a model of TransformerLens' list, found {path!r}; rename it and pass --model-name"
        )
    site = str(known.get("hook_name") or "")
    if SITE.fullmatch(site) is None:
        raise InputError(
            "metadata: expected hook_name with a place that Neuronpedia's tool finds in TransformerLens, as "
            f"blocks.10.hook_resid_post, found {site!r}; pass --hook-name"
        )
    written = known.get("hook_name_out")
    if written is not None and SITE.fullmatch(str(written)) is None:
        raise InputError(
            "metadata: expected hook_name_out with a place that Neuronpedia's tool finds in TransformerLens, as "
            f"blocks.10.hook_mlp_out, found {written!r}"
        )
