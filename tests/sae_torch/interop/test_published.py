"""Published families: their own formula, written out in `layouts`, against what is read; every convention can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import sae_torch as st
from sae_torch.activations import ArrayRows
from sae_torch.cli import main
from sae_torch.evaluation.batch_mode import batch_sensitivity
from sae_torch.interop import formats
from tests.sae_torch.interop import layouts
from tests.sae_torch.interop.layouts import Published, Weights

D, F = 6, 20
# Ranked, or scaled by their own norms, so that no input lies at a threshold.
WITHOUT_UNITS = ("top k", "qwen", "token-wise")
FOLDER = "layer_12_width_16k_l0_big"
Layout = Callable[..., Published]
CASES: dict[str, tuple[Layout, dict[str, Any]]] = {
    "gemma-scope": (layouts.gemma_scope, {}),
    "gemma-scope small letters, fp16": (layouts.gemma_scope, {"small": True, "dtype": torch.float16}),
    "gemma-scope mlp": (layouts.gemma_scope, {"site": "mlp"}),
    "gemma-scope attention": (layouts.gemma_scope, {"site": "att"}),
    "gemma-scope embeddings": (layouts.gemma_scope, {"folder": "embedding/width_4k/average_l0_6"}),
    "gemma-scope transcoder": (layouts.gemma_scope, {"site": "transcoders"}),
    "gemma-scope ones": (layouts.gemma_scope, {"scaling_factor": torch.ones(F)}),
    "gemma-scope-2": (layouts.gemma_scope_2, {}),
    "gemma-scope-2 bf16": (layouts.gemma_scope_2, {"dtype": torch.bfloat16, "folder": f"mlp_out/{FOLDER}"}),
    "gemma-scope-2 no config": (layouts.gemma_scope_2, {"config": False, "folder": f"attn_out_all/{FOLDER}"}),
    "gemma-scope-2 transcoder": (layouts.gemma_scope_2, {"folder": f"transcoder_all/{FOLDER}"}),
    "gemma-scope-2 transcoder, skip": (
        layouts.gemma_scope_2,
        {"folder": f"transcoder/{FOLDER}_affine", "skip": True, "dtype": torch.bfloat16, "config": False},
    ),
    "qwen-scope": (layouts.qwen_scope, {}),
    "qwen-scope bf16": (layouts.qwen_scope, {"dtype": torch.bfloat16}),
    "llama-scope": (layouts.llama_scope, {}),
    "llama-scope norms": (layouts.llama_scope, {"with_norms": True}),
    "llama-scope transcoder": (layouts.llama_scope, {"out": 1.9, "dtype": torch.float32}),
    "llama-scope transcoder, norms": (layouts.llama_scope, {"out": 1.9, "with_norms": True}),
    "llama-scope top k": (layouts.llama_scope, {"act_fn": "topk", "dtype": torch.float32}),
    "llama-scope r1": (layouts.llamascopium, {"version": 1, "with_norms": False}),
    "llama-scope r1 norms, bf16": (layouts.llamascopium, {"version": 1, "dtype": torch.bfloat16}),
    "llamascopium": (layouts.llamascopium, {}),
    "llamascopium inference": (layouts.llamascopium, {"norm": "inference"}),
    "llamascopium transcoder": (layouts.llamascopium, {"out": 1.9}),
    "llamascopium token-wise": (layouts.llamascopium, {"norm": "token-wise"}),
    "llamascopium relu": (layouts.llamascopium, {"act_fn": "relu"}),
    "llamascopium top k": (layouts.llamascopium, {"act_fn": "topk"}),
    "llamascopium top k without norms": (layouts.llamascopium, {"act_fn": "topk", "with_norms": False}),
    "goodfire": (layouts.goodfire, {}),
    "deepseek bf16": (layouts.goodfire, {"dtype": torch.bfloat16, "name": "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"}),
    "hook-z": (layouts.hook_z, {}),
}  # fmt: skip


def inputs(count: int = 300, seed: int = 5, d: int = D) -> Tensor:
    return 2.0 * torch.randn(count, d, generator=torch.Generator().manual_seed(seed)) + 0.5


def published(name: str, root: Path, w: Weights | None = None) -> Published:
    layout, options = CASES[name]
    w = w or layouts.weights(D, F, seed=1)
    if "skip" in options:
        drawn = torch.randn(len(w.c), len(w.c), generator=torch.Generator().manual_seed(11))
        options = options | {"skip": drawn}
    return layout(root, w, **options)


def agrees(sae: st.SparseAutoencoder, dense: layouts.Dense, x: Tensor) -> bool:
    """Activations, reconstructions and the number of active features, all of them."""
    acts, x_hat = dense(x.double())
    with torch.no_grad():
        out = sae(x)
    mine = out.codes.to_dense()
    close = {"rtol": 1e-5, "atol": 1e-5}
    same = mine.shape == acts.shape and bool(((mine > 0) == (acts > 0)).all())
    return same and torch.allclose(mine.double(), acts, **close) and torch.allclose(out.x_hat.double(), x_hat, **close)


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_is_the_function_of_the_family_here_and_after_an_import(name: str, tmp_path: Path) -> None:
    given = published(name, tmp_path)
    sae = formats.load(given.path, k=5, dtype=torch.float32)
    assert agrees(sae, given.dense, inputs())
    assert not sae.training
    main(["import", str(given.path), "--out", str(tmp_path / "imported"), "--k", "5", "--dtype", "float32"])
    again = st.load(tmp_path / "imported")
    assert type(again.choice) is type(sae.choice)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs()).x_hat, sae(inputs()).x_hat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_path_and_files_say_model_site_and_number(name: str, tmp_path: Path) -> None:
    given = published(name, tmp_path)
    about = formats.metadata(given.path)
    assert {key: about.get(key) for key in given.expected} == given.expected
    found = formats.describe(given.path)
    kind = "transcoder" if "transcoder" in name else "autoencoder"
    assert (found.format, found.d_model, found.n_features, found.kind) == (given.format, D, F, kind)
    assert (found.model, found.site, found.layer) == tuple(
        given.expected.get(key) for key in ("model_name", "hook_name", "hook_layer")
    )
    assert found.k == given.expected.get("l0")


@pytest.mark.parametrize("name", CASES)
def test_every_convention_shows(name: str, tmp_path: Path) -> None:
    """The same files, other weights in the formula: were one read so, the first test would fail."""
    w = layouts.weights(F, F, seed=2)  # square, so that a matrix that is not turned has its shape
    given, x = published(name, tmp_path / "given", w), inputs(d=F)
    sae = formats.load(given.path, k=5, dtype=torch.float32)
    assert agrees(sae, given.dense, x)
    if "skip" in name:
        drawn = torch.randn(F, F, generator=torch.Generator().manual_seed(11))
        turned = CASES[name][1] | {"skip": drawn.T}
        assert not agrees(sae, layouts.gemma_scope_2(tmp_path / "turned", w, **turned).dense, x)
    centred = Weights(w.E, w.b - w.c @ w.E, w.D, w.c, w.t)
    for number, wrong in enumerate(
        (centred, Weights(w.E.T, w.b, w.D, w.c, w.t), Weights(w.E, w.b, w.D.T, w.c, w.t),
         Weights(w.E, w.b, 1.05 * w.D, w.c, w.t), Weights(w.E, w.b, w.D, 1.05 * w.c, w.t),
         Weights(1.05 * w.E, w.b, w.D, w.c, w.t))
    ):  # fmt: skip
        assert not agrees(sae, published(name, tmp_path / str(number), wrong).dense, x)


@pytest.mark.parametrize("name", [name for name in CASES if not any(part in name for part in WITHOUT_UNITS)])
def test_a_score_at_the_threshold_is_not_above_it(name: str, tmp_path: Path) -> None:
    """Weights and inputs whose sums are exact: pre-activations of 0, 1 and 2 times the threshold."""
    eye, ones = torch.eye(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    given = published(name, tmp_path, Weights(eye, 0 * ones, eye, 0 * ones, ones))
    sae = formats.load(given.path, k=2, dtype=torch.float32)
    theta = sae.choice.batch_free().theta.expand(4)  # type: ignore[union-attr]
    with torch.no_grad():
        scale = float(sae.W_enc[0, 0] * sae.W_dec[0].norm())
        at, above = sae.encode((theta / scale).diag()), sae.encode((theta / scale * 1.001 + 1e-6).diag())
    assert int((at.values > 0).sum()) == 0
    assert int((above.values > 0).sum()) == 4


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_thresholds_below_zero_pass_no_negative_activation(sign: float, tmp_path: Path) -> None:
    w = layouts.weights(D, F)
    given = layouts.gemma_scope(tmp_path, Weights(w.E, w.b, w.D, w.c, sign * w.t.abs()))
    assert agrees(formats.load(given.path), given.dense, inputs())


def test_weights_keep_their_type_and_a_given_one_is_rounded_to_once(tmp_path: Path) -> None:
    given = published("llama-scope", tmp_path)
    assert formats.load(given.path).W_dec.dtype == torch.bfloat16
    assert formats.load(given.path, dtype=torch.float64).W_dec.dtype == torch.float64
    x = inputs().double()
    acts, _ = given.dense(x)
    with torch.no_grad():
        torch.testing.assert_close(
            formats.load(given.path, dtype=torch.float64).encode(x).to_dense(), acts, rtol=1e-6, atol=1e-6
        )


def test_a_layer_of_a_set_and_any_file_of_a_folder_stand_for_the_dictionary(tmp_path: Path) -> None:
    w = layouts.weights(D, F)
    given = layouts.llama_scope(tmp_path, w)
    for file in ("hyperparams.json", "checkpoints/final.safetensors"):
        assert formats.resolve(given.path / file) == ("llama-scope", given.path)
    layers = layouts.qwen_scope(tmp_path, w)
    (layers.repository / "layer10.sae.pt").write_bytes(layers.path.read_bytes())
    assert formats.describe(layers.repository, layer=10).site == "blocks.10.hook_resid_post"
    with pytest.raises(
        st.InputError, match=r"found 2 below it: layer10\.sae\.pt, layer3\.sae\.pt; name one, or its --layer"
    ):
        formats.load(layers.repository)


def test_what_ranks_without_norms_is_evaluated_in_batches_too(tmp_path: Path) -> None:
    sae = formats.load(layouts.qwen_scope(tmp_path, layouts.weights(D, F)).path)
    (found,) = batch_sensitivity(sae, ArrayRows((inputs(512).numpy(),)), batch_sizes=(256,), tokens=512)
    assert found.agreement == 1.0


def test_a_qwen_file_without_a_telling_folder_asks_for_k(tmp_path: Path) -> None:
    given = layouts.qwen_scope(tmp_path, layouts.weights(D, F), name="downloads/qwen")
    with pytest.raises(st.InputError, match=r"neither a folder SAE-Res.* nor a config\.json says k; pass --k"):
        formats.load(given.path)
    assert agrees(formats.load(given.path, k=5), given.dense, inputs())
    with pytest.raises(st.InputError, match=r"k: expected a whole number of features per token, found 4\.5"):
        formats.load(given.path, k=4.5)
    told = layouts.qwen_scope(tmp_path, layouts.weights(D, F), k=7, name="downloads/more", config=True)
    assert agrees(formats.load(told.path), told.dense, inputs())


def test_families_whose_files_say_no_number_ask_for_k(tmp_path: Path) -> None:
    for name in ("goodfire", "hook-z", "gemma-scope-2 no config"):
        with pytest.raises(st.InputError, match="mean number of features per token is not recorded"):
            formats.load(published(name, tmp_path / name).path)


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "file", "changes", "message"),
    [
        ("llama-scope", "hyperparams.json", {"jump_relu_threshold": None}, "jump_relu_threshold: expected a number"),
        ("llama-scope", "hyperparams.json", {"act_fn": "relu"}, "act_fn: expected jumprelu, .* found 'relu'"),
        ("llama-scope", "hyperparams.json", {"use_glu_encoder": True}, "use_glu_encoder: expected false"),
        ("llama-scope", "hyperparams.json", {"dataset_average_activation_norm": {}}, "a positive number, found None"),
        ("llama-scope", "hyperparams.json", {"norm_activation": "token-wise"}, "expected dataset-wise"),
        ("llamascopium", "config.json", {"norm_activation": "batch-wise"}, "expected dataset-wise, token-wise or inf"),
        ("llamascopium transcoder", "config.json", {"norm_activation": "token-wise"}, "expected dataset-wise or inf"),
        ("llamascopium", "config.json", {"sae_type": "clt"}, "sae_type: expected 'sae', found 'clt'"),
        ("llamascopium", "config.json", {"act_fn": "layertopk"}, "act_fn: expected relu, .* found 'layertopk'"),
        ("llamascopium", "config.json", {"hook_point_in": "blocks.5.ln2"}, "norm of activations at blocks.5.ln2"),
        ("gemma-scope-2", "config.json", {"type": "clt"}, "found a cross-layer transcoder"),
        ("gemma-scope-2", "config.json", {"type": "crosscoder"}, "found a crosscoder"),
        ("gemma-scope-2", "config.json", {"architecture": "topk"}, "architecture: expected 'jump_relu', found 'topk'"),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_one_sentence(
    name: str, file: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = published(name, tmp_path)
    edited(given.path / file, **changes)
    with pytest.raises(st.InputError, match=message):
        formats.load(given.path, k=4)


def test_transcoders_and_factors_of_gemma_scope_are_told_apart(tmp_path: Path) -> None:
    w = layouts.weights(D, F)
    given = layouts.gemma_scope(tmp_path, w, scaling_factor=torch.full((F,), 1.5))
    with pytest.raises(st.InputError, match="scaling_factor: expected ones"):
        formats.load(given.path)
    beside = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3" / "width_16k" / "average_l0_76"
    beside.mkdir(parents=True)
    (given.path / "params.npz").rename(beside / "params.npz")
    found = formats.describe(beside)
    assert (found.kind, found.site, found.layer) == ("transcoder", "blocks.3.ln2.hook_normalized", 3)


def cross_layer_set(root: Path) -> Path:
    """Three layers, the last of other width."""
    config = "model_name: google/gemma-2-2b\nmodel_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\n"
    (root / "config.yaml").write_text(config)
    for layer, features in enumerate((F, F, 2 * F)):
        encoder = {f"W_enc_{layer}": torch.zeros(features, D), f"b_enc_{layer}": torch.zeros(features)}
        encoder |= {f"b_dec_{layer}": torch.zeros(D), f"threshold_{layer}": torch.zeros(features)}
        save_file(encoder, root / f"W_enc_{layer}.safetensors")
        save_file({f"W_dec_{layer}": torch.zeros(features, 3 - layer, D)}, root / f"W_dec_{layer}.safetensors")
    return root


def gemma_scope_2(folder: str, **tensors: Tensor) -> Callable[[Path], Path]:
    """One of several layers; its configuration is missing, as in some folders."""

    def write(root: Path) -> Path:
        path = root / "gemma-scope-2-1b-pt" / folder
        path.mkdir(parents=True)
        biases = {"b_enc": torch.zeros(F), "threshold": torch.zeros(F)}
        save_file(biases | tensors, path / "params.safetensors")
        return path

    return write


CLT = {"w_enc": torch.zeros(D, F), "w_dec": torch.zeros(F, 3, D), "b_dec": torch.zeros(3, D)}
CROSS = {"w_enc": torch.zeros(4, D, F), "w_dec": torch.zeros(F, 4, D), "b_dec": torch.zeros(4, D)}
PARTS = {"w_enc_0": torch.zeros(D, F), "w_dec_0": torch.zeros(F, D), "b_dec_0": torch.zeros(D)}
SEVERAL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "circuit-tracer": (cross_layer_set, "found cross-layer transcoders, whose features write to several layers"),
    "gemma-scope-2 clt": (
        gemma_scope_2("clt/layer_5_width_262k_l0_big", **CLT),
        "found a cross-layer transcoder, whose features write to several layers",
    ),
    "gemma-scope-2 without a telling path": (
        gemma_scope_2("mine/layer_5_width_262k_l0_big", **CROSS),
        "found a crosscoder, whose features read and write several layers",
    ),
    "gemma-scope-2 crosscoder in parts": (
        gemma_scope_2("crosscoder/layer_7_13_width_65k_l0_medium", **PARTS),
        "found a crosscoder, whose features read and write several layers",
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_what_has_several_layers_is_described_and_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    write, message = SEVERAL[name]
    path = str(write(tmp_path / "there"))
    np.save("x.npy", np.zeros((8, D), np.float32))
    found = formats.describe(path)
    assert (found.d_model, found.n_features, found.activation) == (D, F, "jumprelu")
    assert found.lost[0].startswith("everything: ")
    assert main(["inspect", path]) == 0
    assert message.split(",")[0].removeprefix("found a ").removeprefix("found ").rstrip("s") in capsys.readouterr().out
    for words in (
        ["import", path, "--out", "out", "--k", "3"],
        ["export", path, "--format", "saelens", "--out", "out", "--k", "3"],
        ["evaluate", "--autoencoders", path, "--activations", "x.npy", "--k", "3"],
        ["report", "--evaluations", path, "--activations", "x.npy", "--out", "out"],
    ):
        assert main(words) == 2, words
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert line.endswith(message), words
        assert sorted(each.name for each in tmp_path.iterdir()) == ["there", "x.npy"]


def test_a_cross_layer_set_says_its_layers_and_what_is_missing(tmp_path: Path) -> None:
    found = formats.describe(cross_layer_set(tmp_path))
    assert (found.kind, found.model, found.site) == ("cross-layer transcoder", "google/gemma-2-2b", "hook_resid_mid")
    several = f"3 layers of {F}, {F}, {2 * F} features, which write to their layer and all that follow"
    assert found.conventions == (several,)
    (tmp_path / "W_enc_99999999999.safetensors").touch()  # no layer: as many files would be called missing
    assert formats.describe(tmp_path) == found
    (tmp_path / "W_dec_1.safetensors").unlink()
    assert formats.describe(tmp_path).defects == ("W_dec_1.safetensors is missing",)
    file = tmp_path / "W_enc_2.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(st.InputError, match=r"W_enc_2\.safetensors: not readable as safetensors"):
        formats.describe(tmp_path)


def test_a_layer_of_gemma_scope_2_says_to_how_many_it_writes(tmp_path: Path) -> None:
    found = formats.describe(gemma_scope_2("clt/layer_5_width_262k_l0_big", **CLT)(tmp_path))
    assert (found.model, found.layer, found.conventions) == ("google/gemma-3-1b-pt", 5, ("features write to 3 layers",))


def test_temporal_autoencoders_are_described_and_refused(tmp_path: Path) -> None:
    folder = tmp_path / "layer_12" / "temporal"
    folder.mkdir(parents=True)
    (folder / "conf.yaml").write_text("sae: {}\n")
    save_file(
        {"D": torch.zeros(F, D), "b": torch.zeros(D), "attn_layers.0.W": torch.zeros(2)},
        folder / "latest_ckpt.safetensors",
    )
    assert formats.describe(folder).layer == 12
    with pytest.raises(st.InputError, match="found a temporal one, whose attention reads the tokens before"):
        formats.load(folder, k=3)


@pytest.mark.parametrize(
    "name", ["gemma-scope", "gemma-scope-2", "qwen-scope", "llama-scope", "llamascopium", "hook-z"]
)
def test_half_a_file_is_named(name: str, tmp_path: Path) -> None:
    given = published(name, tmp_path)
    weights = max(
        (file for file in given.repository.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size
    )
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(st.InputError, match=weights.name):
        formats.load(given.path, k=4)


@pytest.mark.parametrize("missing", ["b_enc", "w_dec", "threshold"])
def test_a_missing_tensor_or_another_shape_is_named(missing: str, tmp_path: Path) -> None:
    given = published("gemma-scope-2", tmp_path)
    file = given.path / "params.safetensors"
    tensors = load_file(file)
    save_file(tensors | {missing: torch.zeros(3)}, file)
    with pytest.raises(st.InputError, match=rf"params\.safetensors: {missing}: expected shape .* found \(3,\)"):
        formats.load(given.path)
    del tensors[missing]
    save_file(tensors, file)
    with pytest.raises(st.InputError, match=f"expected a dictionary of|{missing}"):
        formats.load(given.path)
