"""Gates, and inputs that are normalised or reshaped: SAELens and dictionary_learning give the same of one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.interop import formats

from .conftest import D_MODEL, N_FEATURES, K
from .test_imports import randomise, same_function


@pytest.fixture
def scaled(x: Tensor) -> Tensor:
    """Tokens of scales over two orders of magnitude."""
    return x * torch.logspace(-1, 1, len(x))[:, None]


def folder_of(tmp_path: Path, **options: Any) -> Any:
    from sae_lens import SAE

    theirs = SAE.from_dict({"d_in": D_MODEL, "d_sae": N_FEATURES, **options})
    randomise(theirs, 1)
    theirs.save_model(tmp_path)
    return theirs


@pytest.mark.parametrize("centred", [True, False])
def test_gates_of_saelens(centred: bool, x: Tensor, tmp_path: Path) -> None:
    theirs = folder_of(tmp_path, architecture="gated", apply_b_dec_to_input=centred)
    same_function(st.load(tmp_path, k=K), theirs.encode(x), theirs(x), x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gates_of_a_narrow_type_are_those_of_its_values_in_float32(dtype: str, x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    folder_of(tmp_path, architecture="gated", dtype=dtype)
    theirs = SAE.load_from_disk(tmp_path, dtype="float32")
    same_function(st.load(tmp_path, k=K), theirs.encode(x), theirs(x), x)


def test_gates_of_dictionary_learning(x: Tensor, tmp_path: Path) -> None:
    from dictionary_learning.dictionary import GatedAutoEncoder
    from dictionary_learning.utils import load_dictionary

    theirs = GatedAutoEncoder(D_MODEL, N_FEATURES)
    randomise(theirs, 4)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": "GatedAutoEncoder", "layer": 3, "lm_name": "m"}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    theirs, _ = load_dictionary(str(tmp_path), "cpu")
    same_function(st.load(tmp_path, k=K), theirs.encode(x), theirs(x), x)


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "standard", "gated"])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("transform", ["layer_norm", "constant_norm_rescale"])
def test_inputs_that_each_token_normalises(
    transform: str, centred: bool, architecture: str, scaled: Tensor, tmp_path: Path
) -> None:
    """And what is saved again is read by SAELens as the same function."""
    from sae_lens import SAE

    k = {"k": K} if architecture == "topk" else {}
    options = {"normalize_activations": transform, "apply_b_dec_to_input": centred}
    theirs = folder_of(tmp_path / "theirs", architecture=architecture, **options, **k)
    sae = st.load(tmp_path / "theirs", k=K)
    with torch.no_grad():
        acts, x_hat = theirs.encode(scaled), theirs(scaled)
        same_function(sae, acts, x_hat, scaled)
        again = SAE.load_from_disk(st.save(sae, tmp_path / "ours"))
        torch.testing.assert_close(again(scaled), x_hat, rtol=1e-5, atol=1e-5)


def test_a_token_of_norm_0_is_nan_in_saelens_and_is_not_here(x: Tensor, tmp_path: Path) -> None:
    theirs = folder_of(tmp_path, architecture="standard", normalize_activations="constant_norm_rescale")
    zero = torch.zeros_like(x)
    assert bool(theirs(zero).isnan().all())
    assert bool(st.load(tmp_path, k=K)(zero).x_hat.isfinite().all())


def test_a_factor_that_is_not_folded_is_nothing_at_inference(x: Tensor, tmp_path: Path) -> None:
    theirs = folder_of(tmp_path, architecture="jumprelu", normalize_activations="expected_average_only_in")
    with pytest.warns(UserWarning, match="that the folder does not hold"):
        sae = st.load(tmp_path, k=K)
    same_function(sae, theirs.encode(x), theirs(x), x)


def test_a_checkpoint_with_its_factor_is_what_its_trainer_exports(x: Tensor, tmp_path: Path) -> None:
    """The weights with `activation_scaler.json` beside them; the trainer folds the factor at its end."""
    from sae_lens import SAE
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.training.activation_scaler import ActivationScaler

    options = {"d_in": D_MODEL, "d_sae": N_FEATURES, "k": K, "normalize_activations": "expected_average_only_in"}
    training = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**options))
    randomise(training, 3)
    training.topk_threshold.fill_(0.4)
    training.save_model(tmp_path / "checkpoint")
    ActivationScaler(scaling_factor=0.37).save(str(tmp_path / "checkpoint" / "activation_scaler.json"))
    training.fold_activation_norm_scaling_factor(0.37)
    training.save_inference_model(tmp_path / "exported")
    theirs = SAE.load_from_disk(tmp_path / "exported")
    for name in ("checkpoint", "exported"):
        sae = st.load(tmp_path / name, k=K)
        with torch.no_grad():
            torch.testing.assert_close(sae(x).x_hat, theirs(x), rtol=1e-5, atol=1e-5)
            assert bool(((sae(x).codes.to_dense() > 0) == (theirs.encode(x) > 0)).all())


def test_heads_side_by_side(x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    metadata = {"hook_name": "blocks.3.attn.hook_z", "sae_lens_version": "6.54.12"}
    options = {"architecture": "jumprelu", "reshape_activations": "hook_z", "metadata": metadata}
    theirs = folder_of(tmp_path / "theirs", **options)
    heads = x.view(len(x), 3, D_MODEL // 3)
    sae = st.load(tmp_path / "theirs", k=K)
    same_function(sae, theirs.encode(heads), theirs(heads).reshape(x.shape), x)
    again = SAE.load_from_disk(st.save(sae, tmp_path / "ours", metadata=formats.metadata(tmp_path / "theirs")))
    torch.testing.assert_close(again(heads), theirs(heads), rtol=1e-5, atol=1e-5)
