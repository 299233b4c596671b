"""Which dictionary a path is: of one format, of several, of a set of layers, of none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import sae_torch as st
from sae_torch.cli import main
from sae_torch.interop import formats
from tests.sae_torch.command_line import complaint

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    """A folder of three layers, the last with two dictionaries."""
    folder = tmp_path / "layers"
    for name, layer in (("a", 3), ("b", 11), ("c", 11), ("deep/er/d", 7)):
        sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2), seed=layer)
        st.save(sae, folder / name, metadata={"hook_name": f"blocks.{layer}.hook_resid_post"})
    return folder


def test_a_file_stands_for_its_folder(layers: Path) -> None:
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert formats.resolve(layers / "a" / file) == ("saelens", layers / "a")


def test_of_a_set_one_is_named_by_its_layer(layers: Path) -> None:
    assert formats.resolve(layers, layer=7) == ("saelens", layers / "deep" / "er" / "d")
    assert formats.describe(layers, layer=3).site == "blocks.3.hook_resid_post"
    with pytest.raises(
        st.InputError, match=r"layers: expected a dictionary, found 4 below it: a, b, c, deep/er/d; name"
    ):
        formats.load(layers)
    with pytest.raises(st.InputError, match=r"expected one dictionary of layer 11, found b, c; name one of them"):
        formats.load(layers, layer=11)
    with pytest.raises(st.InputError, match=r"expected a dictionary of layer 5, found layers 3, 7, 11"):
        formats.load(layers, layer=5)


def test_the_only_one_below_a_folder_is_meant_unless_the_folder_is_half_of_one(layers: Path) -> None:
    assert formats.resolve(layers / "deep") == ("saelens", layers / "deep" / "er" / "d")
    assert formats.describe(layers / "deep").layer == 7
    (layers / "deep" / "cfg.json").write_text("{}")
    with pytest.raises(st.InputError, match=r"deep: expected a dictionary, found 1 below it: er/d; name it"):
        formats.load(layers / "deep")


def test_files_of_two_formats_are_a_question(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "saelens-topk-rescaled", tmp_path / "both")
    shutil.copytree(FIXTURES / "dictionary-learning-AutoEncoderTopK", tmp_path / "both", dirs_exist_ok=True)
    with pytest.raises(
        st.InputError, match=r"expected the files of one format, found those of saelens and dictionary-l"
    ):
        formats.load(tmp_path / "both")
    kinds = {formats.describe(tmp_path / "both", name).format for name in ("saelens", "dictionary-learning")}
    assert kinds == {"saelens", "dictionary-learning"}
    with pytest.raises(st.InputError, match=r"but sae\.safetensors is missing"):
        formats.load(tmp_path / "both", format="sparsify")
    with pytest.raises(st.InputError, match=r"format: expected one of saelens, .*, found 'onnx'"):
        formats.load(tmp_path / "both", format="onnx")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "found an empty folder"),
        (("a.txt", "b"), "found only a.txt, b"),
        (
            ("cfg.json",),
            r"expected sae_weights\.safetensors and cfg\.json \(saelens\), but sae_weights\.safetensors is m",
        ),
    ],
)
def test_what_is_none_is_told_with_what_is_there(files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(st.InputError, match=message):
        formats.load(tmp_path)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        st.InputError, match=r"notes\.txt: expected a dictionary of saelens, .*, found a file that is none"
    ):
        formats.load(tmp_path / "notes.txt")
    with pytest.raises(st.InputError, match="nowhere: expected the folder or file of an autoencoder, found nothing"):
        formats.load(tmp_path / "nowhere")


@pytest.mark.parametrize("folder", sorted(FIXTURES.iterdir()), ids=lambda folder: folder.name)
def test_a_description_says_what_a_load_gives(folder: Path) -> None:
    told = formats.describe(folder)
    assert told.format == formats.format_of(folder)
    assert json.loads(told.json())["n_features"] == told.n_features
    assert str(folder) in told.text()
    try:
        sae = formats.load(folder)
    except st.InputError:
        return
    assert (told.d_model, told.n_features, told.k) == (sae.d_model, sae.n_features, sae.choice.k)


def test_the_command_inspects(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(FIXTURES / "saelens-jumprelu-raw-input")
    assert main(["inspect", path]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{path} (saelens)",
        "  autoencoder   10 features of width 6, jumprelu of k = 2.5, float32",
        "  model         toy",
        "  site          blocks.3.hook_resid_post",
        "  layer         3",
        "  convention    b_dec is not subtracted from the input",
    ]
    assert main(["inspect", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conventions"] == ["b_dec is not subtracted from the input"]


def test_an_import_keeps_the_bits_and_the_function(tmp_path: Path) -> None:
    source, out = FIXTURES / "dictionary-learning-JumpReluAutoEncoder", tmp_path / "out"
    assert main(["import", str(source), "--out", str(out)]) == 0
    there, here = formats.load(source), st.load(out)
    for name, weight in there.named_parameters():
        assert torch.equal(here.get_parameter(name), weight), name
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(here(x).x_hat, there(x).x_hat)
    assert formats.metadata(out)["model_name"] == "toy"


def test_an_import_of_one_layer_in_another_type(layers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["import", str(layers), "--out", str(out), "--layer", "7", "--dtype", "bfloat16", "--model-name", "toy"]
    assert main(words) == 0
    told = formats.describe(out)
    assert (told.dtype, told.layer, told.model) == ("bfloat16", 7, "toy")


def test_a_threshold_of_a_narrower_type_is_rounded_down(tmp_path: Path) -> None:
    """To nearest, one might rise to a score that exceeded it."""
    sae = st.SparseAutoencoder(4, 8, choice=st.FeatureChoice(k=2))
    theta = torch.linspace(0.1, 0.9, 8)
    sae.choice.set_thresholds(theta)
    st.save(sae.eval(), tmp_path / "sae")
    form = formats.FORMATS["saelens"].form(tmp_path / "sae").cast(torch.bfloat16)
    assert form.threshold is not None
    assert form.threshold.dtype == torch.bfloat16
    assert bool((form.threshold.float() <= theta).all())
    assert bool((form.threshold.float() < theta).any())


@pytest.mark.parametrize("words", [["import", "set", "--out", "o"], ["import", "set", "--layer", "5", "--out", "o"]])
def test_a_refused_import_writes_nothing(
    words: list[str], layers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(layers.parent)
    layers.rename("set")
    assert "set: expected a dictionary" in complaint(words, capsys)
    assert not Path("o").exists()
