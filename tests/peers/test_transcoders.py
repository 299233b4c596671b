"""Transcoders of ours in the real SAELens, sparsify and circuit-tracer, and theirs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.interop import circuit_tracer, formats, sparsify
from sae_torch.interop.module_places import place_of

CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-4}
D, F, K = 12, 48, 5
ABOUT = {"model_name": "m", "hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
CHOICES: dict[str, Any] = {
    "token": lambda: st.TokenChoice(K),
    "mutual": lambda: st.MutualChoice(K),
    "feature": lambda: st.FeatureChoice(K, quotas="uniform", switch=0),
}


def made(choice: str, skip: bool, d_out: int = D, unit_rows: bool = True) -> tuple[st.Transcoder, Tensor]:
    """Random weights of odd scales, thresholds that lie away from the scores of the inputs."""
    transcoder = st.Transcoder(D, d_out, F, CHOICES[choice](), skip)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for number, weight in enumerate(transcoder.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.5 + 0.4 * number))
        if unit_rows:
            transcoder.normalise_decoder()
    x = torch.randn(600, D, generator=generator) * 3 + 1
    st.calibrate(transcoder, [x[:300]])
    return transcoder.eval(), x[300:]


def ours(transcoder: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations in units where decoder rows have norm 1, and the reconstruction."""
    with torch.no_grad():
        out = transcoder(x)
        return out.codes.to_dense() * transcoder.W_dec.norm(dim=1), out.y_hat


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("choice", ["mutual", "feature"])
def test_saelens_loads_our_transcoders(choice: str, skip: bool, tmp_path: Path) -> None:
    from sae_lens import SAE

    for d_out, unit_rows in ((D, True), (7, False)):
        transcoder, x = made(choice, skip, d_out, unit_rows)
        folder = st.save(transcoder, tmp_path / str(d_out), ABOUT)
        theirs = SAE.load_from_disk(folder)
        assert theirs.cfg.architecture() == f"jumprelu_{'skip_' if skip else ''}transcoder"
        assert theirs.cfg.metadata.hook_name_out == "blocks.0.hook_mlp_out"
        acts, y_hat = ours(transcoder, x)
        with torch.no_grad():
            torch.testing.assert_close(theirs.encode(x), acts, **CLOSE)
            torch.testing.assert_close(theirs(x), y_hat, **CLOSE)


@pytest.mark.parametrize("name", ["Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"])
def test_transcoders_of_saelens_load_here(name: str, tmp_path: Path) -> None:
    import sae_lens.saes.transcoder as module

    config = getattr(module, f"{name}Config")(d_in=D, d_out=7, d_sae=F, apply_b_dec_to_input=False)
    theirs = getattr(module, name)(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))  # thresholds of both signs
    theirs.save_model(str(tmp_path))
    again = st.load(tmp_path, k=K)
    x = torch.randn(300, D, generator=generator) * 3 + 1
    acts, y_hat = ours(again, x)
    with torch.no_grad():
        expected = theirs.encode(x)
        torch.testing.assert_close(acts, expected * again.W_dec.norm(dim=1), **CLOSE)
        torch.testing.assert_close(y_hat, theirs(x), **CLOSE)
    assert int((acts > 0).sum()) == int((expected > 0).sum())


@pytest.mark.parametrize("skip", [False, True])
def test_sparsify_both_ways(skip: bool, tmp_path: Path) -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    transcoder, x = made("token", skip)
    theirs = SparseCoder.load_from_disk(sparsify.save(transcoder, tmp_path / "ours"))
    with torch.no_grad():
        torch.testing.assert_close(theirs(x).sae_out, ours(transcoder, x)[1], **CLOSE)
    for transcode in (True, False):
        config = SparseCoderConfig(num_latents=F, k=K, transcode=transcode, skip_connection=skip)
        theirs = SparseCoder(D, config)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))
            theirs.set_decoder_norm_to_unit_norm()
        theirs.save_to_disk(tmp_path / f"theirs-{transcode}")
        again = sparsify.load(tmp_path / f"theirs-{transcode}")
        assert isinstance(again, st.Transcoder) == (transcode or skip)
        with torch.no_grad():
            torch.testing.assert_close(again(x).x_hat, theirs(x).sae_out, **CLOSE)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("choice", ["mutual", "feature"])
