"""Transcoders in a model: spliced in place of a module, measured on pairs, evaluated and reported by the commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sae_torch as st
from sae_torch.activations import HarvestConfig, LanguageModel, Pairs, StateOfTheUnion, harvest_pairs, plan
from sae_torch.activations.files import targets_beside
from sae_torch.activations.rows import ArrayRows
from sae_torch.choices.activation_token import ActivationTokenChoice
from sae_torch.cli import main
from sae_torch.evaluation import EvaluationFile, evaluate, measure, model_loss, splice
from sae_torch.evaluation.batch_mode import batch_sensitivity
from sae_torch.evaluation.difficulty import token_difficulty
from sae_torch.evaluation.edge_swap import edge_swap_null
from tests.sae_torch.command_line import complaint

SITE, SOURCE = "model.layers.1.mlp", "model.layers.1.post_attention_layernorm"
TOKENS = torch.randint(0, 61, (3, 9), generator=torch.Generator().manual_seed(2))


def logits(language_model: LanguageModel) -> Tensor:
    with torch.no_grad():
        out: Tensor = language_model.model(input_ids=TOKENS).logits
    return out


def logits_with(language_model: LanguageModel, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Logits with the MLP's output made from its input and output at all positions but the first."""

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        x, y = (each[:, 1:].reshape(-1, 16) for each in (inputs[0], output))
        return torch.cat([output[:, :1], change(x, y).view(3, 8, 16)], dim=1)

    handle = language_model.model.get_submodule(SITE).register_forward_hook(hook)
    try:
        return logits(language_model)
    finally:
        handle.remove()


@pytest.fixture(params=[False, True], ids=["plain", "skip"])
def transcoder(request: pytest.FixtureRequest) -> st.Transcoder:
    made = st.Transcoder(16, 16, 40, st.TokenChoice(4), request.param).requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for weight in made.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return made.eval()


def test_an_output_becomes_what_the_transcoder_makes_of_the_input(
    tiny_language_model: LanguageModel, transcoder: st.Transcoder
) -> None:
    expected = logits_with(tiny_language_model, lambda x, y: transcoder(x).y_hat)
    before = logits(tiny_language_model)
    for source in (None, SOURCE):
        with splice(tiny_language_model.model, SITE, transcoder, source=source):
            assert torch.equal(logits(tiny_language_model), expected)
    assert not torch.equal(before, expected)
    assert torch.equal(logits(tiny_language_model), before)


def test_an_identity_and_an_error_term_alone_change_nothing(
    tiny_language_model: LanguageModel, transcoder: st.Transcoder
) -> None:
    before = logits(tiny_language_model)
    with splice(tiny_language_model.model, SITE, nn.Identity()):
        assert torch.equal(logits(tiny_language_model), before)
    with splice(tiny_language_model.model, SITE, transcoder, error_term=True):
        assert torch.equal(logits(tiny_language_model), before)


def test_interventions_with_an_error_term_change_what_they_name(
    tiny_language_model: LanguageModel, transcoder: st.Transcoder
) -> None:
    feature = int(transcoder.encode(torch.randn(50, 16, generator=torch.Generator().manual_seed(1))).features.mode()[0])

    def changed(x: Tensor, y: Tensor) -> Tensor:
        codes = transcoder.encode(x)
        lost = codes.values * (codes.features == feature)
        out = y.index_add(0, codes.tokens, -lost[:, None] * transcoder.W_dec[codes.features])
        return out + 3.0 * transcoder.W_dec[feature + 1]

    expected = logits_with(tiny_language_model, changed)
    with splice(tiny_language_model.model, SITE, transcoder, error_term=True, ablate=[feature], add={feature + 1: 3.0}):
        torch.testing.assert_close(logits(tiny_language_model), expected, rtol=1e-4, atol=1e-4)


