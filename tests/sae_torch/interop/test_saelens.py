"""The SAELens folder: the same outputs after a reload, the semantics that its loader applies, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sae_torch as st
from sae_torch.interop import formats


def trained(choice: st.Choice) -> st.SparseAutoencoder:
    sae = st.SparseAutoencoder(12, 40, choice)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(200, 12, generator=generator) + 1.0 for _ in range(20)]
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
    return sae.eval()


def as_saelens(folder: Path, x: Tensor) -> Tensor:
    """The reconstruction by the documented semantics of the format, written anew."""
    config = json.loads((folder / "cfg.json").read_text())
    w = load_file(folder / "sae_weights.safetensors")
    assert config["apply_b_dec_to_input"] is True
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    if config["architecture"] == "jumprelu":
        acts = torch.relu(pre) * (pre > w["threshold"])
    else:
        top = pre.topk(config["k"], dim=1)
        acts = torch.zeros_like(pre).scatter(1, top.indices, torch.relu(top.values))
    return acts @ w["W_dec"] + w["b_dec"]


CHOICES = [st.TokenChoice(4), st.MutualChoice(4), st.FeatureChoice(4)]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: type(c).__name__)
def test_a_reload_gives_the_same_bits(choice: st.Choice, tmp_path: Path) -> None:
    sae = trained(choice)
    again = st.load(st.save(sae, tmp_path / "sae", metadata={"model_name": "m", "hook_name": "h"}))
    x = torch.randn(500, 12, generator=torch.Generator().manual_seed(5)) + 1.0
    one, two = sae(x), again(x)
    assert torch.equal(one.x_hat, two.x_hat)
    assert torch.equal(one.codes.features, two.codes.features)
    assert type(again.choice) is type(sae.choice)
    assert again.choice.k == 4
    assert not again.training
    torch.testing.assert_close(as_saelens(tmp_path / "sae", x), one.x_hat.detach(), atol=1e-5, rtol=1e-5)
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert config["metadata"]["hook_name"] == "h"
    assert config["metadata"]["sae_lens_version"] >= "6.0.0"
    assert config["metadata"]["allocation"]["choice"] == type(choice).__name__


@pytest.mark.parametrize("choice", [st.TokenChoice(3), st.MutualChoice(3)], ids=["token", "mutual"])
def test_decoder_norms_are_folded_into_the_encoder(choice: st.Choice, tmp_path: Path) -> None:
    sae = st.SparseAutoencoder(6, 20, choice)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        sae.W_dec.mul_(0.5 + torch.rand(20, 1, generator=generator))
    x = torch.randn(300, 6, generator=generator)
    st.calibrate(sae, [x])
    sae.eval()
    again = st.load(st.save(sae, tmp_path))
    torch.testing.assert_close(again(x).x_hat, sae(x).x_hat)
    torch.testing.assert_close(as_saelens(tmp_path, x), sae(x).x_hat.detach())


def test_no_training_state_is_written(tmp_path: Path) -> None:
    st.save(trained(st.FeatureChoice(4)), tmp_path)
    names = set(load_file(tmp_path / "sae_weights.safetensors"))
    assert names == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
    # what the densities are meant to be, in the file where SAELens keeps them
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"]


def test_folders_of_others_are_read(tmp_path: Path) -> None:
    """A jumprelu folder without our metadata, whose input is not centred."""
    generator = torch.Generator().manual_seed(1)
    w = {"W_enc": torch.randn(5, 9, generator=generator), "b_enc": torch.randn(9, generator=generator)}
    w |= {"W_dec": torch.randn(9, 5, generator=generator), "b_dec": torch.randn(5, generator=generator)}
    w["threshold"] = torch.rand(9, generator=generator)
    save_file(w, tmp_path / "sae_weights.safetensors")
    config: dict[str, Any] = {"architecture": "jumprelu", "d_in": 5, "d_sae": 9, "apply_b_dec_to_input": False}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(st.InputError, match=r"not recorded; pass load\(folder, k=\)"):
        st.load(tmp_path)
    x = torch.randn(50, 5, generator=generator)
    pre = x @ w["W_enc"] + w["b_enc"]
    expected = (torch.relu(pre) * (pre > w["threshold"])) @ w["W_dec"] + w["b_dec"]
    torch.testing.assert_close(st.load(tmp_path, k=3)(x).x_hat, expected)


def test_an_input_that_is_not_centred_is_folded_in_bfloat16_with_one_rounding(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (30, 90), "b_enc": (90,), "W_dec": (90, 30), "b_dec": (30,)}
    w = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    w["threshold"] = torch.rand(90, generator=generator).bfloat16()
    save_file(w, tmp_path / "sae_weights.safetensors")
    config = {"architecture": "jumprelu", "d_in": 30, "d_sae": 90, "apply_b_dec_to_input": False, "dtype": "bfloat16"}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    exact = w["b_enc"].double() + w["b_dec"].double() @ w["W_enc"].double()
    assert torch.equal(st.load(tmp_path, k=3).b_enc, exact.float().bfloat16())


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_what_whitened_inputs_in_training_is_folded_into_the_weights(architecture: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(6)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (5, 9), "b_enc": (9,), "W_dec": (9, 5), "b_dec": (5,)}
    w = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if architecture == "jumprelu":
        w["threshold"] = torch.rand(9, generator=generator)
    save_file(w, tmp_path / "sae_weights.safetensors")
    config = {"architecture": architecture, "d_in": 5, "d_sae": 9, "k": 3}
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "covariance_whitening"}))
    mean, matrix = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5,), (5, 5)))
    whitening = {"mean": mean, "matrix": matrix, "inverse_matrix": torch.linalg.inv(matrix).contiguous()}
    save_file(whitening, tmp_path / "activation_whitening.safetensors")
    x = torch.randn(50, 5, generator=generator) + 2
    z = (x.double() - mean) @ matrix
    pre = (z - w["b_dec"].double()) @ w["W_enc"].double() + w["b_enc"].double()
    if architecture == "jumprelu":
        acts = torch.relu(pre) * (pre > w["threshold"])
    else:
        acts = torch.zeros_like(pre).scatter(1, pre.topk(3).indices, pre.topk(3).values.clamp_min(0))
    expected = (acts @ w["W_dec"].double() + w["b_dec"].double()) @ whitening["inverse_matrix"] + mean
    sae = st.load(tmp_path)
    for each in (sae, st.load(st.save(sae, tmp_path / "saved"))):
        assert each.W_dec.dtype == torch.float32
        torch.testing.assert_close(each(x).x_hat.double(), expected, rtol=1e-5, atol=1e-4)
    assert "inputs were whitened in training" in formats.describe(tmp_path).conventions[0]
    save_file(whitening | {"mean": mean[:4]}, tmp_path / "activation_whitening.safetensors")
    with pytest.raises(
        st.InputError, match=r"activation_whitening.safetensors: mean: expected shape \(5,\), found \(4,\)"
    ):
        st.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: (p / "cfg.json").unlink(),
            r"expected sae_weights.safetensors and cfg.json \(saelens\), but cfg.json is missing",
        ),
        (lambda p: (p / "cfg.json").write_text("{"), "cfg.json: not readable as JSON"),
        (lambda p: (p / "sae_weights.safetensors").write_bytes(b"x" * 20), "not readable as safetensors"),
        (lambda p: _edit(p, architecture="temporal"), "expected architecture jumprelu, topk, .*, found 'temporal'"),
        (lambda p: _edit(p, d_in=7), r"W_enc: expected shape \(7, 20\), found \(6, 20\)"),
        (lambda p: _edit(p, d_sae="many"), "d_sae must be a whole number from 1, found 'many'"),
        (
            lambda p: _edit(p, normalize_activations="covariance_whitening"),
            "'covariance_whitening': expected activation_whitening.safetensors beside it, which says how, found none",
        ),
    ],
)
def test_damaged_folders_are_refused_by_name(damage: Any, message: str, tmp_path: Path) -> None:
    st.save(st.SparseAutoencoder(6, 20, st.TokenChoice(3)), tmp_path)
    damage(tmp_path)
    with pytest.raises(st.InputError, match=message):
        st.load(tmp_path)


def _edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | changes))


def test_an_untrained_choice_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(st.InputError, match=r"st\.calibrate"):
        st.save(st.SparseAutoencoder(6, 20, st.MutualChoice(3)), tmp_path / "sae")
    assert not (tmp_path / "sae").exists()
