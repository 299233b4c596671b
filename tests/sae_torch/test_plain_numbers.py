"""Numbers of NumPy are taken for what they are, and kept as Python's; what is none is said."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae_torch as st
from sae_torch.activations import ActivationReader, ArrayRows
from sae_torch.evaluation import EvaluationFile, evaluate, measure

ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def autoencoder(**settings: Any) -> st.SparseAutoencoder:
    return st.SparseAutoencoder(6, 16, choice=st.TokenChoice(2), **settings)


def trainer() -> st.Trainer:
    return st.Trainer(autoencoder(), st.TrainConfig(progress=False))


def reader(**settings: Any) -> ActivationReader:
    return ActivationReader(ArrayRows((ROWS.numpy(),)), **{"batch_size": 10, **settings})


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


def test_readers_evaluations_and_files_take_them_too(tmp_path: Path) -> None:
    plain, numpy = (
        reader(seed=1, pool_tokens=20),
        reader(batch_size=np.int64(10), seed=np.int32(1), pool_tokens=np.int64(20)),
    )
    assert all(torch.equal(one, other) for one, other in zip(plain, numpy, strict=True))
    choice = st.MutualChoice(4)
    choice.set_budget(np.float32(2))
    sae = st.SparseAutoencoder(6, 16, choice=choice)
    st.calibrate(sae, [ROWS])
    folder = st.save(sae, tmp_path / "saved", metadata={"layer": np.int64(3)})
    assert json.loads((folder / "cfg.json").read_text())["metadata"]["layer"] == 3
    found = evaluate("one", sae, ArrayRows((ROWS.numpy(),)), batch_sizes=(np.int64(20),), null_tokens=0)
    EvaluationFile((found,), {}).write(tmp_path / "evaluation.json")
    assert EvaluationFile.read(tmp_path / "evaluation.json").evaluations[0].batch_modes[0].batch_size == 20


@pytest.mark.parametrize("value", [Fraction(5, 2), np.longdouble(2.5), np.float16(2.5)])
def test_other_real_numbers_become_floats(value: Any) -> None:
    assert type(st.MutualChoice(value).k) is float
    assert st.MutualChoice(value)(ROWS).l0 == 2.5


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
        (lambda: st.TokenChoice(10**400), "k: expected a positive number of features per token, found 1000"),
        (lambda: st.MutualChoice(2).set_budget("2"), "k: expected a positive number of features per token, found '2'"),
        (lambda: st.TokenChoice(2).set_budget(-1), "k: expected a positive number of features per token, found -1"),
        (lambda: st.FeatureChoice(2, quotas=["a"]), r"quotas: expected densities between 0 and 1, .* \['a'\]"),
        (lambda: st.FeatureChoice(2, quotas=None), "quotas: expected densities between 0 and 1, .* None"),
        (lambda: st.FeatureChoice(2).set_quotas("zipf"), "quotas: expected densities between 0 and 1, .* 'zipf'"),
        (lambda: st.SoftChoice("2", 0.1), "k: expected a positive number of features per token, found '2'"),
        (lambda: st.SoftChoice(True, 0.1), "k: expected a positive number of features per token, found True"),
        (lambda: st.SoftChoice(2, ".1"), "temperature: expected a positive number, found '.1'"),
        (lambda: st.SoftChoice(2, 0.1, token_caps=2.5), "token_caps: expected a whole number .* found 2.5"),
        (lambda: st.SoftChoice(2, 0.1, feature_caps="x"), "feature_caps: expected densities between 0 and 1, .* 'x'"),
        (lambda: st.Threshold("a"), "theta: expected a number, or one for each feature, found 'a'"),
        (lambda: autoencoder(seed="1"), "seed: expected an integer of 64 bits, found '1'"),
        (lambda: autoencoder(seed=2**80), "seed: expected an integer of 64 bits, found 12089"),
        (lambda: autoencoder(encoder_scale="2"), "encoder_scale: expected a positive number, found '2'"),
        (lambda: autoencoder(feature_chunk=2.0), "feature_chunk: expected a positive number of features, found 2.0"),
        (lambda: st.TrainConfig(learning_rate="x"), "learning_rate: expected a positive number, found 'x'"),
        (lambda: st.TrainConfig(learning_rate=True), "learning_rate: expected a positive number, found True"),
        (lambda: st.TrainConfig(warm_up="0"), "warm_up: expected a share of the steps from 0 to 1, found '0'"),
        (lambda: st.TrainConfig(dead_after="5"), "dead_after: expected 1 or more, found '5'"),
        (lambda: st.TrainConfig(auxiliary_every=2.5), "auxiliary_every: expected 1 or more, found 2.5"),
        (lambda: st.TrainConfig(zipf_alpha="a"), "zipf_alpha: expected a number, found 'a'"),
        (lambda: st.TrainConfig(betas=3), "betas: expected two numbers from 0 to below 1, found 3"),
        (lambda: reader(batch_size="64"), "batch_size: expected at least 1, found '64'"),
        (lambda: reader(batch_size=True), "batch_size: expected at least 1, found True"),
        (lambda: reader(seed=0.5), "seed: expected an integer of 64 bits, found 0.5"),
        (lambda: trainer().begin(ROWS, "5", 100), "steps: expected 1 or more, found '5'"),
        (lambda: trainer().begin([], 5, 100), r"probe: expected activations or a list of them, found \[\]"),
        (lambda: trainer().begin(3, 5, 100), "probe: expected activations or a list of them, found 3"),
        (lambda: measure(autoencoder(), ArrayRows((ROWS.numpy(),)), batch_size=0), "batch_size: expected at least 1"),
        (lambda: measure(autoencoder(), ROWS.numpy()), r"activations: expected rows such as ArrayRows\(\(array,\)\)"),
        (lambda: st.SparseAutoencoder(True, 16, choice=st.TokenChoice(2)), "d_model: expected a positive integer"),
    ],
)
def test_what_is_no_such_number_is_said(make: Any, sentence: str) -> None:
    with pytest.raises(st.InputError, match=sentence):
        make()
