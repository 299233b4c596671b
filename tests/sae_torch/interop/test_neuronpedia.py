"""What Neuronpedia's tool asks of a folder is said before one is written; `tests/peers` runs the tool itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_torch as st
from sae_torch.choices.activation_token import ActivationTokenChoice
from sae_torch.cli import main
from sae_torch.interop import neuronpedia

ABOUT = {"model_name": "gpt2", "hook_name": "blocks.3.hook_resid_post", "prepend_bos": True}


def calibrated(sae: Any) -> Any:
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    st.calibrate(sae, [(x, x)] if sae.takes_pairs else [x])
    return sae.eval()


@pytest.mark.parametrize("choice", [st.TokenChoice(2), st.MutualChoice(2), st.FeatureChoice(2)])
def test_a_folder_is_one_of_saelens_whose_norms_may_be_folded(choice: st.Choice, tmp_path: Path) -> None:
    sae = calibrated(st.SparseAutoencoder(6, 10, choice))
    with torch.no_grad():
        sae.W_dec.mul_(torch.logspace(-1, 1, 10)[:, None])
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    again = st.load(neuronpedia.save(sae, tmp_path / "out", ABOUT))
    torch.testing.assert_close(again(x).x_hat, sae(x).x_hat, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.W_dec.norm(dim=1), torch.ones(10))
    config = json.loads((tmp_path / "out" / "cfg.json").read_text())
    assert config.get("rescale_acts_by_decoder_norm", True) is True
    assert config["metadata"].items() >= ABOUT.items()
    if isinstance(choice, st.TokenChoice):  # elsewhere a row that is zeroed later would be NaN in SAELens
        plain = st.save(sae, tmp_path / "plain", ABOUT)
        assert json.loads((plain / "cfg.json").read_text())["rescale_acts_by_decoder_norm"] is False
        torch.testing.assert_close(st.load(plain)(x).x_hat, sae(x).x_hat, rtol=1e-5, atol=1e-5)
        assert isinstance(st.load(plain).choice, st.TokenChoice)


def ranked_by_activation() -> Any:
    choice = ActivationTokenChoice(2)
    choice.set_norms(torch.linspace(0.5, 2.0, 10))
    return st.SparseAutoencoder(6, 10, choice).eval()


REFUSED: dict[str, tuple[Any, str]] = {
    "norms": (ranked_by_activation, "found ActivationTokenChoice with norms that differ"),
    "skip": (lambda: calibrated(st.Transcoder(6, 6, 10, st.MutualChoice(2), skip=True)), "found one with a skip"),
    "top k": (lambda: st.Transcoder(6, 6, 10, st.TokenChoice(2)), "found one with token choice"),
    "limits": (
        lambda: calibrated(st.SparseAutoencoder(6, 10, st.BalancedChoice(2, token_caps=3))),
        "found limits per token",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_tool_cannot_show_is_refused(name: str, tmp_path: Path) -> None:
    make, text = REFUSED[name]
    with pytest.raises(st.InputError, match=text):
        neuronpedia.save(make(), tmp_path / "out", ABOUT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"model_name": None}, "found none; pass --model-name"),
        ({"model_name": "/models/Llama-3.2-1B"}, "without 'Llama' in its path"),
        ({"model_name": "./my-gemma"}, "found './my-gemma'; rename it and pass --model-name"),
        ({"hook_name_out": "model.layers.3.mlp"}, "hook_mlp_out, found 'model.layers.3.mlp'"),
        ({"hook_name": None}, "as blocks.10.hook_resid_post, found ''; pass --hook-name"),
        ({"hook_name": "model.layers.3.mlp"}, "found 'model.layers.3.mlp'"),
        ({"hook_name": "blocks.3.mlp.hook_in"}, "found 'blocks.3.mlp.hook_in'"),
        ({"hook_name": "blocks.3.attn.hook_q"}, "found 'blocks.3.attn.hook_q'"),
    ],
)
def test_what_the_tool_asks_for_is_asked_for(said: dict[str, Any], text: str, tmp_path: Path) -> None:
    sae = st.SparseAutoencoder(6, 10, st.TokenChoice(2))
    with pytest.raises(st.InputError, match=re.escape(text)):
        neuronpedia.save(sae, tmp_path / "out", ABOUT | said)
    assert not (tmp_path / "out").exists()


def test_names_of_the_list_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sae = st.SparseAutoencoder(6, 10, st.TokenChoice(2))
    about = ABOUT | {"model_name": "google/gemma-2-2b", "hook_name_out": "blocks.3.hook_mlp_out"}
    assert neuronpedia.save(sae, tmp_path / "out", about) == tmp_path / "out"
    Path("google/gemma-2-2b").mkdir(parents=True)
    with pytest.raises(st.InputError, match="without 'gemma' in its path"):
        neuronpedia.save(sae, tmp_path / "other", about)
    assert not (tmp_path / "other").exists()


def test_the_command_line_exports_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = st.SparseAutoencoder(6, 10, st.TokenChoice(2))
    folder = st.save(sae, tmp_path / "sae", {"hook_name": "model.layers.3", "prepend_bos": False})
    words = ["export", str(folder), "--format", "neuronpedia", "--out", str(tmp_path / "out")]
    assert main([*words, "--model-name", "gpt2"]) == 2
    assert "pass --hook-name" in capsys.readouterr().err
    assert main([*words, "--model-name", "gpt2", "--hook-name", "blocks.3.hook_resid_post"]) == 0
    assert f"{tmp_path / 'out'} (neuronpedia)" in capsys.readouterr().out
    said = json.loads((tmp_path / "out" / "cfg.json").read_text())["metadata"]
    assert (said["model_name"], said["hook_name"], said["prepend_bos"]) == ("gpt2", "blocks.3.hook_resid_post", False)