def test_circuit_tracer_loads_our_set(choice: str, skip: bool, tmp_path: Path) -> None:
    from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set

    layers = []
    for layer in range(2):
        transcoder, x = made(choice, skip, unit_rows=layer == 0)
        about = {name: value.replace("blocks.0", f"blocks.{layer}") for name, value in ABOUT.items()}
        circuit_tracer.save(transcoder, tmp_path, about)
        layers.append(transcoder)
    files = {layer: str(tmp_path / f"layer_{layer}.safetensors") for layer in range(2)}
    theirs = load_transcoder_set(files, "scan", "mlp.hook_in", "hook_mlp_out", torch.device("cpu"))
    for layer, transcoder in enumerate(layers):
        acts, y_hat = ours(transcoder, x)
        with torch.no_grad():
            torch.testing.assert_close(theirs[layer].encode(x), acts, **CLOSE)
            torch.testing.assert_close(theirs[layer](x), y_hat, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("jumps", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_layers_of_circuit_tracer_load_here(skip: bool, jumps: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet

    generator = torch.Generator().manual_seed(9)
    activation = JumpReLU(torch.rand(F, generator=generator).to(dtype)) if jumps else torch.relu
    theirs = SingleLayerTranscoder(D, F, activation, 0, skip, device=torch.device("cpu"), dtype=dtype)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "threshold" not in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))
    TranscoderSet({0: theirs}, "mlp.hook_in", "hook_mlp_out").to_safetensors(str(tmp_path))
    again = formats.load(tmp_path, k=K, layer=0).float()
    x = torch.randn(300, D, generator=generator) * 3 + 1
    theirs = theirs.float()
    acts, y_hat = ours(again, x)
    with torch.no_grad():
        expected = theirs.encode(x)
        torch.testing.assert_close(acts, expected * again.W_dec.norm(dim=1), **CLOSE)
        torch.testing.assert_close(y_hat, theirs(x), **CLOSE)
    assert int((acts > 0).sum()) == int((expected > 0).sum())


def test_modules_are_the_places_that_circuit_tracer_takes_them_for() -> None:
    """Its own table of families, as far as a place there is a module's output."""
    from circuit_tracer.utils.tl_nnsight_mapping import get_mapping, get_supported_architectures

    compared = 0
    for architecture in get_supported_architectures():
        places: dict[str, set[str]] = {}
        for hook, (location, side) in get_mapping(architecture).feature_hook_mapping.items():
            if side == "output" and ".source." not in location:
                places.setdefault(location.partition("{layer}].")[2], set()).add(hook)
        for module, hooks in places.items():
            assert place_of(module, architecture.removesuffix("ForCausalLM").lower()) in hooks, (architecture, module)
            compared += 1
    assert compared >= 9


@pytest.mark.parametrize("sandwiched", [False, True])
def test_the_sides_of_the_mlp_in_its_model(sandwiched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlp.hook_out` lies before the norm that Gemma 2 and 3 have behind the MLP, `hook_mlp_out` behind it."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_ENABLE_HF_TRANSFER", False, raising=False)  # gone since
    from circuit_tracer.replacement_model.replacement_model_transformerlens import ReplacementMLP
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes = {"n_layers": 1, "d_model": D, "n_ctx": 8, "d_head": 4, "n_heads": 3, "d_mlp": 20, "d_vocab": 30}
    options = {"act_fn": "relu", "normalization_type": "RMS", "use_normalization_before_and_after": sandwiched}
    model = HookedTransformer(HookedTransformerConfig(**sizes, **options, seed=0))
    (block,) = model.blocks
    block.mlp = ReplacementMLP(block.mlp)
    model.setup()
    kept: dict[str, Tensor] = {}
    for name in ("mlp.hook_in", "mlp.hook_out", "hook_mlp_out", "hook_resid_mid"):
        model.add_hook(f"blocks.0.{name}", lambda value, hook, name=name: kept.setdefault(name, value))
    with torch.no_grad():
        model(torch.arange(8)[None])
    norm = block.ln2_post if sandwiched else torch.nn.Identity()
    torch.testing.assert_close(kept["hook_mlp_out"], norm(kept["mlp.hook_out"]))
    torch.testing.assert_close(kept["mlp.hook_in"], block.ln2(kept["hook_resid_mid"]))
    assert torch.equal(kept["hook_mlp_out"], kept["mlp.hook_out"]) != sandwiched