def test_what_a_transcoder_cannot_be_spliced_at(tiny_language_model: LanguageModel, transcoder: st.Transcoder) -> None:
    model = tiny_language_model.model
    with (
        pytest.raises(st.InputError, match="site: expected the path of the module that the transcoder computes"),
        splice(model, "hidden_states[2]", transcoder),
    ):
        pass
    with (
        pytest.raises(st.InputError, match="source: expected none but for a transcoder"),
        splice(model, SITE, nn.Identity(), source=SOURCE),
    ):
        pass
    with (
        pytest.raises(st.InputError, match=r"but nothing passed 'model.layers.3.mlp' before"),
        splice(model, SITE, transcoder, source="model.layers.3.mlp"),
    ):
        logits(tiny_language_model)


def test_the_models_loss_is_that_of_spliced_passes(
    tiny_language_model: LanguageModel, transcoder: st.Transcoder
) -> None:
    def computed(x: Tensor) -> Tensor:
        return transcoder(x).y_hat

    windows = TOKENS.int()
    found = model_loss(tiny_language_model, SITE, windows, torch.zeros(16), {"it": computed}, source=SOURCE)
    with splice(tiny_language_model.model, SITE, transcoder):
        log_p = logits(tiny_language_model)[:, 1:-1].log_softmax(-1)
    expected = -log_p.gather(2, TOKENS[:, 2:, None]).mean()
    assert found.spliced["it"] == pytest.approx(float(expected), rel=1e-4)
    assert found.spliced["it"] != pytest.approx(found.clean, rel=1e-3)


def test_figures_are_those_of_the_target(transcoder: st.Transcoder) -> None:
    generator = torch.Generator().manual_seed(8)
    x, y = torch.randn(300, 16, generator=generator), torch.randn(300, 16, generator=generator) + 2
    pairs = Pairs(ArrayRows((x.numpy(),)), ArrayRows((y.numpy(),)))
    quality = measure(transcoder, pairs, batch_size=70)
    error = (y - transcoder(x).y_hat).double().square().sum()
    expected = float(error / (y - y.mean(0)).double().square().sum())
    assert quality.nmse == pytest.approx(expected, rel=1e-6)
    assert quality.l0 == pytest.approx(transcoder(x).codes.l0)
    null = edge_swap_null(transcoder, pairs, tokens=300, draws=1)
    assert null.nmse == pytest.approx(expected, rel=1e-4)
    own = token_difficulty(transcoder, pairs)
    assert sum(own.error) / len(own.error) == pytest.approx(expected, rel=1e-3)

    mutual = st.Transcoder(16, 16, 40, st.MutualChoice(4), transcoder.W_skip is not None)
    mutual.load_state_dict(transcoder.state_dict(), strict=False)
    st.calibrate(mutual, [x])
    (mode,) = batch_sensitivity(mutual.eval(), pairs, batch_sizes=[300], tokens=300)
    assert mode.nmse == pytest.approx(measure(mutual, pairs).nmse, rel=0.02)
    for wrong in (pairs.inputs, Pairs(pairs.inputs, ArrayRows((y[:, :3].numpy(),)))):
        with pytest.raises(st.InputError, match="expected pairs of widths 16 and 16 for a transcoder"):
            measure(transcoder, wrong)


def test_a_top_k_without_norms_has_no_batches_to_compare(transcoder: st.Transcoder) -> None:
    """As sparsify trains transcoders: rows of any norm, ranked without it."""
    choice = ActivationTokenChoice(4)
    choice.set_norms(transcoder.W_dec.norm(dim=1))
    transcoder.choice = choice.eval()
    x = torch.randn(100, 16, generator=torch.Generator().manual_seed(8)).numpy()
    figures = evaluate("theirs", transcoder, Pairs(ArrayRows((x,)), ArrayRows((x,))), null_tokens=50)
    assert figures.batch_modes == ()
    assert figures.l0 <= 4


