"""Models that add positions to their embeddings, and models that predict no next token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import sae_torch as st
from sae_torch.activations import HarvestConfig, LanguageModel, StateOfTheUnion, harvest, plan
from sae_torch.activations.sites import hidden_state, output_at
from sae_torch.cli import main
from sae_torch.errors import InputError
from sae_torch.evaluation import EvaluationFile, model_loss, splice

FIRST = "hidden_states[0]"
WINDOWS = torch.randint(0, 61, (4, 10), generator=torch.Generator().manual_seed(4))
SMALL: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 32, "initializer_range": 0.5, "attn_implementation": "eager",
}  # fmt: skip


def made(kind: str, **options: Any) -> LanguageModel:
    torch.manual_seed(0)
    if kind == "GPT2LMHeadModel":
        config = transformers.GPT2Config(
            vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    else:
        config = transformers.BertConfig(**SMALL, **options)
    model = getattr(transformers, kind)(config).eval().requires_grad_(False)
    return LanguageModel(f"tiny {kind}", model, None)


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "BertModel"])
def test_positions_are_added_once(kind: str, skip_first: bool) -> None:
    model: Any = made(kind).model
    plain = model(input_ids=WINDOWS, output_hidden_states=True)
    assert torch.equal(hidden_state(output_at(model, FIRST, WINDOWS)), plain.hidden_states[0])
    with splice(model, FIRST, nn.Identity(), skip_first=skip_first):
        assert torch.equal(model(input_ids=WINDOWS)[0], plain[0])
    seen: list[Tensor] = []

    class Seen(nn.Identity):
        def encode(self, x: Tensor) -> Any:
            seen.append(x)
            raise KeyboardInterrupt

    # what an autoencoder is given is what was harvested
    sae: Any = st.SparseAutoencoder(16, 32, st.TokenChoice(4)).eval()
    sae.encode = Seen().encode
    with pytest.raises(KeyboardInterrupt), splice(model, FIRST, sae, skip_first=False):
        model(input_ids=WINDOWS)
    assert torch.equal(seen[0], plain.hidden_states[0].reshape(-1, 16))
    assert torch.equal(model(input_ids=WINDOWS)[0], plain[0])  # and nothing stays behind


def test_the_clean_loss_is_the_model_s() -> None:
    language_model = made("GPT2LMHeadModel")
    model: Any = language_model.model
    found = model_loss(language_model, FIRST, WINDOWS, torch.zeros(16), {"itself": lambda x: x})
    log_p = model(input_ids=WINDOWS).logits[:, 1:-1].log_softmax(-1)
    assert found.clean == pytest.approx(float(-log_p.gather(-1, WINDOWS[:, 2:, None]).mean()), rel=1e-6)
    assert found.spliced["itself"] == found.clean
    assert found.kl["spliced itself"] == pytest.approx(0.0, abs=1e-6)
    assert found.zero == found.mean != found.clean  # the mean given is zero


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertLMHeadModel"])
def test_models_without_a_next_token_have_no_loss(kind: str) -> None:
    with pytest.raises(InputError, match=f"expected a causal .*, a {kind}, which predicts no next token"):
        model_loss(made(kind), "hidden_states[1]", WINDOWS, torch.zeros(16), {})


def test_a_decoder_of_an_encoder_s_kind_is_causal() -> None:
    found = model_loss(made("BertLMHeadModel", is_decoder=True), FIRST, WINDOWS, torch.zeros(16), {})
    assert found.clean > 0


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
def test_the_command_judges_encoders_without_a_loss(
    kind: str,
    tiny_model_folder: Path,
    tiny_text: StateOfTheUnion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "encoder"
    encoder: Any = made(kind).model
    encoder.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    config = HarvestConfig(
        model=str(folder), site=FIRST, text=tiny_text, window=16, dtype=torch.float32, windows_per_shard=8
    )
    held_out = harvest(config, "test", 200, tmp_path / "cache")
    sae = st.SparseAutoencoder(16, 32, st.TokenChoice(4))
    st.save(sae, tmp_path / "sae")
    place = plan(config, "test", 1, tmp_path / "cache").folder
    monkeypatch.chdir(tmp_path)
    words = ["--autoencoders", "sae", "--activations", str(place), "--model", str(folder), "--batch-sizes", "50"]
    assert main(["evaluate", *words, "--null-tokens", "0"]) == 0
    assert f"is a {kind}, which predicts no next token: its loss is left out" in capsys.readouterr().out
    (found,) = EvaluationFile.read(tmp_path / "evaluation.json").evaluations
    assert found.n_tokens >= len(held_out)
    assert found.model is None
    assert found.features
