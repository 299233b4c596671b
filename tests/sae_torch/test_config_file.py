"""Configurations in files: read back equal, and nothing in them is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sae_torch.config_file import from_plain, read_config, to_plain, toml
from sae_torch.errors import InputError
from sae_torch.training.config import TrainConfig
from sae_torch.training.run_config import RunConfig, SaeOptions, SweepOptions


@given(
    out=st.text(min_size=1),
    k=st.floats(0.01, 4000),
    rates=st.lists(st.floats(1e-6, 1.0), max_size=3, unique=True),
    prefixes=st.none() | st.sets(st.integers(1, 9), max_size=3),
    progress=st.booleans(),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    out: str,
    k: float,
    rates: list[float],
    prefixes: set[int] | None,
    progress: bool,
) -> None:
    config = RunConfig(
        out=Path(out.replace("\0", "")),
        sae=SaeOptions(k=k),
        sweep=SweepOptions(learning_rate=tuple(rates), choice=("mutual",)),
        train=TrainConfig(prefixes=None if prefixes is None else (*sorted(prefixes), 4608), progress=progress),
    )
    folder = tmp_path_factory.mktemp("config")
    (folder / "run.toml").write_text(toml(config), encoding="utf-8")
    assert read_config(RunConfig, folder / "run.toml") == config
    (folder / "run.yaml").write_text(yaml.safe_dump(to_plain(config)), encoding="utf-8")
    assert read_config(RunConfig, folder / "run.yaml") == config


def test_a_file_needs_to_say_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "run.yml"
    path.write_text("sae:\n  k: 16\ntrain: {learning_rate: 1e-3}\nout: here\n")
    assert read_config(RunConfig, path) == RunConfig(
        out=Path("here"), sae=SaeOptions(k=16.0), train=TrainConfig(learning_rate=1e-3)
    )
    path.write_text("")
    assert read_config(RunConfig, path) == RunConfig()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "[sae]\nn_feature = 3", "unknown key sae.n_feature; did you mean sae.n_features?"),
        ("a.toml", "zzz = 1", "unknown key zzz, expected one of activations, "),
        ("a.toml", "[sae]\nk = 'many'", "sae.k: expected float, found 'many'"),
        ("a.toml", "[sae]\nn_features = 2.5", "sae.n_features: expected int, found 2.5"),
        ("a.toml", "[sae]\nn_features = true", "sae.n_features: expected int, found True"),
        (
            "a.toml",
            "[sae]\nchoice = 'top'",
            "choice: expected token, mutual, feature, balanced or module:Class, found 'top'",
        ),
        (
            "a.toml",
            "[sae]\nchoice_options = 3",
            "sae.choice_options: expected a table of names and single values, found 3",
        ),
        ("a.toml", "sae = 3", "sae: expected a table, found 3"),
        ("a.toml", "[train]\nbetas = [0.9]", "train.betas: expected 2 values, found 1"),
        ("a.toml", "[sweep]\nk = 3", "sweep.k: expected a list, found 3"),
        ("a.toml", "[train]\nlearning_rate = -1.0", "learning_rate: expected a positive number, found -1.0"),
        ("a.toml", "[sae", "not readable as TOML"),
        ("a.yaml", "sae: [", "not readable as YAML"),
        ("a.yaml", "- 1", "expected names and values, found list"),
        ("a.json", "{}", "expected a .toml, .yaml or .yml file"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(RunConfig, tmp_path / name)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        read_config(RunConfig, tmp_path / "a.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not readable as text"):
        read_config(RunConfig, tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"k": 5000.0}, "k: expected more than 0 and at most the 4608 features, found 5000"),
        ({"choice": "mutual", "token_caps": 3}, "token_caps: only balanced choice takes it"),
        ({"k": 0}, "k: expected more than 0 and at most the 4608 features, found 0"),
    ],
)
def test_values_are_checked_by_their_dataclass(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_plain(SaeOptions, plain)
