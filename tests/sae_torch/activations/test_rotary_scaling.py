"""GGUF files with scaled rotary positions: the logits of the same weights in a transformers model that scales."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_torch.activations import load_language_model
from sae_torch.activations.gguf_header import GgufHeader
from sae_torch.activations.language_model import model_provenance
from sae_torch.activations.rotary_scaling import RotaryScaling
from sae_torch.errors import InputError

WIDTH, HEADS, BLOCKS, INNER, THETA = 32, 2, 2, 48, 10000.0
HEAD = WIDTH // HEADS
TOKENS = ["<s>", "</s>", "a", "b", "c", "ab"]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}


def gguf_file(path: Path, family: str = "llama", factors: Any = None, **scaling: Any) -> Path:
    """A tiny random model, the same one each time, as converters write it."""
    import gguf

    writer = gguf.GGUFWriter(path, family)
    writer.add_name("tiny")
    for name, number in (("context_length", 512), ("embedding_length", WIDTH), ("block_count", BLOCKS)):
        writer.add_uint32(f"{family}.{name}", number)
    for name, number in (("feed_forward_length", INNER), ("rope.dimension_count", HEAD), ("vocab_size", len(TOKENS))):
        writer.add_uint32(f"{family}.{name}", number)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(THETA)
    for name, value in scaling.items():
        key = f"{family}.rope.{name}" if name == "scale_linear" else f"{family}.rope.scaling.{name}"
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, bool: writer.add_bool}
        add[type(value)](key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    random = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        values = np.ones(shape) if "norm" in name else random.normal(size=shape) * 0.4
        writer.add_tensor(name, values.astype(np.float32))

    for name in ("token_embd", "output"):
        tensor(f"{name}.weight", len(TOKENS), WIDTH)
    tensor("output_norm.weight", WIDTH)
    for block in range(BLOCKS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{block}.{name}.weight", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            tensor(f"blk.{block}.{name}.weight", INNER, WIDTH)
        tensor(f"blk.{block}.ffn_down.weight", WIDTH, INNER)
        for name in ("attn_norm", "ffn_norm"):
            tensor(f"blk.{block}.{name}.weight", WIDTH)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_factors() -> list[float]:
    """What llama.cpp's converter writes for `LLAMA3`."""
    found = []
    for index in range(HEAD // 2):
        wavelength = 2 * math.pi * THETA ** (2 * index / HEAD)
        share = LLAMA3["original_max_position_embeddings"] / wavelength
        smooth = min(1.0, max(0.0, (share - 1.0) / 3.0))
        found.append(1.0 / ((1.0 - smooth) / 8.0 + smooth))
    return found


def logits(model: Any) -> torch.Tensor:
    ids = torch.randint(0, len(TOKENS), (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).logits  # type: ignore[no-any-return]


YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 128, "finetuned": True}
SCALED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama 3.1": ({"factors": llama3_factors()}, LLAMA3),
    "linear": ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    "without a type": ({"factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    "of old": ({"scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    "yarn": (YARN, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}),
    "yarn with betas": (
        YARN | {"yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0, "attn_factor": 1.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16, "beta_slow": 2},
    ),
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_positions_of_a_gguf_file_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    import transformers

    written, parameters = SCALED[name]
    loaded = load_language_model(str(gguf_file(tmp_path / "scaled.gguf", **written)), torch.float32).model
    plain = load_language_model(str(gguf_file(tmp_path / "plain.gguf")), torch.float32).model
    config = plain.config.to_dict() | {"rope_parameters": {"rope_theta": THETA, **parameters}}
    expected = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()
    expected.load_state_dict(plain.state_dict())
    torch.testing.assert_close(logits(loaded), logits(expected), rtol=1e-4, atol=1e-4)
    assert (logits(loaded) - logits(plain)).abs().max() > 0.01
    assert model_provenance(str(tmp_path / "scaled.gguf"))["rotary_scaling"] == "of the file"
    assert "rotary_scaling" not in model_provenance(str(tmp_path / "plain.gguf"))


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ({"type": "longrope", "factor": 4.0, "original_context_length": 128}, "longrope"),
        ({"type": "yarn", "factor": 4.0}, "yarn without original_context_length"),
        (YARN | {"yarn_log_multiplier": 0.1}, "yarn with yarn_log_multiplier"),
        ({"type": "linear", "factor": 2.0, "attn_factor": 1.2}, "linear with attn_factor"),
        ({"factors": np.full(HEAD, 2.0)}, "16 factors of frequencies that LlamaForCausalLM lacks"),
    ],
)
def test_a_scaling_that_cannot_be_filled_in_is_refused(written: dict[str, Any], found: str, tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "scaled.gguf", **written)
    with pytest.raises(InputError, match=f"^model .*scaled.gguf: expected rotary positions .*, found {found};"):
        load_language_model(str(file), torch.float32)


@pytest.mark.parametrize("written", [{"type": "none"}, {"type": "linear", "factor": 1.0}, {"factors": np.ones(8)}])
def test_a_scaling_by_one_is_none(written: dict[str, Any], tmp_path: Path) -> None:
    assert not RotaryScaling.of(gguf_file(tmp_path / "plain.gguf", **written)).provenance


def test_of_layers_with_and_without_a_window_those_without_are_scaled(tmp_path: Path) -> None:
    """Gemma 3 from 4B."""
    import transformers

    config = transformers.Gemma3TextConfig(num_hidden_layers=6)
    scaling = RotaryScaling.of(gguf_file(tmp_path / "gemma.gguf", "gemma3", type="linear", factor=8.0))
    scaling.configure(config)
    assert config.rope_parameters["full_attention"]["rope_type"] == "linear"
    assert config.rope_parameters["full_attention"]["factor"] == 8.0
    assert config.rope_parameters["sliding_attention"]["rope_type"] == "default"


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"GGML" + data[4:], lambda data: b"GG"])
def test_a_damaged_gguf_file_is_named(damage: Any, tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "damaged.gguf")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"damaged\.gguf: expected a GGUF file"):
        GgufHeader.read(file)
