"""A gate and a magnitude that share an encoder are one threshold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors.torch import save_file
from torch import Tensor

import sae_torch as st
from sae_torch.interop import formats
from sae_torch.interop.gated import gated

D, F = 6, 14


def weights(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Thresholds of both signs, factors over two orders of magnitude, any decoder norms."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_dec": (D,), "b_gate": (F,), "b_mag": (F,), "r_mag": (F,)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def activations(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """As its paper has them."""
    gate = (x - w["b_dec"]) @ w["W_enc"] + w["b_gate"] > 0
    magnitude = torch.relu((x - w["b_dec"]) @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"])
    return gate * magnitude


@given(some.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_it_is_the_function_of_the_paper(seed: int) -> None:
    w = weights(seed)
    form = gated(w["W_enc"], w["b_gate"], w["b_mag"], w["r_mag"], w["W_dec"], w["b_dec"])
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    pre = (x - w["b_dec"]) @ form.tensors["W_enc"] + form.b_enc
    assert form.threshold is not None
    torch.testing.assert_close(torch.relu(pre) * (pre > form.threshold), activations(w, x))
    assert bool((form.threshold < 0).any())
    assert bool((form.threshold > 0).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_of_either_library_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    """Also of a narrow type: the gate stays as sharp as it was, in float32."""
    w = weights(3, dtype)
    save_file(w, tmp_path / "sae_weights.safetensors")
    config = {"architecture": "gated", "d_in": D, "d_sae": F, "dtype": str(dtype).removeprefix("torch.")}
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"metadata": {"sae_lens_version": "6.54.12"}}))
    theirs = {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T, "decoder_bias": w["b_dec"]}
    theirs |= {"gate_bias": w["b_gate"], "mag_bias": w["b_mag"], "r_mag": w["r_mag"]}
    (tmp_path / "other").mkdir()
    torch.save({name: tensor.contiguous() for name, tensor in theirs.items()}, tmp_path / "other" / "ae.pt")
    (tmp_path / "other" / "config.json").write_text(json.dumps({"trainer": {"dict_class": "GatedAutoEncoder"}}))
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(4))
    wide = {name: tensor.float() for name, tensor in w.items()}
    expected = activations(wide, x)
    for folder in (tmp_path, tmp_path / "other"):
        sae = formats.load(folder, k=3)
        assert sae.W_dec.dtype == torch.float32
        out = sae(x)
        torch.testing.assert_close(out.codes.to_dense(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.x_hat, expected @ wide["W_dec"] + wide["b_dec"], rtol=1e-5, atol=1e-4)
        again = st.load(st.save(sae, tmp_path / f"again-{folder.name}"))
        torch.testing.assert_close(again(x).x_hat, out.x_hat, rtol=1e-5, atol=1e-4)
