"""Folders and files of transcoders: what is written is read again, and what does not fit is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sae_torch as st
from sae_torch.cli import main
from sae_torch.interop import circuit_tracer, dictionary_learning, formats, saebench, sparsify
from tests.sae_torch.command_line import complaint
from tests.sae_torch.interop import layouts

CHOICES = {
    "token": lambda: st.TokenChoice(4),
    "mutual": lambda: st.MutualChoice(4),
    "feature": lambda: st.FeatureChoice(4, quotas="uniform", switch=0),
    "limits": lambda: st.BalancedChoice(4, token_caps=6),
}
ABOUT = {"model_name": "m", "hook_name": "blocks.3.mlp.hook_in", "hook_name_out": "blocks.3.hook_mlp_out"}


def made(choice: str, skip: bool, d_out: int = 6, dtype: torch.dtype = torch.float32) -> tuple[st.Transcoder, Tensor]:
    """A transcoder of odd scales with decoder rows of norm 1, and inputs that its thresholds were not measured on."""
    transcoder = st.Transcoder(6, d_out, 24, CHOICES[choice](), skip, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in transcoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.7)
        transcoder.normalise_decoder()
    x = (torch.randn(400, 6, generator=generator) * 3 + 1).to(dtype)
    st.calibrate(transcoder, [x[:200]])
    return transcoder.eval(), x[200:]


def assert_same(one: Any, other: Any, x: Tensor) -> None:
    with torch.no_grad():
        expected, found = one(x), other(x)
    assert torch.equal(expected.codes.features, found.codes.features)
    torch.testing.assert_close(found.y_hat, expected.y_hat)


def at_layer(layer: int) -> dict[str, str]:
    return {name: value.replace("blocks.3", f"blocks.{layer}") for name, value in ABOUT.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# what SAELens has no class for is said
@pytest.mark.filterwarnings("ignore:.*sae_torch alone reads this folder")
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("choice", CHOICES)
def test_a_folder_of_our_own_is_read_again(choice: str, skip: bool, tmp_path: Path) -> None:
    for d_out, dtype in ((6, torch.float32), (9, torch.float32), (9, torch.bfloat16)):
        transcoder, x = made(choice, skip, d_out, dtype)
        folder = st.save(transcoder, tmp_path / f"{d_out}-{dtype}", ABOUT)
        again = st.load(folder)
        assert isinstance(again, st.Transcoder)
        assert type(again.choice) is type(transcoder.choice)
        assert_same(transcoder, again, x)
        config = json.loads((folder / "cfg.json").read_text())
        assert config["apply_b_dec_to_input"] is False
        assert config["metadata"]["hook_name_out"] == "blocks.3.hook_mlp_out"
        described = formats.describe(folder)
        assert (described.kind, described.d_model, described.d_out) == ("transcoder", 6, d_out)
        assert ("W_skip" in load_file(folder / "sae_weights.safetensors")) == skip


@pytest.mark.parametrize(
    ("choice", "skip", "architecture"),
    [
        ("mutual", False, "jumprelu_transcoder"),
        ("feature", True, "jumprelu_skip_transcoder"),
        ("token", True, "allocation_topk_transcoder"),
        ("limits", False, "allocation_token_limits_transcoder"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*sae_torch alone reads this folder")
def test_architectures_are_those_of_saelens_where_it_has_them(
    choice: str, skip: bool, architecture: str, tmp_path: Path
) -> None:
    st.save(made(choice, skip)[0], tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == architecture


def test_one_with_a_top_k_says_that_saelens_cannot_read_it(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="SAELens has no transcoder with a top k, so sae_torch alone reads"):
        st.save(made("token", skip=False)[0], tmp_path)


@pytest.mark.parametrize(("architecture", "skip"), [("transcoder", False), ("skip_transcoder", True)])
def test_saelens_transcoders_without_thresholds(architecture: str, skip: bool, tmp_path: Path) -> None:
    transcoder, x = made("mutual", skip, 9)
    st.save(transcoder, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    config |= {"architecture": architecture, "metadata": {"sae_lens_version": "6.54.12"}}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(st.InputError, match="mean number of features per token is not recorded"):
        st.load(tmp_path)
    again = st.load(tmp_path, k=7)
    with torch.no_grad():
        acts = torch.relu(x @ transcoder.W_enc + transcoder.b_enc)
        expected = acts @ transcoder.W_dec + transcoder.b_dec
        if transcoder.W_skip is not None:
            expected += x @ transcoder.W_skip.T
        torch.testing.assert_close(again(x).y_hat, expected)


@pytest.mark.parametrize("skip", [False, True])
def test_sparsify_both_ways(skip: bool, tmp_path: Path) -> None:
    transcoder, x = made("token", skip)
    again = sparsify.load(sparsify.save(transcoder, tmp_path))
    assert_same(transcoder, again, x)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["transcode"], config["skip_connection"]) == (True, skip)
    assert formats.describe(tmp_path).kind == "transcoder"
    with pytest.raises(st.InputError, match="whose sides have one width, found 6 and 9; export to saelens"):
        sparsify.save(made("token", skip, 9)[0], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_sparsify_autoencoder_with_a_skip_connection_is_a_transcoder(tmp_path: Path) -> None:
    transcoder, x = made("token", skip=True)
    sparsify.save(transcoder, tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"transcode": False}))
    again = sparsify.load(tmp_path)
    with torch.no_grad():
        acts = transcoder.encode(x - transcoder.b_dec)
        expected = transcoder.decode(acts, x)
        torch.testing.assert_close(again(x).x_hat, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("skip", [False, True])
def test_circuit_tracer_both_ways(skip: bool, tmp_path: Path) -> None:
    """A set of two layers in one folder; the layers are told apart by their files."""
    layers = {0: made("mutual", skip), 1: made("feature", skip)}
    for layer, (transcoder, _) in layers.items():
        circuit_tracer.save(transcoder, tmp_path, at_layer(layer))
    config = (tmp_path / "config.yaml").read_text().splitlines()
    assert 'model_kind: "transcoder_set"' in config
    assert 'feature_input_hook: "mlp.hook_in"' in config
    assert 'feature_output_hook: "hook_mlp_out"' in config
    for layer, (transcoder, x) in layers.items():
        again = formats.load(tmp_path, k=4, layer=layer)
        assert_same(transcoder, again, x)
        described = formats.describe(tmp_path / f"layer_{layer}.safetensors")
        assert (described.format, described.layer, described.site) == (
            "circuit-tracer", layer, f"blocks.{layer}.mlp.hook_in",
        )  # fmt: skip
        assert formats.metadata(tmp_path, layer=layer)["hook_name_out"] == f"blocks.{layer}.hook_mlp_out"
    with pytest.raises(st.InputError, match=r"found 2 below it: layer_0.safetensors, layer_1.safetensors; name one"):
        formats.load(tmp_path, k=4)
    stored = load_file(tmp_path / "layer_0.safetensors")
    assert stored["W_enc"].shape == (24, 6)


def test_what_is_no_layer_of_a_set_is_refused(tmp_path: Path) -> None:
    transcoder, _ = made("mutual", skip=True)
    with pytest.raises(st.InputError, match="hook_name with a layer, as blocks"):
        circuit_tracer.save(transcoder, tmp_path)
    with pytest.raises(st.InputError, match=r"both sites in one layer, found layers \[2, 3\]"):
        circuit_tracer.save(transcoder, tmp_path, ABOUT | {"hook_name": "blocks.2.mlp.hook_in"})
    with pytest.raises(st.InputError, match="transcoders with thresholds, found TokenChoice"):
        circuit_tracer.save(made("token", skip=True)[0], tmp_path, ABOUT)
    with pytest.raises(st.InputError, match="whose sides have one width, found 6 and 9"):
        circuit_tracer.save(made("mutual", True, 9)[0], tmp_path, ABOUT)
    with pytest.raises(st.InputError, match="limits per token"):
        circuit_tracer.save(made("limits", skip=True)[0], tmp_path, ABOUT)
    sae = st.SparseAutoencoder(6, 24, st.TokenChoice(2))
    with pytest.raises(st.InputError, match="expected a transcoder, as circuit-tracer has them"):
        circuit_tracer.save(sae, tmp_path, ABOUT)
    assert not list(tmp_path.iterdir())
    circuit_tracer.save(transcoder, tmp_path, ABOUT)
    with pytest.raises(st.InputError, match="expected a layer that the set does not have yet"):
        circuit_tracer.save(transcoder, tmp_path, ABOUT)
    other = at_layer(0)
    with pytest.raises(st.InputError, match="a skip connection in all layers of a set or in none"):
        circuit_tracer.save(made("mutual", skip=False)[0], tmp_path, other)
    with pytest.raises(st.InputError, match=r"feature_input_hook: expected 'hook_resid_mid', found 'mlp.hook_in'"):
        circuit_tracer.save(transcoder, tmp_path, other | {"hook_name": "blocks.0.hook_resid_mid"})
    with pytest.raises(st.InputError, match="expected an autoencoder, as the dictionary_learning format has them"):
        dictionary_learning.save(transcoder, tmp_path / "other")
    with pytest.raises(st.InputError, match="expected an autoencoder, as the SAEBench format has them"):
        saebench.BenchmarkAutoencoder(transcoder, "m", "blocks.3.hook_mlp_out")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function.threshold": torch.tensor([0.1] * 23 + [-0.2])}, "found -0.2 at feature 23; circuit-"),
        ({"W_skip": torch.zeros(6, 5)}, r"W_skip: expected shape \(6, 6\), found \(6, 5\)"),
        ({"b_dec": torch.full((6,), torch.nan)}, "b_dec holds NaN"),
        ({"log_thresholds": torch.zeros(24)}, "found log_thresholds too, which has no equivalent"),
    ],
)
def test_layers_that_have_no_equivalent(change: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    circuit_tracer.save(made("mutual", skip=False)[0], tmp_path, ABOUT)
    file = tmp_path / "layer_3.safetensors"
    save_file(load_file(file) | change, file)
    with pytest.raises(st.InputError, match=message):
        formats.load(file, k=4)


def test_module_paths_are_places_of_circuit_tracer(tmp_path: Path) -> None:
    about = {"hook_name": "model.layers.3.post_attention_layernorm", "hook_name_out": "model.layers.3.mlp"}
    transcoder = made("mutual", skip=False)[0]
    with pytest.raises(
        st.InputError, match=r"found 'post_attention_layernorm' of model None; pass --hook-name with mlp"
    ):
        circuit_tracer.save(transcoder, tmp_path, about)
    assert not any(tmp_path.iterdir())
    circuit_tracer.save(transcoder, tmp_path, about | {"model_name": "SmolLM2-135M-Instruct"})
    assert formats.metadata(tmp_path / "layer_3.safetensors") == {
        "model_name": "SmolLM2-135M-Instruct",
        "hook_name": "blocks.3.mlp.hook_in",
        "hook_name_out": "blocks.3.mlp.hook_out",
    }


@pytest.mark.parametrize(
    ("place", "module", "written"),
    [
        ("hook_mlp_in", "model.layers.3.pre_feedforward_layernorm.output", "mlp.hook_in"),
        ("hook_mlp_in", None, "hook_resid_mid"),
        ("hook_resid_mid", "model.layers.3.pre_feedforward_layernorm.output", "hook_resid_mid"),
    ],
)
def test_the_place_before_the_norm_is_told_from_the_one_behind_it(
    place: str, module: str | None, written: str, tmp_path: Path
) -> None:
    about = ABOUT | {"hook_name": f"blocks.3.{place}"} | ({} if module is None else {"hf_hook_name": module})
    circuit_tracer.save(made("mutual", skip=False)[0], tmp_path, about)
    assert formats.metadata(tmp_path / "layer_3.safetensors")["hook_name"] == f"blocks.3.{written}"


def test_transcoders_of_gemma_scope_2_read_behind_the_norm(tmp_path: Path) -> None:
    given = layouts.gemma_scope_2(tmp_path, layouts.weights(6, 24), folder="transcoder_all/layer_12_width_16k_l0_small")
    circuit_tracer.save(made("mutual", skip=False)[0], tmp_path / "set", formats.metadata(given.path))
    written = (tmp_path / "set" / "config.yaml").read_text()
    assert 'feature_input_hook: "mlp.hook_in"\nfeature_output_hook: "hook_mlp_out"\n' in written


def test_entries_of_a_set_are_kept(tmp_path: Path) -> None:
    """Comments, lists and names that are not ours stay as they are; what is missing is added."""
    there = (
        "# ours\nscan: 'it''s'\nfeature_input_hook: \"mlp.hook_in\"  # read here\nmodel_name: m # of ours\n"
        "transcoders:\n  - layer_0.safetensors\n'model_kind': transcoder_set"
    )
    (tmp_path / "config.yaml").write_text(there)
    circuit_tracer.save(made("mutual", skip=False)[0], tmp_path, ABOUT)
    written = (tmp_path / "config.yaml").read_text()
    assert written == f'{there}\nfeature_output_hook: "hook_mlp_out"\n'
    circuit_tracer.save(made("mutual", skip=False)[0], tmp_path, at_layer(0))
    assert (tmp_path / "config.yaml").read_text() == written
    assert formats.metadata(tmp_path / "layer_3.safetensors") == ABOUT


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("feature_input_hook: hook_resid_mid", "feature_input_hook: expected 'mlp.hook_in', found 'hook_resid_mid'"),
        ("model_name: n", "model_name: expected 'm', found 'n' of the others"),
        ("model_kind: cross_layer_transcoder", "model_kind: expected 'transcoder_set', found 'cross_layer_transcoder'"),
        ("{scan: a}", "expected one entry a line, as name: value, found '{scan: a}'"),
    ],
)
def test_what_a_set_says_otherwise_stays(config: str, message: str, tmp_path: Path) -> None:
    transcoder = made("mutual", skip=False)[0]
    circuit_tracer.save(transcoder, tmp_path, ABOUT)
    (tmp_path / "config.yaml").write_text(config)
    before = contents(tmp_path)
    with pytest.raises(st.InputError, match=re.escape(message)):
        circuit_tracer.save(transcoder, tmp_path, at_layer(0))
    assert contents(tmp_path) == before


def test_a_set_has_one_type_and_a_folder_of_others_is_no_set(tmp_path: Path) -> None:
    transcoder = made("mutual", skip=False)[0]
    circuit_tracer.save(transcoder, tmp_path / "set", ABOUT)
    before = contents(tmp_path / "set")
    with pytest.raises(st.InputError, match="expected float32 weights like the other layers of the set, found float64"):
        circuit_tracer.save(made("mutual", skip=False, dtype=torch.float64)[0], tmp_path / "set", at_layer(0))
    assert contents(tmp_path / "set") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cfg.json").write_text("{}")
    with pytest.raises(st.InputError, match="out: expected a folder that holds nothing or a set of circuit-tracer"):
        circuit_tracer.save(transcoder, tmp_path / "other", ABOUT)
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["cfg.json"]


@pytest.mark.parametrize("name", ['a "b"', "a\nscan: c", "c:\\d # e", "\x7f\x85\u2028\ufeff\xe4\U0001f600", "it's"])
def test_any_name_of_a_model_is_one_text_of_yaml(name: str, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    circuit_tracer.save(made("mutual", skip=False)[0], tmp_path, ABOUT | {"model_name": name})
    said = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert said.keys() == {"model_name", "model_kind", "feature_input_hook", "feature_output_hook"}
    assert said["model_name"] == formats.metadata(tmp_path / "layer_3.safetensors")["model_name"] == name


def test_commands_take_transcoders_from_one_format_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcoder, x = made("mutual", skip=True)
    st.save(transcoder, tmp_path / "ours", ABOUT)
    assert main(["export", "--folder", str(tmp_path / "ours"), "--format", "circuit-tracer", "--out",
                 str(tmp_path / "set")]) == 0  # fmt: skip
    assert main(["import", "--folder", str(tmp_path / "set" / "layer_3.safetensors"), "--k", "4", "--out",
                 str(tmp_path / "again")]) == 0  # fmt: skip
    assert "24 features of widths 6 to 6" in capsys.readouterr().out
    assert_same(transcoder, st.load(tmp_path / "again"), x)
    assert main(["inspect", str(tmp_path / "again")]) == 0
    assert "transcoder" in capsys.readouterr().out


def test_export_takes_what_import_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One layer of a set, whose files do not say k, in another type; then one of two formats in a folder."""
    transcoders = {0: made("mutual", skip=True)[0], 3: made("feature", skip=True)[0]}
    for layer, transcoder in transcoders.items():
        circuit_tracer.save(transcoder, tmp_path / "set", at_layer(layer))
    words = ["export", "--folder", str(tmp_path / "set"), "--format", "saelens", "--out", str(tmp_path / "out")]
    assert "--layer" in complaint(words, capsys)
    assert "features per token" in complaint([*words, "--layer", "3"], capsys)
    assert "k: expected a positive number" in complaint([*words, "--layer", "3", "--k", "0"], capsys)
    assert not (tmp_path / "out").exists()
    assert main([*words, "--layer", "3", "--k", "5", "--dtype", "bfloat16", "--read-as", "circuit-tracer"]) == 0
    assert "layer_3.safetensors (circuit-tracer): 24 features of widths 6 to 6" in capsys.readouterr().out
    again = st.load(tmp_path / "out")
    assert (again.choice.k, again.W_enc.dtype) == (5, torch.bfloat16)
    torch.testing.assert_close(again.b_dec, transcoders[3].b_dec.bfloat16())
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == ABOUT["hook_name"]

    both = tmp_path / "both"
    st.save(transcoders[0], both, ABOUT)
    sparsify.save(made("token", skip=True)[0], tmp_path / "theirs")
    for file in (tmp_path / "theirs").glob("*.safetensors"):
        file.rename(both / file.name)
    words = ["export", "--folder", str(both), "--format", "circuit-tracer", "--out", str(tmp_path / "read")]
    assert main([*words, "--read-as", "saelens"]) == 0
    assert_same(transcoders[0], formats.load(tmp_path / "read", k=4, layer=3), torch.randn(50, 6))


def test_a_configuration_that_is_no_text_is_named(tmp_path: Path) -> None:
    transcoder = st.Transcoder(4, 4, 8, choice=st.MutualChoice(2))
    st.calibrate(transcoder, [torch.randn(50, 4, generator=torch.Generator().manual_seed(0))])
    names = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
    circuit_tracer.save(transcoder, tmp_path / "set", names)
    (tmp_path / "set" / "config.yaml").write_bytes(b"model_name: \xff\xfe")
    with pytest.raises(st.InputError, match=r"config.yaml: not readable as text"):
        st.load(tmp_path / "set", k=2, layer=0)
