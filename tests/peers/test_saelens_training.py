"""Our choices in SAELens' own trainer: a short training, its export, its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.interop import saelens

from .conftest import D_MODEL, N_FEATURES, K, activations

BATCH, STEPS = 256, 60
EXTRA: dict[str, dict[str, Any]] = {
    "token_choice": {},
    "mutual_choice": {},
    "feature_choice": {"switch_tokens": 40 * BATCH},
    "balanced_choice": {"feature_floors": 0.02},
}


def provider() -> Iterator[Tensor]:
    step = 0
    while True:
        yield activations(BATCH, seed=1000 + step)
        step += 1


def fitted(name: str, checkpoint: Path | None = None, **options: Any) -> Any:
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    training_class, config_class = saelens.register()[name]
    torch.manual_seed(0)
    sae = training_class(config_class(d_in=D_MODEL, d_sae=N_FEATURES, k=K, **EXTRA[name], **options))
    config = SAETrainerConfig(
        total_training_samples=BATCH * STEPS, train_batch_size_samples=BATCH, lr=3e-3, lr_end=3e-4,
        checkpoint_path=None if checkpoint is None else str(checkpoint), save_final_checkpoint=checkpoint is not None,
    )  # fmt: skip
    return SAETrainer(config, sae, provider()).fit()


@pytest.mark.parametrize("name", EXTRA)
def test_training_exports_and_reloads(name: str, x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    trained = fitted(name)
    if name == "feature_choice":
        assert bool(trained.activation_fn.choice.has_quotas)
    trained.calibrate([activations(BATCH, seed=1000 + step) for step in range(50, 60)])
    trained.save_inference_model(tmp_path)
    theirs, ours = SAE.load_from_disk(tmp_path), st.load(tmp_path)
    assert theirs.cfg.architecture() == ("topk" if name == "token_choice" else "jumprelu")
    assert type(ours.choice).__name__.lower() == name.replace("_", "")
    assert ours.choice.k == K
    assert not getattr(theirs.cfg, "rescale_acts_by_decoder_norm", False)  # NaN of a row that is zeroed later
    trained.eval()
    with torch.no_grad():
        out = ours(x)
        torch.testing.assert_close(theirs(x), out.x_hat, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs.encode(x), out.codes.to_dense(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(trained(x), out.x_hat, rtol=1e-5, atol=1e-5)
    assert out.codes.l0 == pytest.approx(K, rel=0.15)
    variation = (x - x.mean(0)).square().sum()
    assert float((x - out.x_hat).square().sum() / variation) < 0.6
    if name == "feature_choice":
        assert len(set(theirs.threshold.tolist())) > N_FEATURES // 2


def test_a_scale_folded_into_the_weights_keeps_the_matches(x: Tensor) -> None:
    trained = fitted("feature_choice").eval()
    with torch.no_grad():
        before = trained.encode(2.5 * x) > 0
        trained.fold_activation_norm_scaling_factor(2.5)
        after = trained.encode(x) > 0
    assert float((before == after).float().mean()) > 0.9999
    assert before.any()


@pytest.mark.parametrize("normalisation", ["expected_average_only_in", "covariance_whitening"])
def test_normalised_trainings_export_what_they_do(normalisation: str, x: Tensor, tmp_path: Path) -> None:
    from sae_lens import SAE

    trained = fitted("feature_choice", normalize_activations=normalisation).eval()
    trained.save_inference_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(SAE.load_from_disk(tmp_path)(x), trained(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(st.load(tmp_path)(x).x_hat, trained(x), rtol=1e-4, atol=1e-4)


def test_a_checkpoint_is_read_by_the_training_class(x: Tensor, tmp_path: Path) -> None:
    from sae_lens import TrainingSAE

    trained = fitted("feature_choice", checkpoint=tmp_path)
    (folder,) = tmp_path.iterdir()
    again = TrainingSAE.load_from_disk(folder)
    assert type(again) is type(trained)
    theirs, ours = trained.activation_fn.choice, again.activation_fn.choice
    assert {name: value.dtype for name, value in ours.state_dict().items()} == {
        name: value.dtype for name, value in theirs.state_dict().items()
    }
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in theirs.state_dict().items())
    narrow = TrainingSAE.load_from_disk(folder, dtype="bfloat16").activation_fn.choice
    assert torch.equal(narrow.quota_densities, theirs.quota_densities)
    with torch.no_grad():
        assert torch.equal(trained.eval()(x), again.eval()(x))


def test_evaluation_inside_training_changes_no_statistics(x: Tensor) -> None:
    trained = fitted("mutual_choice")
    before = trained.activation_fn.choice.tracker.theta.clone()
    with torch.no_grad():
        trained.train()(x)
        trained.eval()(x)
    assert torch.equal(trained.activation_fn.choice.tracker.theta, before)


def test_an_untrained_choice_is_not_exported(tmp_path: Path) -> None:
    training_class, config_class = saelens.register()["mutual_choice"]
    sae = training_class(config_class(d_in=D_MODEL, d_sae=N_FEATURES, k=K))
    with pytest.raises(st.InputError, match="no thresholds for eval mode yet"):
        sae.save_inference_model(tmp_path)


def test_registering_twice_gives_the_same_classes() -> None:
    from sae_lens.registry import get_sae_training_class

    first, second = saelens.register(), saelens.register()
    assert first == second
    assert get_sae_training_class("feature_choice") == first["feature_choice"]


def test_the_trainer_counts_what_fires() -> None:
    trained = fitted("mutual_choice")
    assert trained.cfg.metadata.l0 == pytest.approx(K, rel=0.02)


def test_saebench_finds_what_it_reads(x: Tensor) -> None:
    from sae_torch.interop.saebench import BenchmarkAutoencoder

    from .conftest import trained

    sae = trained(st.FeatureChoice(K))
    adapter = BenchmarkAutoencoder(sae, "pythia-70m-deduped", "blocks.3.hook_resid_post")
    torch.testing.assert_close(adapter(x), sae(x).x_hat.detach(), rtol=1e-5, atol=1e-5)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "cfg", "dtype", "device"):
        assert hasattr(adapter, name)
