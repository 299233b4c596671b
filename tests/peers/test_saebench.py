"""The adapter in the real SAEBench: its core evaluation, on a small random model and text that is at hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.interop.saebench import BenchmarkAutoencoder

from .conftest import D_MODEL, K, trained

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("sae_bench"), reason="SAEBench is not installed")
HOOK, CONTEXT = "blocks.1.hook_resid_post", 32


def tokenizer() -> Any:
    """Of words, one for each number."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<pad>", *(f"w{index}" for index in range(3, 50))]
    model = models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>")
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **named)


def model() -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2, d_model=D_MODEL, n_ctx=CONTEXT, d_head=6, n_heads=2, d_mlp=24, d_vocab=50, act_fn="gelu", seed=0,
        device="cpu",
    )  # fmt: skip
    found = HookedTransformer(config)
    found.tokenizer = tokenizer()
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("choice", [st.TokenChoice(K), st.FeatureChoice(K)], ids=["token", "feature"])
def test_the_core_evaluation_runs(
    choice: st.Choice, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from sae_bench.evals.core import main
    from sae_lens.training import activations_store

    monkeypatch.setattr(
        main.HookedTransformer,
        "from_pretrained_no_processing",
        lambda name, dtype, **options: model().to(dtype),
    )
    tokens = torch.randint(3, 50, (300, CONTEXT), generator=torch.Generator().manual_seed(0))
    text = datasets.Dataset.from_dict({"tokens": tokens.tolist()})
    monkeypatch.setattr(activations_store, "load_dataset", lambda *_, **options: text)
    monkeypatch.setattr(activations_store, "validate_pretokenized_dataset_tokenizer", lambda **_: None)
    sae = trained(choice)
    found = main.multiple_evals(
        [("ours", BenchmarkAutoencoder(sae, "tiny", HOOK, context_size=CONTEXT))],
        n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=4, eval_batch_size_prompts=8,
        compute_featurewise_density_statistics=True, compute_featurewise_weight_based_metrics=True,
        dataset="at-hand", context_size=CONTEXT, output_folder=str(tmp_path / "out"), dtype=dtype, device="cpu",
    )  # fmt: skip
    assert len(found) == 1, "SAEBench logs an error and goes on without a result"
    (written,) = (tmp_path / "out").glob("*.json")
    assert json.loads(written.read_text())["sae_cfg_dict"]["hook_name"] == HOOK
    l0 = found[0]["metrics"]["sparsity"]["l0"]
    assert 0 < l0 <= (K if isinstance(choice, st.TokenChoice) else sae.n_features)


def test_the_adapter_gives_saebench_what_we_give(x: Tensor) -> None:
    from sae_bench.sae_bench_utils.general_utils import load_and_format_sae

    sae = trained(st.FeatureChoice(K))
    _, adapter, _ = load_and_format_sae("ours", BenchmarkAutoencoder(sae, "tiny", HOOK), "cpu")
    assert adapter.cfg.architecture_str == "jumprelu"
    with torch.no_grad():
        torch.testing.assert_close(adapter(x), sae(x).x_hat, rtol=1e-5, atol=1e-5)
