"""Checkpoints of BioNeMo's recipes, written in their layout: TopK, with normalised inputs unless they say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.interop import bionemo, formats
from tests.sae_torch.interop.test_damage import Harmless

D, F, K = 8, 20, 3


def written(file: Path, prefix: str = "", weights: dict[str, Any] | None = None, **config: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = {"pre_bias": (D,), "encoder.weight": (F, D), "latent_bias": (F,), "decoder.weight": (D, F)}
    w = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    w["decoder.weight"] *= torch.logspace(-0.5, 0.5, F)
    state = {**w, "stats_last_nonzero": torch.zeros(F, dtype=torch.long), **(weights or {})}
    said = {"input_dim": D, "hidden_dim": F, "top_k": K, "auxk": None, "auxk_coef": 1 / 32, **config}
    torch.save({"model_state_dict": {prefix + name: each for name, each in state.items()}, "model_config": said,
                "config": {"architecture": "topk"}, "step": 5}, file)  # fmt: skip
    return w


def dense(w: dict[str, Tensor], x: Tensor, normalises: bool) -> tuple[Tensor, Tensor]:
    """Their forward pass, in float64."""
    x, w = x.double(), {name: each.double() for name, each in w.items()}
    mean, std = torch.zeros(len(x), 1), torch.ones(len(x), 1)
    if normalises:
        mean = x.sum(1, keepdim=True) / D
        std = ((x - mean).square().sum(1, keepdim=True) / (D - 1)).sqrt() + 1e-8
    pre = ((x - mean) / std - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    top = pre.relu().topk(K, dim=1)
    acts = torch.zeros_like(pre).scatter(1, top.indices, top.values)
    return acts, (acts @ w["decoder.weight"].T + w["pre_bias"]) * std + mean


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("said", [{}, {"normalize_input": True}, {"normalize_input": False}], ids=str)
def test_it_is_their_function_here_and_after_an_import(said: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    w = written(tmp_path / "checkpoint.pt", prefix, **said)
    x = 5 * torch.randn(200, D, generator=torch.Generator().manual_seed(0)) + 3
    acts, x_hat = dense(w, x, said.get("normalize_input", True))
    sae = formats.load(tmp_path / "checkpoint.pt")
    for each in (sae, st.load(st.save(sae, tmp_path / "saved"))):
        out = each(x)
        torch.testing.assert_close(out.codes.to_dense().double(), acts, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.x_hat.double(), x_hat, rtol=1e-5, atol=1e-4)
    told = formats.describe(tmp_path / "checkpoint.pt")
    assert (told.format, told.d_model, told.n_features, told.k, told.dtype) == ("bionemo", D, F, K, "float32")
    assert told.conventions == ((bionemo.NORMALISED,) if said.get("normalize_input", True) else ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": "many"}, "top_k must be a whole number from 1, found 'many'"),
        ({"top_k": F + 1}, "k: expected 1 to 20, found 21"),
        ({"normalize_input": 2}, "model_config.normalize_input: expected true or false, found 2"),
        ({"weights": {"pre_bias": torch.zeros(D + 1)}}, r"pre_bias: expected shape \(8,\), found \(9,\)"),
        ({"weights": {"latent_bias": torch.full((F,), torch.nan)}}, "latent_bias holds NaN or infinite values"),
        ({"weights": {"encoder.weight": torch.zeros(3)}}, r"encoder\.weight: expected a matrix"),
        ({"weights": {"more": Harmless(Path("made"))}}, "not readable as a state dict"),
    ],
)
def test_what_does_not_fit_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "checkpoint.pt", **changes)
    with pytest.raises(st.InputError, match=rf"checkpoint\.pt: .*{message}"):
        formats.load(tmp_path / "checkpoint.pt")
    assert not Path("made").exists()


def test_one_without_top_k_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "checkpoint.pt")
    held = torch.load(tmp_path / "checkpoint.pt")
    del held["model_config"]["top_k"]
    torch.save(held, tmp_path / "checkpoint.pt")
    with pytest.raises(
        st.InputError, match="expected top_k, as a TopK autoencoder has it, found input_dim, hidden_dim"
    ):
        formats.load(tmp_path / "checkpoint.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:900])
    with pytest.raises(st.InputError, match=r"half\.pt"):
        formats.describe(tmp_path / "half.pt")
