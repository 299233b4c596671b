"""What others write loads here and gives the same activations and reconstructions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sae_torch as st
from sae_torch.interop import dictionary_learning, sparsify

from .conftest import D_MODEL, N_FEATURES, K

CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}


def randomise(module: nn.Module, seed: int) -> None:
    """Weights as a training might leave them: biases, decoder rows of any norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def same_function(sae: st.SparseAutoencoder, acts: Tensor, x_hat: Tensor, x: Tensor) -> None:
    with torch.no_grad():
        out = sae(x)
    torch.testing.assert_close(out.codes.to_dense(), acts.detach(), **CLOSE)
    torch.testing.assert_close(out.x_hat, x_hat.detach(), **CLOSE)
    assert (acts > 0).any()


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", ["jumprelu", "standard"])
def test_saelens_thresholds(architecture: str, centred: bool, x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    options = {"d_in": D_MODEL, "d_sae": N_FEATURES, "apply_b_dec_to_input": centred, "architecture": architecture}
    theirs = SAE.from_dict(options)
    randomise(theirs, 1)
    theirs.save_model(tmp_path)
    sae = st.load(tmp_path, k=K)
    assert isinstance(sae.choice, st.FeatureChoice if architecture == "jumprelu" else st.MutualChoice)
    same_function(sae, theirs.encode(x), theirs(x), x)


@pytest.mark.parametrize("rescale", [True, False])
def test_saelens_topk(rescale: bool, x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    options = {"d_in": D_MODEL, "d_sae": N_FEATURES, "k": K, "rescale_acts_by_decoder_norm": rescale}
    theirs = SAE.from_dict(options | {"architecture": "topk"})
    randomise(theirs, 2)
    theirs.save_model(tmp_path)
    same_function(st.load(tmp_path), theirs.encode(x), theirs(x), x)


def test_a_checkpoint_of_saelens_batchtopk_training(x: Tensor, tmp_path: Path) -> None:
    """Its own loader does not read it; it must be what the same training writes for inference."""
    from sae_lens import SAE
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    training = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=D_MODEL, d_sae=N_FEATURES, k=K))
    randomise(training, 3)
    training.topk_threshold.fill_(0.4)
    training.save_model(tmp_path / "checkpoint")
    training.save_inference_model(tmp_path / "inference")
    theirs = SAE.load_from_disk(tmp_path / "inference")
    for folder in ("checkpoint", "inference"):
        sae = st.load(tmp_path / folder, k=K)
        assert isinstance(sae.choice, st.MutualChoice)
        same_function(sae, theirs.encode(x), theirs(x), x)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk", "batchtopk", "jumprelu", "gated"])
def test_a_checkpoint_of_whitened_inputs(architecture: str, centred: bool, x: Tensor, tmp_path: Path) -> None:
    """Its own loader reads it without the whitening; it must be what the training writes once that is folded."""
    from sae_lens import SAE, TrainingSAE
    from sae_lens.training.activation_scaler import ActivationScaler

    options = {"d_in": D_MODEL, "d_sae": N_FEATURES, "apply_b_dec_to_input": centred}
    options |= {"normalize_activations": "covariance_whitening", "architecture": architecture}
    training = TrainingSAE.from_dict(options | ({"k": K} if "topk" in architecture else {}))
    randomise(training, 11)
    if architecture == "batchtopk":
        training.topk_threshold.fill_(0.4)
    scaler = ActivationScaler()
    scaler.estimate_whitening(D_MODEL, iter([x[:300], x[300:]]), 2)
    training.save_model(tmp_path / "checkpoint")
    scaler.save(str(tmp_path / "checkpoint" / "activation_scaler.json"))
    read = scaler.whitening
    training.fold_activation_whitening(read.mean, read.matrix, read.inverse_matrix)
    training.save_inference_model(tmp_path / "inference")
    theirs = SAE.load_from_disk(tmp_path / "inference")
    same_function(st.load(tmp_path / "checkpoint", k=K), theirs.encode(x), theirs(x), x)


