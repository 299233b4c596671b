"""Options of a load, and weights, that no dictionary can have: one sentence instead of a traceback or of silence."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_torch as st
from sae_torch.cli import main
from sae_torch.commands.exchange import Import
from sae_torch.interop import formats
from sae_torch.interop.weight_headers import read_header
from tests.sae_torch.interop import layouts
from tests.sae_torch.interop.test_damage import EXAMPLES, D, F, K, refused, rewritten, weights_of

W = layouts.weights(D, F)
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool, "float16", 16])
def test_a_type_is_one_of_torch_with_a_floating_point(dtype: Any) -> None:
    with pytest.raises(st.InputError, match=f"dtype: expected float64 or float32 or .*, found {dtype!r}"):
        st.load(FIXTURES / "sparsify-topk", dtype=dtype)


@pytest.mark.parametrize("name", EXAMPLES)
def test_weights_of_whole_numbers_are_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES[name](tmp_path)
    file = weights_of(path)
    matrix = next(key for key in ("W_dec", "w_dec", "decoder.weight", "decoder_linear.weight", "W_D") if key in
                  read_header(file))  # fmt: skip
    rewritten(file, **{matrix: torch.ones(read_header(file)[matrix].shape, dtype=torch.int8)})
    assert f"{matrix}: expected float64 or" in refused(path, file, tmp_path / "out", capsys)


@pytest.mark.parametrize("k", [0, -1, 0.0, math.nan, math.inf, "5", True])
def test_features_per_token_are_a_positive_number(k: Any, tmp_path: Path) -> None:
    path = layouts.hook_z(tmp_path, W).path
    for read in (lambda: st.load(path, k=k), Import(path, tmp_path / "out", k=k).run):
        with pytest.raises(st.InputError, match=f"k: expected a positive number of features per token, found {k!r}"):
            read()


@pytest.mark.parametrize("layout", [layouts.qwen_scope, lambda *given: layouts.llamascopium(*given, act_fn="topk")])
def test_a_k_that_contradicts_a_top_k_is_refused(layout: Callable[..., layouts.Published], tmp_path: Path) -> None:
    path = layout(tmp_path, W).path
    assert st.load(path, k=5).choice.k == 5
    for read in (lambda: st.load(path, k=17), Import(path, tmp_path / "out", k=17).run):
        with pytest.raises(st.InputError, match=r"k: expected 5, the top k of .*, found 17"):
            read()
    assert not (tmp_path / "out").exists()


def test_a_k_for_thresholds_is_taken(tmp_path: Path) -> None:
    assert st.load(layouts.gemma_scope(tmp_path, W).path, k=K).choice.k == K


@pytest.mark.parametrize("with_norms", [False, True])
def test_a_top_k_is_no_larger_than_the_dictionary(with_norms: bool, tmp_path: Path) -> None:
    path = layouts.llamascopium(tmp_path / "a", W, act_fn="topk", with_norms=with_norms, top_k=F + 1).path
    with pytest.raises(st.InputError, match=f"k: expected 1 to {F}, found {F + 1}"):
        st.load(path)
    folder = tmp_path / "sparsify"
    shutil.copytree(FIXTURES / "sparsify-topk", folder)
    config = json.loads((folder / "cfg.json").read_text())
    F_there = formats.describe(folder).n_features
    for k, holds in ((F_there, True), (F_there + 1, False)):
        (folder / "cfg.json").write_text(json.dumps(config | {"k": k}))
        if holds:
            assert st.load(folder).choice.k == k
        else:
            with pytest.raises(st.InputError, match=f"k: expected 1 to {F_there}, found {k}"):
                st.load(folder)


def test_an_autoencoder_of_gemma_scope_2_has_no_skip_connection(tmp_path: Path) -> None:
    path = layouts.gemma_scope_2(tmp_path, W, skip=torch.eye(D), type="sae").path
    with pytest.raises(st.InputError, match="of an autoencoder, found affine_skip_connection too"):
        st.load(path)


def test_a_skip_connection_makes_a_transcoder_in_a_description_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "skip"
    shutil.copytree(FIXTURES / "sparsify-topk", folder)
    rewritten(folder / "sae.safetensors", W_skip=torch.eye(6))
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"skip_connection": True}))
    assert isinstance(st.load(folder), st.Transcoder)
    assert formats.describe(folder).kind == "transcoder"
    assert main(["inspect", str(folder)]) == 0
    assert "  transcoder " in capsys.readouterr().out
