"""Folders that SAELens, dictionary_learning and sparsify wrote: the same function here, or one sentence.

`tests/peers/write_fixtures.py` made them with the real libraries, beside what these give for some inputs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sae_torch as st
from sae_torch.choices.activation_token import ActivationTokenChoice
from sae_torch.interop import dictionary_learning, sparsify
from sae_torch.interop.formats import FORMATS, format_of, load

FIXTURES = Path(__file__).parent / "fixtures"
K = 3
SAME = {
    "saelens-jumprelu": st.FeatureChoice,
    "saelens-jumprelu-raw-input": st.FeatureChoice,
    "saelens-standard": st.MutualChoice,
    "saelens-gated": st.FeatureChoice,
    "saelens-layer-norm": st.FeatureChoice,
    "saelens-topk-rescaled": st.TokenChoice,
    "dictionary-learning-AutoEncoderTopK": st.TokenChoice,
    "dictionary-learning-BatchTopKSAE": st.FeatureChoice,
    "dictionary-learning-MatryoshkaBatchTopKSAE": st.FeatureChoice,
    "dictionary-learning-JumpReluAutoEncoder": st.FeatureChoice,
    "dictionary-learning-GatedAutoEncoder": st.FeatureChoice,
    "sparsify-topk": st.TokenChoice,
}


@pytest.mark.parametrize("name", SAME)
def test_it_gives_what_the_library_gave(name: str) -> None:
    folder = FIXTURES / name
    sae = load(folder)
    assert type(sae.choice) is SAME[name]
    assert sae.choice.k == (2.5 if name.startswith("saelens") and name != "saelens-topk-rescaled" else K)
    expected = load_file(folder / "expected.safetensors")
    with torch.no_grad():
        out = sae(expected["x"])
    torch.testing.assert_close(out.codes.to_dense(), expected["acts"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.x_hat, expected["x_hat"], rtol=1e-5, atol=1e-5)
    assert not sae.training


@pytest.mark.parametrize("name", ["saelens-standard", "dictionary-learning-JumpReluAutoEncoder"])
def test_k_is_asked_for_where_the_folder_does_not_say_it(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / name, tmp_path / "copy")
    kind = format_of(folder)
    edit = {"metadata": {}} if kind == "saelens" else {"trainer": {"dict_class": name.split("-")[-1]}}
    change(folder / FORMATS[kind].FILES[1], **edit)
    with pytest.raises(st.InputError, match=r"not recorded; pass load\(folder, k=\)"):
        load(folder)
    assert load(folder, k=7.5).choice.k == 7.5


def test_a_threshold_that_was_never_measured_is_calibrated_here(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "dictionary-learning-BatchTopKSAE", tmp_path / "copy")
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, folder / "ae.pt")
    sae = dictionary_learning.load(folder)
    x = load_file(folder / "expected.safetensors")["x"]
    with pytest.raises(st.InputError, match=r"call st\.calibrate"):
        sae(x)
    st.calibrate(sae, [x])
    assert sae(x).codes.l0 == pytest.approx(K, abs=0.1)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_checkpoints_of_a_batchtopk_training_are_read(architecture: str, tmp_path: Path) -> None:
    """One threshold in units of pre-activation times decoder norm."""
    folder = shutil.copytree(FIXTURES / "saelens-jumprelu", tmp_path / "copy")
    tensors = load_file(folder / "sae_weights.safetensors")
    del tensors["threshold"]
    save_file(tensors | {"topk_threshold": torch.tensor(0.7)}, folder / "sae_weights.safetensors")
    change(folder / "cfg.json", architecture=architecture, k=4.0, rescale_acts_by_decoder_norm=True)
    sae = st.load(folder)
    x = load_file(folder / "expected.safetensors")["x"]
    pre = ((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * tensors["W_dec"].norm(dim=1)
    acts = torch.relu(pre) * (pre > 0.7)
    torch.testing.assert_close(sae(x).codes.to_dense(), acts)
    assert isinstance(sae.choice, st.MutualChoice)
    assert sae.choice.k == 4


GPT2_SMALL = {"model_name": "gpt2-small", "hook_point": "blocks.0.hook_resid_pre", "hook_point_layer": 0}
GPT2_SMALL |= {"hook_point_head_index": None, "context_size": 128, "from_pretrained_path": None}
TOP_3 = {"activation_fn_kwargs": {"k": 3}}


def before_version_6(tmp_path: Path, **entries: Any) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder of that time, with decoder rows of norm 1, and its weights."""
    folder = shutil.copytree(FIXTURES / "saelens-standard", tmp_path / "old")
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
    save_file(weights, folder / "sae_weights.safetensors")
    old = {"d_in": 6, "d_sae": 10, "dtype": "torch.float32", "device": "mps"}
    (folder / "cfg.json").write_text(json.dumps(old | entries))
    return folder, weights