@pytest.mark.parametrize(
    "entries",
    [
        {"hook_point": "blocks.0.hook_resid_pre", "hook_point_layer": 0},
        {"architecture": "standard", "activation_fn": "topk", "activation_fn_kwargs": {"k": K}},
        {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
        {"architecture": "topk", "activation_fn_kwargs": {"k": K}},
    ],
    ids=str,
)
def test_saelens_folders_from_before_version_6(entries: dict[str, Any], x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    written = SAE.from_dict({"d_in": D_MODEL, "d_sae": N_FEATURES, "architecture": "standard"})
    randomise(written, 6)
    with torch.no_grad():
        written.W_dec.div_(written.W_dec.norm(dim=1, keepdim=True))
    written.save_model(tmp_path)
    old = {"d_in": D_MODEL, "d_sae": N_FEATURES, "dtype": "torch.float32", "model_name": "m"}
    (tmp_path / "cfg.json").write_text(json.dumps(old | entries))
    theirs = SAE.load_from_disk(tmp_path)
    same_function(st.load(tmp_path, k=K), theirs.encode(x), theirs(x), x)


@pytest.mark.parametrize("architecture", ["matching_pursuit", "temporal"])
def test_saelens_architectures_without_an_equivalent_are_refused(architecture: str, tmp_path: Path) -> None:
    save_file({"W_dec": torch.zeros(8, 4)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": architecture, "d_in": 4, "d_sae": 8}))
    with pytest.raises(st.InputError, match=f"expected architecture jumprelu, .*, found '{architecture}'"):
        st.load(tmp_path)


def dictionaries() -> dict[str, Any]:
    from dictionary_learning import dictionary
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    return {
        "AutoEncoder": lambda: dictionary.AutoEncoder(D_MODEL, N_FEATURES),
        "AutoEncoderTopK": lambda: AutoEncoderTopK(D_MODEL, N_FEATURES, K),
        "BatchTopKSAE": lambda: BatchTopKSAE(D_MODEL, N_FEATURES, K),
        "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(D_MODEL, N_FEATURES, K, [10, 30]),
        "JumpReluAutoEncoder": lambda: dictionary.JumpReluAutoEncoder(D_MODEL, N_FEATURES),
    }


@pytest.mark.parametrize(
    "name", ["AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"]
)
def test_dictionary_learning(name: str, x: Tensor, tmp_path: Path) -> None:
    from dictionary_learning.utils import load_dictionary

    theirs = dictionaries()[name]()
    randomise(theirs, 4)
    if name == "AutoEncoderTopK":  # its training keeps rows at norm 1
        theirs.decoder.weight.data /= theirs.decoder.weight.data.norm(dim=0)
    if "Batch" in name:
        theirs.threshold.fill_(0.35)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    trainer = {"dict_class": name, "layer": 3, "lm_name": "m", "k": K}
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    sae = dictionary_learning.load(tmp_path)
    theirs, _ = load_dictionary(str(tmp_path), "cpu")  # it gives rows of `AutoEncoder` norm 1
    same_function(sae, theirs.encode(x), theirs(x), x)
    assert dictionary_learning.metadata(tmp_path) == {
        "model_name": "m",
        "hook_name": "blocks.3.hook_resid_post",
        "context_size": 128,
    }


def test_a_dictionary_of_dictionary_learnings_trainer(x: Tensor, tmp_path: Path) -> None:
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    trainer = BatchTopKTrainer(
        steps=20, activation_dim=D_MODEL, dict_size=N_FEATURES, k=K, layer=3, lm_name="m", device="cpu",
        warmup_steps=5, threshold_start_step=5, seed=0,
    )  # fmt: skip
    for step in range(20):
        trainer.update(step, x)
    torch.save(trainer.ae.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer.config}))
    same_function(dictionary_learning.load(tmp_path), trainer.ae.encode(x), trainer.ae(x), x)


def test_sparsify(x: Tensor, tmp_path: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    theirs = SparseCoder(D_MODEL, SparseCoderConfig(num_latents=N_FEATURES, k=K))
    randomise(theirs, 5)
    theirs.set_decoder_norm_to_unit_norm()
    theirs.save_to_disk(tmp_path / "layers.3")
    encoded = theirs.encode(x)
    dense = torch.zeros(len(x), N_FEATURES).scatter(1, encoded.top_indices, encoded.top_acts)
    same_function(sparsify.load(tmp_path / "layers.3"), dense, theirs(x).sae_out, x)


def test_sparsify_coders_of_another_activation_are_refused(tmp_path: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    config = SparseCoderConfig(num_latents=N_FEATURES, k=K, activation="groupmax")
    SparseCoder(D_MODEL, config).save_to_disk(tmp_path)
    with pytest.raises(st.InputError, match="activation = 'groupmax' is not supported"):
        sparsify.load(tmp_path)
