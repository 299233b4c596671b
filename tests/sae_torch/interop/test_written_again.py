"""What was read is written again as it was, byte for byte: settings, thresholds, weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sae_torch as st

WIDTH, FEATURES, K = 6, 24, 3
GIVEN = torch.linspace(0.5, 1.5, FEATURES, dtype=torch.float64) * K / FEATURES
CHOICES: dict[str, Callable[[], st.Choice]] = {
    "token": lambda: st.TokenChoice(K),
    "mutual": lambda: st.MutualChoice(K),
    "quotas of a curve": lambda: st.FeatureChoice(K, switch_tokens=200),
    "uniform quotas": lambda: st.FeatureChoice(K, quotas="uniform", switch_tokens=200),
    "given quotas": lambda: st.FeatureChoice(K, quotas=GIVEN, switch_tokens=200),
    "quotas from the start": lambda: st.FeatureChoice(K, switch=0),
    "floors": lambda: st.BalancedChoice(K),
    "floors of each": lambda: st.BalancedChoice(K, feature_floors=torch.linspace(0.01, 0.05, FEATURES)),
    "floors in training": lambda: st.BalancedChoice(K, floors_in_eval=False),
    "limits": lambda: st.BalancedChoice(K, token_caps=6, token_floors=1, feature_caps=0.5, feature_floors=0.02),
}


@pytest.mark.filterwarnings("ignore:.*no limits are given", "ignore:.*limits per token are more than thresholds")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CHOICES)
def test_what_is_read_is_written_again(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    choice = CHOICES[name]()
    sae = st.SparseAutoencoder(WIDTH, FEATURES, choice, dtype)
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(100, WIDTH, generator=generator) for _ in range(10)]
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
    st.save(sae, tmp_path / "sae")
    loaded = st.load(tmp_path / "sae")
    assert loaded.choice.settings() == choice.settings()
    assert loaded.choice.extra_repr() == choice.extra_repr()
    st.save(loaded, tmp_path / "again")
    files = sorted(file.name for file in (tmp_path / "sae").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "again").iterdir())
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "sae" / file).read_bytes()


def test_given_quotas_are_not_replaced_by_a_curve_after_a_reload(tmp_path: Path) -> None:
    choice = st.FeatureChoice(K, quotas=GIVEN, switch=0)
    sae = st.SparseAutoencoder(WIDTH, FEATURES, choice)
    st.calibrate(sae, [torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(1))])
    st.save(sae, tmp_path / "sae")
    loaded = st.load(tmp_path / "sae").choice
    assert isinstance(loaded, st.FeatureChoice)
    loaded.fit_quotas()
    torch.testing.assert_close(loaded.quota_densities, GIVEN)
