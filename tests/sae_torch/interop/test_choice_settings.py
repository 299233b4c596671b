"""Settings of a choice in a saved folder: what is written there is read, or one sentence names file and entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from safetensors.torch import save_file

import sae_torch as st

FEATURES = 12
CHOICES: dict[str, Callable[[], st.Choice]] = {
    "token": lambda: st.TokenChoice(2),
    "mutual": lambda: st.MutualChoice(2.5),
    "feature": lambda: st.FeatureChoice(2, switch=0.0),
    "feature uniform": lambda: st.FeatureChoice(2, quotas="uniform", switch=0.5),
    "balanced": lambda: st.BalancedChoice(2, feature_floors=0.02, feature_caps=[0.5] * FEATURES),
    "balanced tokens": lambda: st.BalancedChoice(2, token_caps=4, token_floors=1),
}
# Entries a choice may have beside those that its folder holds; "." goes one object down.
MORE = ("k", "quotas", "switch", "zipf", "zipf.alpha", "limits", "limits.token_caps", "limits.token_floors",
        "limits.feature_caps", "limits.feature_floors", "limits.other", "other")  # fmt: skip
JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-3, 40) | some.floats(width=32) | some.just(10**400)
    | some.sampled_from(["32", "zipf", "uniform", "given", "none", ""]),
    lambda inner: some.lists(inner, max_size=2) | some.dictionaries(some.sampled_from("ab"), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    for name, choice in CHOICES.items():
        sae = st.SparseAutoencoder(6, FEATURES, choice())
        if name != "token":
            st.calibrate(sae, [x])
        made[name] = tmp_path_factory.mktemp("saved")
        if name == "balanced tokens":
            with pytest.warns(UserWarning, match="limits per token"):
                st.save(sae, made[name])
        else:
            st.save(sae, made[name])
    return made


def at(table: dict[str, Any], entry: str) -> tuple[dict[str, Any], str]:
    """The object that holds an entry, made if it is missing, and the entry's name there."""
    outer, _, name = entry.rpartition(".")
    return (table.setdefault(outer, {}), name) if outer else (table, name)


@pytest.mark.parametrize("name", CHOICES)
@given(entry=some.sampled_from(MORE), value=JSON)
@settings(deadline=None, max_examples=80)
def test_a_setting_is_what_the_file_says_or_one_sentence(
    name: str, entry: str, value: Any, folders: dict[str, Path]
) -> None:
    file = folders[name] / "cfg.json"
    as_saved = file.read_text()
    config = json.loads(as_saved)
    ours = config["metadata"]["allocation"]
    holder, key = at(ours, entry)
    assume(key in holder or value is not None)
    holder[key] = value
    file.write_text(json.dumps(config))
    try:
        choice = st.load(folders[name]).choice
    except st.InputError as error:
        text = str(error)
        assert text.startswith(str(folders[name]))
        assert key in text
        assert len(text.splitlines()) == 1
    else:
        assert type(choice) is type(CHOICES[name]())
        if name == "token":  # whose folder says k as any top k, and has no other settings
            assert entry != "k" or value is None or isinstance(value, int | float)
        elif value is not None and entry.partition(".")[0] != "zipf":
            holder, key = at(choice.settings(), entry)
            assert holder[key] == value or (key == "k" and value == 0) or (key == "quotas" and value == "given")
        elif entry == "zipf":
            assert value is None or isinstance(value, dict)
    finally:
        file.write_text(as_saved)


@pytest.mark.parametrize(
    ("name", "entry", "value", "message"),
    [
        ("mutual", "k", "32", "metadata.allocation.k: expected a finite number, found '32'"),
        ("balanced", "limits", 3, "metadata.allocation.limits: expected an object, found 3"),
        (
            "balanced",
            "limits.feature_caps",
            "0.5",
            r"metadata.allocation.limits.feature_caps: .* and 1, .* found '0.5'",
        ),
        ("balanced", "limits.feature_caps", [0.5], r"n.limits.feature_caps: expected 12 densities, found shape \(1,\)"),
        ("balanced tokens", "limits.token_caps", 2.5, "n.limits.token_caps: expected a whole number .*, found 2.5"),
        ("feature", "zipf", 1, "metadata.allocation.zipf: expected an object, found 1"),
        ("feature", "zipf.alpha", "1", "metadata.allocation.zipf.alpha: expected a number, found '1'"),
        ("feature", "switch", True, "metadata.allocation.switch: expected a number, found True"),
        ("feature", "quotas", ["zipf"], r"quotas: expected zipf, uniform or given, found \['zipf'\]"),
        ("feature", "other", 1, "other: expected no setting but k, quotas, switch, zipf, found 1"),
    ],
)
def test_the_sentence_names_file_entry_and_what_is_there(
    name: str, entry: str, value: Any, message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    for file in folders[name].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "cfg.json").read_text())
    holder, key = at(config["metadata"]["allocation"], entry)
    holder[key] = value
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(st.InputError, match=f"^{tmp_path}/cfg.json: .*{message}"):
        st.load(tmp_path)


def test_quotas_that_do_not_fit_name_their_file(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["feature"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for quotas, message in ((torch.ones(3), "expected shape"), (torch.ones(FEATURES), "densities must sum to k = 2")):
        save_file({"quota_densities": quotas}, tmp_path / "sparsity.safetensors")
        with pytest.raises(st.InputError, match=f"^{tmp_path}/sparsity.safetensors: .*{message}"):
            st.load(tmp_path)


def test_a_choice_of_the_users_own_names_the_file_too(tmp_path: Path) -> None:
    class Sharpened(st.MutualChoice):
        def __init__(self, k: float, power: float = 1.0) -> None:
            super().__init__(k)
            self.power = float(power)

        def settings(self) -> dict[str, Any]:
            return super().settings() | {"power": self.power}

    sae = st.SparseAutoencoder(6, FEATURES, Sharpened(2, power=3.0))
    st.calibrate(sae, [torch.randn(300, 6, generator=torch.Generator().manual_seed(0))])
    st.save(sae, tmp_path)
    assert st.load(tmp_path).choice.settings() == {"k": 2, "power": 3.0}
    config = json.loads((tmp_path / "cfg.json").read_text())
    for wrong in ([], "much"):
        config["metadata"]["allocation"]["power"] = wrong
        (tmp_path / "cfg.json").write_text(json.dumps(config))
        with pytest.raises(st.InputError, match=r"cfg\.json: metadata\.allocation: expected the settings of Sharpened"):
            st.load(tmp_path)
