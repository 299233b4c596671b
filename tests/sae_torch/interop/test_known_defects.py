"""What is known to be wrong with files in the wild is said when they are read."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sae_torch as st
from sae_torch import cli
from sae_torch.commands.exchange import Import
from sae_torch.interop import formats

FIXTURES = Path(__file__).parent / "fixtures"
UNSCALED = "without rescaling its threshold"


def exported(tmp_path: Path, one_threshold: bool = True, **metadata: Any) -> Path:
    """A jumprelu folder as SAELens exports it after a training."""
    folder = shutil.copytree(FIXTURES / "saelens-jumprelu", tmp_path / "copy")
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] = {"l0": 2.5, "sae_lens_version": "6.54.11"} | metadata
    (folder / "cfg.json").write_text(json.dumps(config))
    if one_threshold:
        weights = load_file(folder / "sae_weights.safetensors")
        save_file(weights | {"threshold": torch.full((10,), 0.3)}, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, True),
        ({"training_architecture": "batchtopk"}, True),
        ({"training_architecture": "matryoshka_batchtopk", "one_threshold": False}, True),
        ({"training_architecture": "jumprelu"}, False),
        ({"one_threshold": False}, False),
        ({"sae_lens_version": "6.54.12"}, False),
        ({"sae_lens_version": "6.55.0"}, False),
        ({"allocation": {"choice": "MutualChoice", "k": 2.5}}, False),
    ],
    ids=str,
)
def test_thresholds_of_a_batchtopk_training_that_were_never_rescaled(
    options: dict[str, Any], said: bool, tmp_path: Path
) -> None:
    folder = exported(tmp_path, **options)
    assert any(UNSCALED in text for text in formats.describe(folder).defects) == said
    if said:
        with pytest.warns(UserWarning, match=UNSCALED):
            st.load(folder)
    else:
        st.load(folder)


def test_a_factor_of_the_inputs_that_is_not_in_the_folder(tmp_path: Path) -> None:
    """SAELens does nothing at inference: the same function, and a sentence."""
    folder = exported(tmp_path, one_threshold=False)
    plain = formats.load(folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "expected_average_only_in"}))
    with pytest.warns(UserWarning, match="multiplied by a factor in training that the folder does not hold"):
        sae = formats.load(folder)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sae(x).x_hat, plain(x).x_hat)


def test_a_factor_of_the_inputs_that_a_checkpoint_holds_is_folded(tmp_path: Path) -> None:
    folder = exported(tmp_path, one_threshold=False)
    plain = formats.load(folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"normalize_activations": "expected_average_only_in"}))
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 4.0}))
    assert "multiplied by 4 in training" in formats.describe(folder).conventions[0]
    sae = formats.load(folder)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae(x).codes.to_dense(), plain(4 * x).codes.to_dense())
    torch.testing.assert_close(sae(x).x_hat, plain(4 * x).x_hat / 4)
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": "four"}))
    with pytest.raises(st.InputError, match=r"activation_scaler\.json: scaling_factor must be a positive number"):
        formats.load(folder)


@pytest.mark.parametrize("change", [{}, {"normalize_activations": "expected_average_only_in"}], ids=["old", "scaled"])
def test_an_import_keeps_what_is_known(change: dict[str, Any], tmp_path: Path) -> None:
    """The folder that it writes looks like any other."""
    folder = exported(tmp_path, one_threshold=not change)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | change))
    known = formats.describe(folder).defects
    assert len(known) == 1
    for source, out in ((folder, tmp_path / "once"), (tmp_path / "once", tmp_path / "twice")):
        with pytest.warns(UserWarning, match="SAELens"):
            Import(source, out).run()
        assert formats.describe(out).defects == known


def test_commands_warn_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the line of code before it, which is all that a warning of Python's own has."""
    shown: list[str] = []

    class Warns:
        def run(self) -> None:
            shown.extend(warnings.formatwarning("wrong", kind, "a.py", 3) for kind in (UserWarning, FutureWarning))

    monkeypatch.setattr(cli, "parse", lambda words: Warns())
    before = warnings.formatwarning
    assert cli.main([]) == 0
    assert shown[0] == "sae-torch: wrong\n"
    assert shown[1].startswith("a.py:3: FutureWarning: wrong")
    assert warnings.formatwarning is before