@pytest.fixture
def place(tiny_model_folder: Path, tiny_text: StateOfTheUnion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Held-out pairs of the tiny model, in two folders."""
    config = HarvestConfig(
        model=str(tiny_model_folder), site=SOURCE, text=tiny_text, window=16, dtype=torch.float32, windows_per_shard=8
    )
    harvest_pairs(config, SITE, "test", 300, tmp_path / "cache")
    plan(config, "test", 1, tmp_path / "cache").folder.rename(tmp_path / "held-out")
    (left,) = (tmp_path / "cache" / "activations").iterdir()
    left.rename(tmp_path / "targets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_harvest_to_a_report(
    place: Path, tiny_model_folder: Path, tiny_text: StateOfTheUnion, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_text.folder is not None
    common = ["--model", str(tiny_model_folder), "--site", SOURCE, "--target", SITE, "--text", str(tiny_text.folder)]
    common += ["--window", "16", "--windows-per-shard", "8", "--held-out", "0.25", "--dtype", "float32"]
    common += ["--cache", "cache", "--tokens", "600"]
    assert main(["harvest", *common]) == 0
    out = capsys.readouterr().out
    assert out.count("600 activations of width 16 in") == 2
    trained = [f"--harvest.{word[2:]}" if word.startswith("--") else word for word in common]
    options = ["--sae.kind", "transcoder", "--sae.skip", "--sae.choice", "mutual", "--sae.k", "4"]
    options += ["--sae.n-features", "48", "--reader.batch-size", "100", "--out", "run"]
    assert main(["train", *trained, *options]) == 0
    saved = st.load(place / "run" / "mutual-k4")
    assert isinstance(saved, st.Transcoder)
    assert saved.W_skip is not None
    capsys.readouterr()
    words = ["evaluate", "--autoencoders", "run/mutual-k4", "--activations", "held-out"]
    assert main([*words, "--loss-windows", "4", "--batch-sizes", "64", "--model", str(tiny_model_folder)]) == 0
    assert f"targets: {place / 'targets'} ({SITE}), harvested with the inputs" in capsys.readouterr().out
    (figures,) = EvaluationFile.read(place / "evaluation.json").evaluations
    assert 0 < figures.nmse < 1
    assert figures.model is not None
    assert figures.model.ce_clean < figures.model.ce_zero
    assert figures.features
    assert main(["report", "--evaluations", "evaluation.json"]) == 0
    page = (place / "report.html").read_text()
    assert f"{figures.nmse:.4f}" in page
    assert SITE in page


def test_targets_are_those_of_the_same_harvest_alone(
    place: Path, tiny_model_folder: Path, tiny_text: StateOfTheUnion
) -> None:
    """Of another layer's inputs, another split, another window or text they are none."""
    assert targets_beside("held-out") == {SITE: place / "targets"}
    assert targets_beside("targets") == {}
    config = HarvestConfig(
        model=str(tiny_model_folder), site=SOURCE, text=tiny_text, window=16, dtype=torch.float32, windows_per_shard=8
    )
    other = place / "activations"
    harvest_pairs(replace(config, site="model.layers.0.post_attention_layernorm"), SITE, "test", 30, place)
    harvest_pairs(config, SITE, "dev", 30, place)
    harvest_pairs(replace(config, window=12), SITE, "test", 30, place)
    for folder in ("held-out", "targets"):
        (place / folder).rename(other / folder)
    assert targets_beside(other / "held-out") == {SITE: other / "targets"}
    harvest_pairs(config, "model.layers.0.mlp", "test", 30, place)
    assert set(targets_beside(other / "held-out")) == {SITE, "model.layers.0.mlp"}


def test_targets_at_another_place_of_the_layer_are_none(
    place: Path, tiny_model_folder: Path, tiny_text: StateOfTheUnion, capsys: pytest.CaptureFixture[str]
) -> None:
    """An MLP's output is not the residual stream after it: found only by a module path, whose block must do."""
    config = HarvestConfig(
        model=str(tiny_model_folder), site=SOURCE, text=tiny_text, window=16, dtype=torch.float32, windows_per_shard=8
    )
    harvest_pairs(config, "hidden_states[2]", "test", 30, place / "stream")
    folder = plan(config, "test", 1, place / "stream").folder
    made = st.Transcoder(16, 16, 40, st.MutualChoice(4))
    st.calibrate(made, [torch.randn(100, 16, generator=torch.Generator().manual_seed(0))])
    words = ["evaluate", "--loss-windows", "0", "--pages", "0", "--batch-sizes", "64", "--activations"]
    st.save(made, place / "mlp", {"hook_name_out": "blocks.1.hook_mlp_out"})
    found = complaint([*words, str(folder), "--autoencoders", "mlp"], capsys)
    assert "that of blocks.1.hook_mlp_out, found hidden_states[2] harvested" in found
    st.save(made, place / "stream-out", {"hook_name_out": "blocks.1.hook_resid_post"})
    for activations, name in ((str(folder), "stream-out"), ("held-out", "mlp")):
        assert main([*words, activations, "--autoencoders", name, "--out", f"{name}.json"]) == 0


def test_a_folder_that_may_not_be_read_is_passed_over(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [place / "closed" / "00000.safetensors"]
    refused[0].parent.mkdir()
    is_file, iterdir = Path.is_file, Path.iterdir

    def guarded(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def reads(path: Path) -> Any:
            if path in refused:
                raise PermissionError(path)
            return read(path)

        return reads

    monkeypatch.setattr(Path, "is_file", guarded(is_file))
    monkeypatch.setattr(Path, "iterdir", guarded(iterdir))
    assert targets_beside("held-out") == {SITE: place / "targets"}
    refused.append(place)
    assert targets_beside("held-out") == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--autoencoders", "pair", "--activations", "x.npy"],
            "found no harvest of pairs beside x.npy; say where they",
        ),
        (
            ["--autoencoders", "other"],
            f"that of blocks.3.hook_mlp_out, found {SITE} harvested with held-out; say which",
        ),
        (["--autoencoders", "alone", "--targets", "targets"], "targets: expected transcoders beside them, found alone"),
        (["--autoencoders", "pair", "alone", "--targets", "targets"], "expected transcoders alone or none, found pair"),
        (["--autoencoders", "narrow", "--targets", "targets"], "expected the width 5 that narrow computes, found 16"),
    ],
)
def test_commands_refuse_what_does_not_fit(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: dict[str, Any] = {
        "pair": st.Transcoder(16, 16, 40, st.MutualChoice(4)),
        "narrow": st.Transcoder(16, 5, 40, st.MutualChoice(4)),
        "alone": st.SparseAutoencoder(16, 40, st.MutualChoice(4)),
    }
    for name, sae in saved.items():
        st.calibrate(sae, [torch.randn(100, 16, generator=torch.Generator().manual_seed(0))])
        st.save(sae, place / name)
    st.save(saved["pair"], place / "other", {"hook_name_out": "blocks.3.hook_mlp_out"})
    np.save("x.npy", np.ones((300, 16), np.float32))
    assert message in complaint(["evaluate", "--activations", "held-out", *words], capsys)
    assert not (place / "evaluation.json").exists()


def test_a_report_judges_a_transcoder_on_its_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(200, 6, generator=generator), torch.randn(200, 4, generator=generator)
    made = st.Transcoder(6, 4, 12, st.MutualChoice(3))
    st.calibrate(made, [x])
    st.save(made, "pair")
    np.save("x.npy", x.numpy())
    np.save("y.npy", y.numpy())
    words = ["report", "--evaluations", "pair", "--activations", "x.npy"]
    assert "targets: expected what pair computes" in complaint(words, capsys)
    assert not Path("report.html").exists()
    assert main([*words, "--targets", "y.npy"]) == 0
    (figures,) = EvaluationFile.read(Path("report.json")).evaluations
    expected = measure(made, Pairs(ArrayRows((x.numpy(),)), ArrayRows((y.numpy(),))))
    assert figures.nmse == pytest.approx(expected.nmse)
    assert f"{figures.nmse:.4f}" in Path("report.html").read_text()