@pytest.mark.parametrize("entries", [{}, {"architecture": "standard"}, {"activation_fn": "relu"}], ids=str)
def test_the_gpt2_small_release_is_read_as_relu(entries: dict[str, Any], tmp_path: Path) -> None:
    """Neither an architecture nor an activation function."""
    folder, w = before_version_6(tmp_path, **GPT2_SMALL, **entries)
    sae = st.load(folder, k=3)
    x = load_file(folder / "expected.safetensors")["x"]
    acts = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    torch.testing.assert_close(sae(x).codes.to_dense(), acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x).x_hat, acts @ w["W_dec"] + w["b_dec"], rtol=1e-5, atol=1e-5)
    known = {"model_name": "gpt2-small", "hook_name": "blocks.0.hook_resid_pre", "context_size": 128}
    assert FORMATS["saelens"].metadata(folder) == known


@pytest.mark.parametrize(
    "entries",
    [
        {"architecture": "standard", "activation_fn": "topk"} | TOP_3,
        {"architecture": "standard", "activation_fn_str": "topk"} | TOP_3,
        {"activation_fn": "topk", "sae_lens_version": "5.9.1"} | TOP_3,
        {"architecture": "topk"} | TOP_3,
    ],
    ids=str,
)
def test_top_k_of_version_5_is_top_k(entries: dict[str, Any], tmp_path: Path) -> None:
    folder, w = before_version_6(tmp_path, **entries)
    sae = st.load(folder)
    assert repr(sae.choice) == "TokenChoice(k=3)"
    x = load_file(folder / "expected.safetensors")["x"]
    top = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).topk(3, dim=1)
    acts = torch.zeros(len(x), 10).scatter(1, top.indices, torch.relu(top.values))
    torch.testing.assert_close(sae(x).codes.to_dense(), acts, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"activation_fn": "topk"}, "k must be a whole number from 1, found None"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn: expected relu or topk, found 'tanh-relu'"),
        ({"reshape_activations": "hook_q"}, "reshape_activations = 'hook_q' is not supported"),
        ({"normalize_activations": "whitened"}, "normalize_activations = 'whitened' is not supported"),
    ],
)
def test_what_version_5_had_and_we_have_not_is_refused(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder, _ = before_version_6(tmp_path, **entries)
    with pytest.raises(st.InputError, match=message):
        st.load(folder, k=3)


@pytest.mark.parametrize("flag", [True, False])
def test_scaling_factors_of_old_folders_are_one_or_refused(flag: bool, tmp_path: Path) -> None:
    folder, weights = before_version_6(tmp_path, finetuning_scaling_factor=flag)
    save_file(weights | {"scaling_factor": torch.ones(10)}, folder / "sae_weights.safetensors")
    st.load(folder, k=3)
    save_file(weights | {"scaling_factor": torch.full((10,), 1.5)}, folder / "sae_weights.safetensors")
    with pytest.raises(st.InputError, match="finetuning_scaling_factor = True is not supported"):
        st.load(folder, k=3)


def test_an_autoencoder_of_dictionary_learning_has_rows_of_norm_1_as_its_loader_makes_them(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {"encoder.weight": torch.randn(10, 6, generator=generator), "bias": torch.randn(6, generator=generator)}
    state |= {"encoder.bias": torch.randn(10, generator=generator), "decoder.weight": torch.randn(6, 10)}
    torch.save(state, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder", "k": 3}}))
    sae = dictionary_learning.load(tmp_path)
    norms = state["decoder.weight"].norm(dim=0)
    x = torch.randn(20, 6, generator=generator)
    acts = torch.relu((x - state["bias"]) @ state["encoder.weight"].T + state["encoder.bias"])
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(10))
    torch.testing.assert_close(sae(x).codes.to_dense(), acts * norms, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae(x).x_hat, acts @ state["decoder.weight"].T + state["bias"], rtol=1e-5, atol=1e-5)


def test_a_configuration_from_before_version_6_is_read(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "saelens-topk-rescaled", tmp_path / "copy")
    old = {"d_in": 6, "d_sae": 10, "dtype": "torch.float32", "activation_fn_str": "topk"}
    old |= {"activation_fn_kwargs": {"k": 3}, "normalize_activations": None, "model_name": "toy"}
    (folder / "cfg.json").write_text(json.dumps(old))
    weights = load_file(folder / "sae_weights.safetensors")
    weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
    save_file(weights, folder / "sae_weights.safetensors")
    assert st.load(folder).choice.k == 3
    assert FORMATS["saelens"].metadata(folder) == {"model_name": "toy"}


@pytest.mark.parametrize(
    ("name", "file", "edit", "message"),
    [
        ("sparsify-topk", "cfg.json", {"skip_connection": True}, "W_skip: expected shape"),
        ("sparsify-topk", "cfg.json", {"activation": "groupmax"}, "activation = 'groupmax' is not supported"),
        ("sparsify-topk", "cfg.json", {"num_latents": 11}, r"encoder\.weight: expected shape \(11, 6\), found"),
        ("sparsify-topk", "cfg.json", {"k": 2.5}, r"k must be a whole number from 1, found 2\.5"),
        ("saelens-jumprelu", "cfg.json", {"d_in": "many"}, "d_in must be a whole number from 1, found 'many'"),
        ("saelens-jumprelu", "cfg.json", {"dtype": "int8"}, "dtype must be a floating-point type, found 'int8'"),
        ("saelens-jumprelu", "cfg.json", {"finetuning_scaling_factor": True}, "finetuning_scaling_factor = True is"),
        ("dictionary-learning-BatchTopKSAE", "config.json", {"trainer": 3}, "expected an object named trainer"),
    ],
)
def test_damage_is_named(name: str, file: str, edit: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / name, tmp_path / "copy")
    change(folder / file, **edit)
    with pytest.raises(st.InputError, match=message):
        load(folder)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "saelens-jumprelu", tmp_path / "copy")
    weights = load_file(folder / "sae_weights.safetensors")
    weights["b_enc"][3] = torch.nan
    save_file(weights, folder / "sae_weights.safetensors")
    with pytest.raises(st.InputError, match="b_enc holds NaN or infinite values"):
        st.load(folder)


def test_code_in_a_torch_file_is_never_run(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "dictionary-learning-BatchTopKSAE", tmp_path / "copy")
    torch.save({"encoder.weight": Path(tmp_path)}, folder / "ae.pt")
    with pytest.raises(st.InputError, match=r"ae\.pt: not readable as a state dict"):
        dictionary_learning.load(folder)


def test_rows_of_unequal_norm_rank_as_in_the_file_and_again_after_every_export(tmp_path: Path) -> None:
    """Its top k counts no decoder norms, ours does: what is read ranks as the file does, here and where it goes."""
    folder = shutil.copytree(FIXTURES / "sparsify-topk", tmp_path / "copy")
    weights = load_file(folder / "sae.safetensors")
    weights["W_dec"] *= torch.linspace(0.3, 3.0, len(weights["W_dec"]))[:, None]
    save_file(weights, folder / "sae.safetensors")
    x = torch.randn(200, weights["b_dec"].numel(), generator=torch.Generator().manual_seed(0))
    pre = (x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
    top = pre.topk(K, dim=1)
    acts = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    sae = sparsify.load(folder)
    assert isinstance(sae.choice, ActivationTokenChoice)
    read = [sae, st.load(st.save(sae, tmp_path / "saelens"))]
    read += [module.load(module.save(sae, tmp_path / module.__name__)) for module in (sparsify, dictionary_learning)]
    for each in read:
        torch.testing.assert_close(each(x).codes.to_dense(), acts, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(each(x).x_hat, acts @ weights["W_dec"] + weights["b_dec"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_a_feature_whose_decoder_row_is_zero_is_active_all_the_same(architecture: str, tmp_path: Path) -> None:
    """It adds nothing, but counts among a token's features, and keeps others out of its top k."""
    generator = torch.Generator().manual_seed(0)
    w = {"W_enc": torch.randn(6, 20, generator=generator), "b_enc": torch.randn(20, generator=generator)}
    w |= {"W_dec": torch.randn(20, 6, generator=generator), "b_dec": torch.randn(6, generator=generator)}
    w["W_dec"][3], w["b_enc"][3] = 0.0, 5.0
    more = {"threshold": torch.full((20,), 0.2)} if architecture == "jumprelu" else {}
    save_file(w | more, tmp_path / "sae_weights.safetensors")
    config = {"architecture": architecture, "d_in": 6, "d_sae": 20, "k": K, "metadata": {"sae_lens_version": "6.54.12"}}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    x = torch.randn(100, 6, generator=generator)
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    if architecture == "topk":
        top = pre.topk(K, dim=1)
        acts = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    else:
        acts = pre.relu() * (pre > (0.2 if more else 0.0))
    assert bool((acts[:, 3] > 0).any())
    sae = st.load(tmp_path)
    out = sae(x)
    torch.testing.assert_close(out.codes.to_dense(), acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.x_hat, acts @ w["W_dec"] + w["b_dec"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(st.load(st.save(sae, tmp_path / "again"))(x).x_hat, out.x_hat, rtol=1e-5, atol=1e-5)


def test_what_ranks_without_norms_is_not_trained(tmp_path: Path) -> None:
    sae = st.SparseAutoencoder(4, 8, ActivationTokenChoice(2))
    with pytest.raises(st.InputError, match=r"expected one that trains, .* set sae\.choice to st\.TokenChoice"):
        sae(torch.randn(3, 4))
    with torch.no_grad():
        assert len(sae(torch.randn(3, 4)).codes) <= 6


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
