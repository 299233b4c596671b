"""Numbers of NumPy are taken for what they are, and kept as Python's; what is none is said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae_torch as st


def test_numbers_of_numpy_are_those_of_python(tmp_path: Path) -> None:
    choice = st.BalancedChoice(np.float32(2.0), feature_floors=np.float64(1 / 64))
    sae = st.SparseAutoencoder(np.int64(6), np.int32(16), choice=choice, seed=np.int64(3))  # type: ignore[arg-type]
    plain = st.SparseAutoencoder(6, 16, choice=st.BalancedChoice(2.0, feature_floors=1 / 64), seed=3)
    assert torch.equal(sae.W_dec, plain.W_dec)
    assert repr(sae.choice) == repr(plain.choice)
    assert repr(st.BalancedChoice(2, token_caps=np.int64(5))) == repr(st.BalancedChoice(2, token_caps=5))
    batches = [torch.randn(64, 6, generator=torch.Generator().manual_seed(step)) for step in range(4)]
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(iter(batches), steps=np.int64(4))  # type: ignore[arg-type]
    folder = st.save(sae, tmp_path / "saved")
    assert json.loads((folder / "cfg.json").read_text())["d_in"] == 6
    assert st.load(folder).n_features == 16


@pytest.mark.parametrize("switch_tokens", [np.int64(5), np.float32(5.0), 5, math.inf])
def test_feature_choice_switches_after_any_number_of_tokens(switch_tokens: Any) -> None:
    choice = st.FeatureChoice(2, switch_tokens=switch_tokens)
    assert type(choice.switch_tokens) in (int, float)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: st.FeatureChoice(2, switch_tokens="5"), "switch_tokens: expected a positive number of tokens .* '5'"),
        (lambda: st.FeatureChoice(2, switch_tokens=True), "switch_tokens: expected a positive number .* True"),
        (lambda: st.FeatureChoice(2, switch="late"), "switch: expected a share of the steps from 0 to 1, found 'late'"),
        (lambda: st.TokenChoice("8"), "k: expected a positive number of features per token, found '8'"),
        (lambda: st.BalancedChoice(8, token_caps=8.5), "token_caps: expected a whole number .* found 8.5"),
        (lambda: st.SparseAutoencoder(6, 16.0, choice=st.TokenChoice(2)), "n_features: expected a positive integer"),
        (lambda: st.SparseAutoencoder(True, 16, choice=st.TokenChoice(2)), "d_model: expected a positive integer"),
    ],
)
def test_what_is_no_such_number_is_said(make: Any, sentence: str) -> None:
    with pytest.raises(st.InputError, match=sentence):
        make()
