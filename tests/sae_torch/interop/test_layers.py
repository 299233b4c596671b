"""`layer=` and `--layer`: of a set with damaged members or two families, and of what is one dictionary itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sae_torch as st
from sae_torch.cli import main
from sae_torch.interop import formats
from tests.sae_torch.interop import layouts
from tests.sae_torch.interop.test_damage import circuit_tracer

W = layouts.weights(6, 20)


def test_a_dictionary_of_another_layer_is_refused(tmp_path: Path) -> None:
    path = layouts.gemma_scope_2(tmp_path, W).path
    for place in (path, path / "params.safetensors", path / "config.json"):
        assert formats.describe(place, layer=12).layer == 12
        with pytest.raises(st.InputError, match=rf"layer: expected 12, which {re.escape(str(path))} is of, found 99"):
            st.load(place, layer=99)
    (tmp_path / "set").mkdir()
    file = circuit_tracer(tmp_path / "set")
    with pytest.raises(st.InputError, match=r"layer: expected 3, which .*layer_3\.safetensors is of, found 5"):
        st.load(file, layer=5, k=4)
    assert main(["inspect", str(file), "--layer", "0"]) == 2


def test_where_nothing_says_the_layer_any_will_do(tmp_path: Path) -> None:
    folder = st.save(st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2)), tmp_path)
    assert formats.resolve(folder, layer=5) == ("saelens", folder)


@pytest.mark.parametrize("layer", ["5", 5.0, True, -1])
def test_a_layer_is_a_whole_number(layer: object, tmp_path: Path) -> None:
    with pytest.raises(st.InputError, match=f"layer: expected a whole number from 0, found {layer!r}"):
        formats.resolve(tmp_path, layer=layer)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["damaged", "cut short"])
def test_a_damaged_layer_is_in_the_way_of_no_other(damage: str, tmp_path: Path) -> None:
    whole = circuit_tracer(tmp_path)
    found = whole.read_bytes()
    other = whole.with_name("layer_40.safetensors")
    other.write_bytes(b"xx" if damage == "damaged" else found[: len(found) // 2])
    assert formats.resolve(tmp_path, layer=3) == ("circuit-tracer", whole)
    assert st.load(tmp_path, layer=3, k=4).n_features == 20
    with pytest.raises(st.InputError, match=r"layer_40\.safetensors: not readable as safetensors"):
        formats.resolve(tmp_path, layer=40)
    with pytest.raises(st.InputError, match=r"found layers 3, and what cannot be read: layer_40\.safetensors"):
        formats.resolve(tmp_path, layer=4)


def test_a_half_of_a_download_is_in_the_way_of_no_other_layer(tmp_path: Path) -> None:
    whole = layouts.gemma_scope_2(tmp_path, W)
    half = layouts.gemma_scope_2(tmp_path, W, folder="resid_post/layer_13_width_16k_l0_small").path
    file = half / "params.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert formats.resolve(whole.repository, layer=12)[1] == whole.path
    with pytest.raises(st.InputError, match=r"layer_13_\w+/params\.safetensors: .*incomplete"):
        formats.resolve(whole.repository, layer=13)


def test_a_format_is_said_of_the_dictionaries_of_a_set_too(tmp_path: Path) -> None:
    published = layouts.gemma_scope_2(tmp_path, W)
    st.save(
        st.SparseAutoencoder(6, 8, choice=st.TokenChoice(k=2)), published.path,
        {"hook_name": "blocks.12.hook_resid_post"},
    )  # fmt: skip
    assert formats.resolve(published.repository, "gemma-scope-2", 12) == ("gemma-scope-2", published.path)
    assert formats.resolve(published.repository, "saelens", 12) == ("saelens", published.path)
    with pytest.raises(st.InputError, match="say which with --format"):
        formats.resolve(published.repository, layer=12)
