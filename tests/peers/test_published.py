"""Published families: what SAELens' own loaders make of the same files, and Llamascopium's of its own.

The files are `layouts` of the fast tests. SAELens would download them; here that call gives those on the disk, and its
list gives small widths and the scale of inputs that the file was made with.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sae_torch as st
from sae_torch.interop import formats
from tests.sae_torch.interop import layouts
from tests.sae_torch.interop.layouts import NORM, Published

D, F = 12, 1024
FIXTURES = Path(__file__).parents[1] / "sae_torch" / "interop" / "fixtures"
DICTIONARY_LEARNING = (
    "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder", "GatedAutoEncoder"
)  # fmt: skip
RELATIVE = 1e-5


@pytest.fixture
def x() -> Tensor:
    return 2.0 * torch.randn(400, D, generator=torch.Generator().manual_seed(3)) + 0.5


class MissingError(Exception):
    """In place of the hub's error for a file that is not there."""


def theirs(given: Published, release: str, sae_id: str, monkeypatch: pytest.MonkeyPatch, **overrides: Any) -> Any:
    """The autoencoder that SAELens loads by name, from the files of `given`."""
    from sae_lens import SAE
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from sae_lens.saes import sae as saes
    from safetensors import safe_open

    def file(repo_id: str, filename: str, subfolder: str = "", **options: Any) -> str:
        found = given.repository / subfolder / filename
        if not found.is_file():
            raise MissingError(filename)
        return str(found)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        with safe_open(given.repository / filename, framework="pt") as opened:
            return {name: list(opened.get_tensor(name).shape) for name in opened.keys()}  # noqa: SIM118

    monkeypatch.setattr(loaders, "hf_hub_download", file)
    monkeypatch.setattr(loaders, "EntryNotFoundError", MissingError)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    widths = {"d_in": D, "d_sae": F}
    monkeypatch.setattr(saes, "get_config_overrides", lambda release, sae_id: widths | overrides)
    monkeypatch.setattr(saes, "get_norm_scaling_factor", lambda release, sae_id: D**0.5 / NORM)
    return SAE.from_pretrained(release, sae_id, dtype="float32")


