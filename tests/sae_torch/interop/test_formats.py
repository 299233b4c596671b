"""Every format holds every function that it can: what is written and read again is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import sae_torch as st
from sae_torch.cli import main
from sae_torch.interop import dictionary_learning, saelens
from sae_torch.interop.formats import FORMATS, WRITABLE, FormatName, WritableName, format_of, load
from sae_torch.interop.saebench import BenchmarkAutoencoder
from tests.sae_torch.command_line import complaint


def made(choice: st.Choice, seed: int = 0, unit: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    """An autoencoder with biases and any decoder norms, calibrated."""
    sae = st.SparseAutoencoder(6, 20, choice, seed=seed, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        sae.W_enc.add_(torch.randn(6, 20, generator=generator))
        sae.b_enc.add_(0.2 * torch.randn(20, generator=generator))
        sae.b_dec.add_(0.5 * torch.randn(6, generator=generator))
        if not unit:
            sae.W_dec.mul_(0.5 + torch.rand(20, 1, generator=generator))
    if isinstance(choice, st.FeatureChoice):
        choice.set_quotas(torch.linspace(0.05, 0.25, 20).double() * choice.k / 3.0)
    st.calibrate(sae, [inputs(400, seed + 1).to(dtype)])
    return sae.eval()


def inputs(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@given(
    some.sampled_from(get_args(WritableName)),
    some.sampled_from(["token", "mutual", "feature"]),
    some.integers(0, 50),
    some.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_written_and_read_again(
    tmp_path_factory: pytest.TempPathFactory, name: str, kind: str, seed: int, unit: bool
) -> None:
    choice = {"token": st.TokenChoice, "mutual": st.MutualChoice, "feature": st.FeatureChoice}[kind](3)
    sae, folder = made(choice, seed, unit), tmp_path_factory.mktemp("format")
    if name == "circuit-tracer":
        with pytest.raises(st.InputError, match="expected a transcoder, as circuit-tracer has them"):
            WRITABLE["circuit-tracer"].save(sae, folder)
        return
    if name == "sparsify" and kind != "token":
        with pytest.raises(st.InputError, match="holds token choice only"):
            WRITABLE[name].save(sae, folder)
        return
    WRITABLE[name].save(sae, folder, metadata={"model_name": "toy", "hook_name": "blocks.2.hook_resid_post"})
    assert format_of(folder) == name
    again = load(folder)
    assert type(again.choice) is type(choice)
    x = inputs(100, seed + 2)
    one, two = sae(x), again(x)
    torch.testing.assert_close(two.x_hat, one.x_hat, rtol=1e-5, atol=1e-5)
    assert torch.equal(one.codes.features, two.codes.features)
    if name != "sparsify":
        assert FORMATS[name].metadata(folder)["model_name"] == "toy"
        assert FORMATS[name].metadata(folder)["hook_name"] == "blocks.2.hook_resid_post"


def test_the_names_of_the_formats_are_those_of_the_command_line() -> None:
    assert tuple(FORMATS) == get_args(FormatName)
    assert tuple(WRITABLE) == get_args(WritableName)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_of_the_weights_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    sae = made(st.MutualChoice(3), unit=True, dtype=dtype)
    again = st.load(st.save(sae, tmp_path))
    x = inputs(50, 3).to(dtype)
    assert again.W_dec.dtype == dtype
    assert torch.equal(again.W_dec, sae.W_dec)
    assert torch.equal(again(x).x_hat, sae(x).x_hat)


def at_the_edge(dtype: torch.dtype, limits: int | None = None) -> tuple[st.SparseAutoencoder, torch.Tensor]:
    """Thresholds just below scores that the type holds, so that the nearest value would be the score itself."""
    choice = st.FeatureChoice(3) if limits is None else st.BalancedChoice(3, token_caps=limits)
    sae = st.SparseAutoencoder(6, 6, choice, dtype=dtype)
    with torch.no_grad():
        for weight in (sae.W_enc, sae.W_dec):
            weight.copy_(torch.eye(6))
    x = (1.0 + torch.arange(30).view(5, 6) / 64).to(dtype)
    sae.choice.build(6)
    sae.choice.set_thresholds(x[2].float() * (1 - 1e-6))
    return sae.eval(), x


NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@NARROW
@pytest.mark.parametrize("name", ["saelens", "dictionary-learning"])
def test_a_score_just_above_its_threshold_is_kept_in_narrow_types(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    sae, x = at_the_edge(dtype)
    assert sae(x).codes.token_counts.tolist() == [0, 0, 6, 6, 6]
    WRITABLE[name].save(sae, tmp_path)
    again = load(tmp_path)
    assert again.W_dec.dtype == dtype
    assert torch.equal(again(x).codes.to_dense(), sae(x).codes.to_dense())


@NARROW
def test_the_adapter_of_saebench_keeps_matches_when_it_is_cast(dtype: torch.dtype) -> None:
    sae, x = at_the_edge(torch.float32)
    adapter = BenchmarkAutoencoder(sae, "toy", "blocks.2.hook_resid_post").to(dtype)
    assert adapter.threshold.dtype == dtype
    assert torch.equal(adapter.encode(x).float(), sae(x).codes.to_dense())


def test_limits_per_token_rank_by_thresholds_that_are_not_rounded(tmp_path: Path) -> None:
    sae, _ = at_the_edge(torch.bfloat16, limits=2)
    with pytest.warns(UserWarning, match="sae_torch alone reads this folder"):
        st.save(sae, tmp_path)
    assert torch.equal(st.load(tmp_path).choice.batch_free().theta, sae.choice.batch_free().theta)


@pytest.mark.parametrize("name", ["saelens", "dictionary-learning"])
def test_what_is_folded_in_a_narrow_type_is_rounded_once(name: str, tmp_path: Path) -> None:
    """Of the weights that a float32 autoencoder of the same values would get, the nearest."""
    sae = made(st.FeatureChoice(3), dtype=torch.bfloat16)
    wide = made(st.FeatureChoice(3))
    with torch.no_grad():
        for weight in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(wide, weight).copy_(getattr(sae, weight))
    WRITABLE[name].save(sae, tmp_path / "narrow")
    WRITABLE[name].save(wide, tmp_path / "wide")
    narrow, wide = (load(tmp_path / kind) for kind in ("narrow", "wide"))
    for weight in ("W_enc", "W_dec"):
        assert torch.equal(getattr(narrow, weight), getattr(wide, weight).bfloat16())


def test_quotas_come_back_and_training_goes_on_with_them(tmp_path: Path) -> None:
    sae = made(st.FeatureChoice(3))
    again = st.load(st.save(sae, tmp_path))
    assert isinstance(again.choice, st.FeatureChoice)
    assert torch.equal(again.choice.quota_densities, sae.choice.quota_densities)
    x = inputs(200, 8)
    assert torch.equal(again.train().choice.mask(again.scores(x)), sae.train().choice.mask(sae.scores(x)))
    st.save(made(st.MutualChoice(3)), tmp_path)
    assert not (tmp_path / "sparsity.safetensors").exists()


def test_a_common_threshold_needs_a_whole_k_in_dictionary_learning(tmp_path: Path) -> None:
    with pytest.raises(st.InputError, match=r"needs a whole number of features per token, found k = 2\.5"):
        dictionary_learning.save(made(st.MutualChoice(2.5)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_limits_per_token_are_refused_by_other_formats(tmp_path: Path) -> None:
    sae = made(st.BalancedChoice(3, token_caps=5))
    with pytest.raises(st.InputError, match="as the dictionary_learning format has them, found limits per token"):
        dictionary_learning.save(sae, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_limits_per_token_are_saved_for_ourselves(tmp_path: Path) -> None:
    sae = made(st.BalancedChoice(3, token_caps=5, token_floors=1, feature_floors=0.01))
    with pytest.warns(UserWarning, match="sae_torch alone reads this folder"):
        saelens.save(sae, tmp_path / "out")
    again = saelens.load(tmp_path / "out")
    x = torch.randn(100, sae.d_model, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(again(x).x_hat, sae.eval()(x).x_hat)
    assert torch.equal(again(x).codes.token_counts, sae(x).codes.token_counts)
    assert repr(again.choice) == repr(sae.choice)
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert config["architecture"] not in ("jumprelu", "topk", "standard", "gated"), "SAELens would lose the limits"


@pytest.mark.parametrize("choice", [st.TokenChoice(3), st.FeatureChoice(3)], ids=["token", "feature"])
def test_the_adapter_of_saebench_takes_any_leading_axes(choice: st.Choice) -> None:
    sae = made(choice)
    adapter = BenchmarkAutoencoder(sae, "toy", "blocks.2.hook_resid_post", context_size=128)
    x = inputs(30, 4)
    torch.testing.assert_close(adapter(x.view(5, 6, 6)).view(30, 6), sae(x).x_hat.detach())
    assert adapter.check_decoder_norms()
    assert adapter.cfg.metadata.hook_layer == 2
    assert adapter.cfg.d_sae == 20
    with pytest.raises(st.InputError, match="'somewhere' names no layer"):
        BenchmarkAutoencoder(sae, "toy", "somewhere")


def test_the_configuration_of_the_adapter_takes_metadata_and_is_a_table() -> None:
    """What SAEBench 0.6.0 does to it before and after an evaluation."""
    config = BenchmarkAutoencoder(made(st.TokenChoice(3)), "toy", "blocks.2.hook_resid_post").cfg
    config.metadata = config.metadata
    assert config.metadata is config
    other = object()
    config.metadata = other
    assert config.metadata is other
    config.architecture_str = config.architecture
    table = json.loads(json.dumps(config.to_dict()))
    assert (table["hook_name"], table["d_sae"], table["architecture"]) == ("blocks.2.hook_resid_post", 20, "topk")
    assert "metadata" not in table


def test_a_missing_saelens_has_an_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sae_lens", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'sae-lens"):
        saelens.register()


def test_the_commands_go_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = made(st.FeatureChoice(3), unit=True)
    ours, theirs, again = (str(tmp_path / name) for name in ("ours", "theirs", "again"))
    st.save(sae, ours, metadata={"model_name": "toy", "hook_name": "blocks.2.hook_resid_post"})
    words = ["export", "--folder", ours, "--out", theirs, "--format", "dictionary-learning", "--model-name", "other"]
    assert main(words) == 0
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["trainer"]["lm_name"] == "other"
    assert main(["import", "--folder", theirs, "--out", again]) == 0
    x = inputs(60, 5)
    torch.testing.assert_close(st.load(again)(x).x_hat, sae(x).x_hat, rtol=1e-5, atol=1e-5)
    out, err = capsys.readouterr()
    assert "20 features of width 6" in out
    assert err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["export", "--folder", "nowhere", "--out", "o", "--format", "sparsify"],
            "nowhere: expected the folder or file of an",
        ),
        (
            ["import", "--folder", "nowhere", "--out", "o"],
            "nowhere: expected the folder or file of an autoencoder, found nothing",
        ),
        (
            ["import", "--folder", ".", "--out", "o"],
            ".: expected a dictionary, found 2 below it: ours, theirs; name one, or its --layer",
        ),
        (["export", "--folder", "ours", "--out", "o", "--format", "sparsify"], "holds token choice only"),
        (["export", "--folder", "ours", "--out", "o", "--format", "onnx"], "--format"),
        (
            ["export", "--folder", "ours", "--out", "ours", "--format", "saelens"],
            "out: expected a folder that holds nothing, found ours;",
        ),
        (
            ["import", "--folder", "ours", "--out", "o", "--k", "-2"],
            "k: expected a positive number of features per token, found -2",
        ),
        (["import", "--folder", "ours"], "--out"),
    ],
)
def test_wrong_arguments_write_nothing(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    st.save(made(st.MutualChoice(3)), "ours")
    st.save(made(st.TokenChoice(3)), "theirs")
    before = sorted(tmp_path.rglob("*"))
    assert message in complaint(words, capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_type_that_does_not_hold_the_weights_is_refused(tmp_path: Path) -> None:
    """Weights beyond float16 would be infinite in it."""
    sae = st.SparseAutoencoder(6, 10, choice=st.TokenChoice(2))
    with torch.no_grad():
        sae.b_dec[3] = 1e6
    folder = st.save(sae, tmp_path / "sae")
    message = r"dtype: expected a type that holds b_dec, whose entries go up to 1e\+06, found torch.float16"
    with pytest.raises(st.InputError, match=message):
        st.load(folder, dtype=torch.float16)
    assert main(["import", str(folder), "--out", str(tmp_path / "out"), "--dtype", "float16"]) == 2
    assert not (tmp_path / "out").exists()
    assert st.load(folder, dtype=torch.bfloat16).b_dec[3] > 9e5
