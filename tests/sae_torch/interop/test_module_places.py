"""Modules of transformers against what passes through them in tiny models of many families."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.interop.module_places import place_of
from tests.sae_torch.tiny_families import tiny

FAMILIES = (
    "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM", "GptOssForCausalLM",
    "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "OlmoForCausalLM", "Olmo2ForCausalLM",
    "Olmo3ForCausalLM", "FlexOlmoForCausalLM", "Exaone4ForCausalLM", "GraniteForCausalLM", "Phi3ForCausalLM",
    "GPTNeoXForCausalLM", "Glm4ForCausalLM", "StableLmForCausalLM", "Starcoder2ForCausalLM",
)  # fmt: skip
MODULES = ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm", "mlp", "mlp.input")


def passed(model: Any, layer: int) -> dict[str, Tensor]:
    """What modules of a block take in and give out."""
    block = next(each for name, each in model.named_modules() if re.search(rf"layers\.{layer}$", name))
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple) else output
            if inputs:
                found[f"{name}.input"] = inputs[0]

        return hook

    for name, module in block.named_children():
        module.register_forward_hook(keep(name))
    model(input_ids=torch.arange(3, 10)[None])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_module_is_the_place_that_its_family_makes_it(family: str) -> None:
    model = tiny(family)
    found = passed(model, 2)
    named = {path: place_of(path, model.config.model_type) for path in MODULES if path in found}
    assert named["mlp"] == "mlp.hook_out"
    for path, place in named.items():
        if place == "mlp.hook_in":
            assert torch.equal(found[path], found["mlp.input"]), path
        elif place == "hook_attn_out":
            assert not torch.allclose(found[path], found["mlp.input"]), path
            attention = next(value for name, value in found.items() if name.endswith(("attn", "attention")))
            assert torch.equal(found[f"{path}.input"], attention)
        elif place == "hook_mlp_out":
            assert torch.equal(found[f"{path}.input"], found["mlp"]), path
    behind = named.get("post_attention_layernorm") == "hook_attn_out"
    assert behind == ("post_feedforward_layernorm" in found)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("google/gemma-2-2b", "hook_attn_out"),
        ("google/gemma-3-270m-it", "hook_attn_out"),
        ("allenai/OLMo-2-1124-7B", "hook_attn_out"),
        ("allenai/FlexOlmo-7x7B-1T", "hook_attn_out"),
        ("flex_olmo", "hook_attn_out"),
        ("allenai/OLMo-1B-hf", "mlp.hook_in"),
        ("olmo", "mlp.hook_in"),
        ("google/gemma-2b", "mlp.hook_in"),
        ("SmolLM2-135M-Instruct", "mlp.hook_in"),
        ("openai/gpt-oss-20b", "mlp.hook_in"),
        ("google/shieldgemma-2b", None),
        ("diffusion_gemma", None),
        ("diffusion-gemma-2b", None),
        ("olmo_hybrid", None),
        ("allenai/Olmo-Hybrid-7B", None),
        ("mine", None),
        (None, None),
    ],
)
def test_names_say_the_family_or_it_is_asked_for(model: str | None, place: str | None) -> None:
    if place is not None:
        assert place_of("post_attention_layernorm.output", model) == place
        return
    with pytest.raises(st.InputError, match=f"'post_attention_layernorm' of model {model!r}; pass --hook-name"):
        place_of("post_attention_layernorm", model)
    assert place_of("pre_feedforward_layernorm", model) == "mlp.hook_in"


def test_a_folder_says_its_family(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "gemma3_text"}')
    assert place_of("post_attention_layernorm", str(tmp_path / "mine")) == "hook_attn_out"
    (tmp_path / "mine" / "config.json").write_text("[]")
    with pytest.raises(st.InputError, match="pass --hook-name"):
        place_of("post_attention_layernorm", str(tmp_path / "mine"))


@pytest.mark.parametrize("hook", ["hook_resid_mid", "hook_mlp_out", "mlp.hook_in", "ln2.hook_normalized"])
def test_hooks_stay(hook: str) -> None:
    assert place_of(hook, None) == hook