def same(given: Published, loaded: Any, x: Tensor) -> st.SparseAutoencoder:
    """Activations, reconstructions and L0, to 1e-5 of the largest."""
    k = None if formats.describe(given.path).k is not None else 5
    sae = formats.load(given.path, k=k, dtype=torch.float32)
    # heads side by side for us are an axis of their own where SAELens reshapes
    read = x.view(len(x), 3, D // 3) if loaded.cfg.reshape_activations == "hook_z" else x
    with torch.no_grad():
        out, acts, x_hat = sae(x), loaded.encode(read), loaded(read).reshape(x.shape)
    mine = out.codes.to_dense()
    assert float((mine - acts).abs().max()) <= RELATIVE * float(acts.abs().max())
    assert float((out.x_hat - x_hat).abs().max()) <= RELATIVE * float(x_hat.abs().max())
    assert torch.equal((mine > 0).sum(dim=1), (acts > 0).sum(dim=1))
    assert (acts > 0).any()
    return sae


def w() -> layouts.Weights:
    return layouts.weights(D, F, seed=4)


@pytest.mark.parametrize(
    ("release", "folder", "options"),
    [
        ("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", {}),
        ("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", {"small": True, "dtype": torch.float16}),
        ("gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6", {}),
        ("gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71", {"scaling_factor": torch.ones(F)}),
        ("gemma-scope-2b-pt-mlp", "layer_0/width_16k/average_l0_119", {"site": "mlp"}),
        ("gemma-scope-2b-pt-att", "layer_0/width_16k/average_l0_104", {"site": "att"}),
        ("gemma-scope-2b-pt-transcoders", "layer_0/width_16k/average_l0_76", {"site": "transcoders"}),
    ],
)
def test_gemma_scope(
    release: str, folder: str, options: dict[str, Any], x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = layouts.gemma_scope(tmp_path, w(), folder=folder, **options)
    sizes = {"d_out": D} if release.endswith("transcoders") else {}
    loaded = theirs(given, release, folder, monkeypatch, **sizes)
    same(given, loaded, x)
    about = formats.metadata(given.path)
    assert about["model_name"] == loaded.cfg.metadata.model_name
    assert about["hook_name"] == loaded.cfg.metadata.hook_name
    assert about.get("hook_name_out") == loaded.cfg.metadata.get("hook_name_out")


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("place", ["resid_post", "mlp_out", "attn_out"])
def test_gemma_scope_2(
    place: str, dtype: torch.dtype, config: bool, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"{place}_all/layer_12_width_16k_l0_small"
    given = layouts.gemma_scope_2(tmp_path, w(), dtype, folder, config=config)
    release = {"resid_post": "res", "mlp_out": "mlp", "attn_out": "att"}[place]
    sae_id = "layer_12_width_16k_l0_small"
    loaded = theirs(given, f"gemma-scope-2-270m-pt-{release}-all", sae_id, monkeypatch)
    same(given, loaded, x)
    about = formats.metadata(given.path)
    assert about["model_name"] == loaded.cfg.metadata.model_name
    assert about["hook_name"] == loaded.cfg.metadata.hook_name


@pytest.mark.parametrize("config", [True, False])
@pytest.mark.parametrize("affine", [False, True])
def test_transcoders_of_gemma_scope_2(
    affine: bool, config: bool, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae_id = "layer_12_width_16k_l0_small" + ("_affine" if affine else "")
    skip = torch.randn(D, D, generator=torch.Generator().manual_seed(6)) if affine else None
    said = {"hf_hook_point_in": "model.layers.12.pre_feedforward_layernorm.output"}
    given = layouts.gemma_scope_2(
        tmp_path, w(), folder=f"transcoder_all/{sae_id}", config=config, skip=skip, **(said if config else {})
    )
    loaded = theirs(given, "gemma-scope-2-270m-pt-transcoders-all", sae_id, monkeypatch, d_out=D)
    assert isinstance(same(given, loaded, x), st.Transcoder)
    assert loaded.cfg.architecture() == ("jumprelu_skip_transcoder" if affine else "jumprelu_transcoder")
    about = formats.metadata(given.path)
    for name in ("model_name", "hook_name_out"):
        assert about[name] == loaded.cfg.metadata[name]
    # its name of the site lies before the norm, its module behind it
    assert loaded.cfg.metadata["hook_name"] == "blocks.12.hook_mlp_in"
    assert loaded.cfg.metadata["hf_hook_name"] == said["hf_hook_point_in"]
    assert about["hook_name"] == "blocks.12.mlp.hook_in"


def test_transcoders_of_circuit_tracer_by_way_of_saelens(
    x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loader of such a repository takes sizes from the log of the training."""
    given = w()
    repository = tmp_path / "repository"
    repository.mkdir()
    tensors = {"W_enc": given.E.T, "W_dec": given.D, "b_enc": given.b, "b_dec": given.c}
    save_file({name: each.float().contiguous() for name, each in tensors.items()}, repository / "layer_3.safetensors")
    sizes = {"d_model": D, "d_feature": F, "batch_size": 8}
    log = "".join(f"{name}:\n  value: {value}\n" for name, value in sizes.items())
    (repository / "wandb-config.yaml").write_text(log)
    hooks = 'model_kind: "transcoder_set"\nfeature_input_hook: "mlp.hook_in"\nfeature_output_hook: "hook_mlp_out"\n'
    (repository / "config.yaml").write_text(f'model_name: "Qwen/Qwen3-4B"\n{hooks}')
    path = repository / "layer_3.safetensors"
    published = layouts.Published("circuit-tracer", repository, path, layouts.plain(given, 0.0), {})
    loaded = theirs(published, "mwhanna-qwen3-4b-transcoders", "layer_3", monkeypatch, d_out=D)
    same(published, loaded, x)
    about = formats.metadata(path)
    for name in ("model_name", "hook_name", "hook_name_out"):
        assert about[name] == loaded.cfg.metadata[name]


def test_qwen_scope(x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of any norm: both rank without it."""
    given = layouts.qwen_scope(tmp_path, w(), k=50, name="Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50")
    loaded = theirs(given, "qwen-scope-3-1.7b-base-w32k-l50", "layer3", monkeypatch)
    sae = same(given, loaded, x)
    assert sae.choice.k == 50
    about = formats.metadata(given.path)
    assert about["model_name"] == loaded.cfg.metadata.model_name
    assert about["hook_name"] == loaded.cfg.metadata.hook_name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_llama_scope(dtype: torch.dtype, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = layouts.llama_scope(tmp_path, w(), dtype)
    same(given, theirs(given, "llama_scope_lxr_8x", "l15r_8x", monkeypatch), x)


def test_llama_scope_counts_decoder_norms_where_its_file_says_so_and_saelens_does_not(
    x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows of norm 1 that is no difference; with others, Llamascopium's rule is the one that wrote the files."""
    drawn = w()
    unit = layouts.Weights(drawn.E, drawn.b, drawn.D / drawn.D.norm(dim=1, keepdim=True), drawn.c, drawn.t)
    given = layouts.llama_scope(tmp_path / "unit", unit, torch.float32, with_norms=True)
    same(given, theirs(given, "llama_scope_lxr_8x", "l15r_8x", monkeypatch), x)
    other = layouts.llama_scope(tmp_path / "other", drawn, torch.float32, with_norms=True)
    loaded = theirs(other, "llama_scope_lxr_8x", "l15r_8x", monkeypatch)
    with torch.no_grad():
        assert not torch.allclose(formats.load(other.path)(x).x_hat, loaded(x), rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_llama_scope_r1(dtype: torch.dtype, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = layouts.llamascopium(tmp_path, w(), dtype, version=1, with_norms=False)
    same(given, theirs(given, "llama_scope_r1_distill", "l5r_800m_slimpajama", monkeypatch), x)


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("goodfire-llama-3.1-8b-instruct", "Llama-3.1-8B-Instruct-SAE-l19.pth"),
        ("deepseek-r1-distill-llama-8b-qresearch", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"),
    ],
)
def test_goodfire(release: str, name: str, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    given = layouts.goodfire(tmp_path, w(), name=name)
    (sae_id,) = get_pretrained_saes_directory()[release].saes_map
    loaded = theirs(given, release, sae_id, monkeypatch)
    same(given, loaded, x)
    about = formats.metadata(given.path)
    assert about["model_name"] == loaded.cfg.metadata.model_name
    assert about["hook_name"] == loaded.cfg.metadata.hook_name


def test_attention_autoencoders(x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = layouts.hook_z(tmp_path, w())
    loaded = theirs(given, "gpt2-small-hook-z-kk", "blocks.1.hook_z", monkeypatch)
    same(given, loaded, x)


@pytest.mark.parametrize("name", DICTIONARY_LEARNING)
def test_dictionary_learning(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its loader in SAELens reads what the library wrote."""
    folder = shutil.copytree(FIXTURES / f"dictionary-learning-{name}", tmp_path / "resid_post_layer_3" / "trainer_1")
    config = json.loads((folder / "config.json").read_text())
    config["trainer"] |= {"activation_dim": 6, "dict_size": 10}
    (folder / "config.json").write_text(json.dumps(config))
    given = Published("dictionary-learning", tmp_path, folder, lambda x: (x, x), {})
    release, sae_id = "llama-3.1-8b-instruct-andyrdt", "resid_post_layer_3_trainer_1"
    loaded = theirs(given, release, sae_id, monkeypatch, d_in=6, d_sae=10)
    same(given, loaded, torch.randn(300, 6, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("act_fn", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("with_norms", [True, False])
@pytest.mark.parametrize(
    ("norm", "out"), [("dataset-wise", None), ("inference", None), ("token-wise", None), ("dataset-wise", 1.9)]
)
def test_llamascopium(norm: str, out: float | None, with_norms: bool, act_fn: str, x: Tensor, tmp_path: Path) -> None:
    """Its own class, reading the folder; it scales inputs and outputs outside of the module."""
    theirs = pytest.importorskip("llamascopium.models.sae")
    drawn = layouts.weights(D, 4 * D, seed=4)
    options = {"act_fn": act_fn, "with_norms": with_norms, "norm": norm, "out": out}
    given = layouts.llamascopium(tmp_path, drawn, **options)
    config = json.loads((given.path / "config.json").read_text())
    (given.path / "config.json").write_text(json.dumps(config | {"device": "cpu", "dtype": "torch.float32"}))
    loaded = theirs.SparseAutoEncoder.from_local(str(given.path), device="cpu", dtype=torch.float32)
    sae = formats.load(given.path)
    with torch.no_grad():
        acts = loaded.encode(x * loaded.compute_norm_factor(x, config["hook_point_in"]))
        written = loaded.decode(acts) / loaded.compute_norm_factor(x, config["hook_point_out"])
        found = sae(x)
    mine = found.codes.to_dense()
    assert float((mine - acts).abs().max()) <= RELATIVE * float(acts.abs().max())
    ours = found.y_hat if sae.takes_pairs else found.x_hat
    assert float((ours - written).abs().max()) <= RELATIVE * float(written.abs().max())
    assert torch.equal((mine > 0).sum(dim=1), (acts > 0).sum(dim=1))
    assert isinstance(sae, st.SparseAutoencoder if out is None else st.Transcoder)


@pytest.mark.parametrize("out", [None, 1.9])
@pytest.mark.parametrize("with_norms", [True, False])
def test_llamascopium_reads_the_weights_of_llama_scope_as_we_do(
    with_norms: bool, out: float | None, x: Tensor, tmp_path: Path
) -> None:
    """Its class, given what the library that published them made of them: folded norms, a threshold in raw units."""
    sae_module = pytest.importorskip("llamascopium.models.sae")
    threshold, drawn = 0.4, layouts.weights(D, 4 * D, seed=4)
    given = layouts.llama_scope(tmp_path, drawn, torch.float32, with_norms, threshold, out)
    cfg = sae_module.SAEConfig(
        d_model=D, expansion_factor=4, hook_point_in="a", hook_point_out="b", act_fn="jumprelu", device="cpu",
        dtype=torch.float32, norm_activation="dataset-wise", sparsity_include_decoder_norm=with_norms,
    )  # fmt: skip
    loaded = sae_module.SparseAutoEncoder(cfg)
    stored = drawn.stored(torch.float32)
    with torch.no_grad():
        for parameter, value in (
            (loaded.W_E, stored.E),
            (loaded.b_E, stored.b),
            (loaded.W_D, stored.D),
            (loaded.b_D, stored.c),
        ):
            parameter.copy_(value)
        loaded.activation_function.log_jumprelu_threshold.fill_(float(np.log(threshold)))
        loaded.set_dataset_average_activation_norm({"a": NORM, "b": out or NORM})
        loaded.standardize_parameters_of_dataset_norm()
        found, acts, written = formats.load(given.path)(x), loaded.encode(x), loaded(x)
    mine = found.codes.to_dense() * NORM / D**0.5  # its activations are those of inputs that are not scaled
    assert float((mine - acts).abs().max()) <= RELATIVE * float(acts.abs().max())
    ours = found.x_hat if out is None else found.y_hat
    assert float((ours - written).abs().max()) <= RELATIVE * float(written.abs().max())
