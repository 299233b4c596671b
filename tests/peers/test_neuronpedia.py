"""Dashboards by Neuronpedia's own tool, of folders that `export --format neuronpedia` writes."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_torch as st
from sae_torch.activations import load_language_model
from sae_torch.activations.sites import hidden_state, outputs_at
from sae_torch.interop import neuronpedia

pytest.importorskip("sae_dashboard")
WORDS = [f"w{i}" for i in range(60)]
D, F, WINDOW, PROMPTS = 16, 12, 16, 24
SCRIPTS = Path(__file__).parents[2] / "docs" / "assets" / "neuronpedia"
CHOICES: dict[str, Any] = {
    "token": lambda: st.TokenChoice(3),
    "mutual": lambda: st.MutualChoice(3),
    "feature": lambda: st.FeatureChoice(3, quotas="uniform", switch=0),
}


def script(name: str) -> Any:
    """A script of the guide, as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def language_model(family: str, folder: Path) -> Path:
    """A random model of a family, with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    torch.manual_seed(0)
    if family == "gpt2":
        sizes = {"n_embd": D, "n_layer": 3, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
        GPT2LMHeadModel(GPT2Config(vocab_size=len(vocabulary), n_ctx=64, **sizes)).save_pretrained(folder)
        return folder
    sizes = {"hidden_size": D, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    turned = {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "initializer_range": 0.5}
    config = LlamaConfig(vocab_size=len(vocabulary), num_key_value_heads=1, **sizes, **turned)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "choice", "site", "module"),
    [
        ("llama", "token", "blocks.1.hook_resid_post", "hidden_states[2]"),
        ("llama", "feature", "blocks.2.hook_mlp_out", "model.layers.2.mlp"),
        ("gpt2", "mutual", "blocks.1.hook_resid_post", "hidden_states[2]"),
        ("gpt2", "feature", "blocks.1.hook_attn_out", "transformer.h.1.attn"),
    ],
)
def test_dashboards_show_our_activations(
    family: str, choice: str, site: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_dashboard.neuronpedia.neuronpedia_runner_config import NeuronpediaRunnerConfig

    monkeypatch.chdir(tmp_path)  # the tool keeps activations where it runs
    name = f"small-{len(family)}"  # TransformerLens takes names with "llama" for its own
    language_model(family, Path(name))
    draw = random.Random(1)
    Path("corpus").mkdir()
    rows = [json.dumps({"text": " ".join(draw.choices(WORDS, k=40))}) for _ in range(PROMPTS)]
    Path("corpus", "text.jsonl").write_text("\n".join(rows))

    model = load_language_model(name, torch.float32)
    sae = st.SparseAutoencoder(D, F, CHOICES[choice]())
    with torch.no_grad():
        sae.W_dec.mul_(torch.logspace(-1, 1, F)[:, None])
    some = torch.randint(3, 60, (200, WINDOW), generator=torch.Generator().manual_seed(2))
    read = [hidden_state(each) for row in some for each in outputs_at(model.model, [module], row[None])]
    st.calibrate(sae, [torch.cat([each[0] for each in read])])
    about = {"model_name": name, "hook_name": site, "prepend_bos": False}
    neuronpedia.save(sae.eval(), "exported", about)

    settings = NeuronpediaRunnerConfig(
        sae_set="mine", sae_path="exported", outputs_dir="dashboards", from_local_sae=True, sae_dtype="float32",
        huggingface_dataset_path="corpus", n_prompts_total=PROMPTS, n_tokens_in_prompt=WINDOW,
        n_prompts_in_forward_pass=8, n_features_at_a_time=8,
    )  # fmt: skip
    script("dashboard").Runner(settings).run()

    out = Path("dashboards", f"{name}_mine_{site}_{F}")
    tokens = torch.load(next(out.glob("tokens_*.pt")))
    batches = [json.loads(file.read_text()) for file in sorted(out.glob("batch-*.json"))]
    assert [batch["layer"] for batch in batches] == [int(site.split(".")[1])] * 2
    x = torch.cat([hidden_state(outputs_at(model.model, [module], row[None])[0])[0] for row in tokens])
    with torch.no_grad():
        acts = sae.encode(x).to_dense() * sae.W_dec.norm(dim=1)
    shown = {each["feature_index"]: each for batch in batches for each in batch["features"]}
    assert sorted(shown) == list(range(F))
    assert int((acts > 0).sum())
    for feature, found in shown.items():
        assert found["frac_nonzero"] == pytest.approx(float((acts[:, feature] > 0).float().mean()), abs=1e-4)
        if found["activations"]:
            highest = max(max(each["values"]) for each in found["activations"])
            behind_first = acts.view(*tokens.shape, F)[:, 1:, feature]  # the tool takes the first for a begin token
            assert highest == pytest.approx(float(behind_first.max()), rel=1e-4, abs=2e-3)
            assert {len(each["values"]) for each in found["activations"]} == {WINDOW - 1}


def test_a_model_that_predicts_otherwise_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = script("dashboard")
    monkeypatch.chdir(tmp_path)
    language_model("llama", Path("small"))
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    monkeypatch.setattr(loading, "OFFICIAL_MODEL_NAMES", [*loading.OFFICIAL_MODEL_NAMES, "small"])
    model = HookedTransformer.from_pretrained_no_processing("small")
    with torch.no_grad():
        model.blocks[0].mlp.W_in.mul_(1.5)
    with pytest.raises(SystemExit, match="small: expected the predictions of transformers, found others by up to"):
        dashboard.require_same(model, "small")


def test_the_base_of_rotary_positions_is_that_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    language_model("llama", Path("small"))
    convert = script("dashboard").with_rotary_base(lambda name: {"rotary_base": 10_000, "d_model": D})
    assert convert("small") == {"rotary_base": 50.0, "d_model": D}


def test_features_are_sent_as_the_client_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("neuronpedia")
    from neuronpedia.requests.base_request import NPRequest

    sent: list[tuple[str, Any]] = []

    def answer(self: Any, method: str, uri: str = "", json: Any = None, **other: Any) -> Any:
        sent.append((f"{method} {self.endpoint}/{uri}", json))
        if method == "GET":
            raise ValueError("not found")
        source = {"id": "1-mine", "modelId": "m", "setName": "mine"}
        return {"name": "mine", "modelId": "m", "description": "", "urls": [], "sources": [source]}

    monkeypatch.setattr(NPRequest, "send_request", answer)
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "none")
    windows = [
        {"tokens": ["a", " b"], "values": [0.0, 2.5], "bin_min": -1, "bin_max": 2.5, "bin_contains": -1},
        {"tokens": ["c"], "values": [1.0], "bin_min": 0.5, "bin_max": 1.5, "bin_contains": 0.25},
    ]
    one = {"frac_nonzero": 0.1, "pos_str": ["x"], "pos_values": [1.0], "neg_str": ["y"], "neg_values": [-1.0]}
    batch = {"layer": 1, "features": [one | {"feature_index": i, "activations": windows} for i in range(130)]}
    (tmp_path / "batch-0.json").write_text(json.dumps(batch))
    script("upload").upload(tmp_path, "m", "mine")
    assert [what for what, _ in sent] == [
        "GET source-set/m/mine",
        "POST source-set/new",
        "POST feature/upload-batch",
        "POST feature/upload-batch",
    ]
    first, last = (body["features"] for _, body in sent[2:])
    assert (len(first), len(last)) == (128, 2)
    assert sent[2][1]["source"] == "1-mine"
    assert first[0]["topLogits"] == [{"token": "x", "value": 1.0}]
    assert first[0]["density"] == 0.1
    quantiles = [[each[f"quantile{name}"] for name in ("Min", "Max", "Fraction")] for each in last[1]["activations"]]
    assert quantiles == [[None] * 3, [0.5, 1.5, 0.25]]
    assert last[1]["activations"][0]["values"] == [0.0, 2.5]
