from __future__ import annotations

import pytest
import torch
from torch import nn

from sae_torch.activations import LanguageModel, module_calls
from sae_torch.activations.layout import token_rows, with_token_rows
from sae_torch.activations.sites import hidden_state, hook_at, output_at, resolve_site, with_hidden_state
from sae_torch.errors import InputError
from tests.sae_torch.tiny_families import tiny


def test_hidden_states_are_those_of_transformers(tiny_language_model: LanguageModel) -> None:
    model = tiny_language_model.model
    token_ids = torch.randint(0, 61, (3, 7), generator=torch.Generator().manual_seed(0))
    states = model(input_ids=token_ids, output_hidden_states=True).hidden_states
    hooks = [len(module._forward_hooks) for module in model.modules()]
    for index in range(4):  # the fourth is after the final norm, so it is no block's output
        found = hidden_state(output_at(model, f"hidden_states[{index}]", token_ids))
        assert torch.equal(found, states[index]), index
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_model_whose_blocks_were_numbered_is_as_before(family: str) -> None:
    """Its hidden states have what a hook of the user's adds later, as those of a model that we never saw."""
    token_ids = torch.randint(0, 61, (2, 7), generator=torch.Generator().manual_seed(0))

    def edited(seen: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = tiny(family)
        if seen:
            resolve_site(model, "hidden_states[1]")
        block = next(m for m in model.modules() if isinstance(m, nn.ModuleList))[0]
        block.register_forward_hook(
            lambda module, inputs, out: (out[0] + 1, *out[1:]) if isinstance(out, tuple) else out + 1
        )
        with torch.no_grad():
            states: torch.Tensor = model(input_ids=token_ids, output_hidden_states=True).hidden_states[1]
        return states

    assert torch.equal(edited(True), edited(False))


def test_later_blocks_do_not_run(tiny_language_model: LanguageModel) -> None:
    model = tiny_language_model.model
    ran = []
    handle = model.get_submodule("model.layers.2").register_forward_hook(lambda *_: ran.append(1))
    try:
        output_at(model, "model.layers.1", torch.ones(1, 4, dtype=torch.long))
        assert ran == []
        output_at(model, "model.layers.2", torch.ones(1, 4, dtype=torch.long))
        assert ran == [1]
    finally:
        handle.remove()


def test_unknown_sites_are_refused_with_what_there_is(tiny_language_model: LanguageModel) -> None:
    model = tiny_language_model.model
    with pytest.raises(InputError, match=r"site: expected an index from 0 to 3, since LlamaForCausalLM has 4 blocks"):
        resolve_site(model, "hidden_states[4]")
    with pytest.raises(InputError, match=r"site: expected .* one of model, lm_head, found .* no module of LlamaFor"):
        resolve_site(model, "transformer.h.3")
    with pytest.raises(InputError, match=r"expected a list of None blocks in Linear, .* found none"):
        resolve_site(nn.Linear(2, 2), "hidden_states[1]")


def test_a_site_that_is_never_reached_is_refused(tiny_language_model: LanguageModel) -> None:
    model = tiny_language_model.model
    model.unused = nn.Linear(2, 2)
    try:
        with pytest.raises(InputError, match="site: expected a module that the forward pass reaches, found 'unused'"):
            output_at(model, "unused", torch.ones(1, 4, dtype=torch.long))
    finally:
        del model.unused


def test_tensor_and_tuple_outputs_keep_their_form() -> None:
    x, y = torch.zeros(2), torch.ones(2)
    assert hidden_state(x) is x
    assert hidden_state((x, "cache")) is x
    assert with_hidden_state(x, y) is y
    assert with_hidden_state((x, "cache"), y) == (y, "cache")
    with pytest.raises(TypeError, match="expected a tensor or a tuple of one, found dict"):
        hidden_state({})


@pytest.mark.parametrize("kind", ["XLMWithLMHeadModel", "Gemma3ForConditionalGeneration", "OpenAIGPTLMHeadModel"])
def test_hidden_states_are_those_of_transformers_in_every_family(kind: str) -> None:
    # XLM has four lists of its depth, Gemma 3 a vision tower of the same depth, a block of GPT returns a list
    model = tiny(kind)
    ids = torch.randint(3, 61, (2, 5), generator=torch.Generator().manual_seed(0))
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    for index in range(1 if kind.startswith("XLM") else 0, 4):
        assert torch.equal(hidden_state(output_at(model, f"hidden_states[{index}]", ids)), states[index])
    output = output_at(model, "hidden_states[2]", ids)
    assert type(with_hidden_state(output, hidden_state(output))) is type(output)


@pytest.mark.parametrize(
    ("kind", "site", "match"),
    [
        ("XLMWithLMHeadModel", 0, r"expected what enters transformer.layer_norm2.0 in 'hidden_states\[0\]'"),
        ("RwkvForCausalLM", 2, r"expected the output of rwkv.blocks.1 .*, found the output of rwkv.blocks.2"),
        ("MambaForCausalLM", 2, "expected the output of backbone.layers.1 .*, found the output of backbone.layers.2"),
        ("XLNetLMHeadModel", 2, r"expected a model whose activations have shape \(windows, length, d_model\)"),
        ("BartForConditionalGeneration", 2, "expected a model with one stack of blocks"),
    ],
)
def test_hidden_states_that_are_no_output_of_a_block_are_said(kind: str, site: int, match: str) -> None:
    with pytest.raises(InputError, match=match):
        resolve_site(tiny(kind), f"hidden_states[{site}]")


def test_comparing_once_leaves_random_numbers_and_modes_alone(tiny_language_model: LanguageModel) -> None:
    model = tiny("GPT2LMHeadModel").train()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert resolve_site(model, "hidden_states[2]") is model.transformer.h[1]
    assert torch.equal(torch.rand(3), expected)
    assert model.training


def test_a_module_that_a_pass_calls_again_is_refused() -> None:
    # ALBERT's layers share one block: reading would meet its first call, replacing all four
    model = tiny("AlbertForMaskedLM").train()
    ids = torch.randint(3, 61, (2, 5), generator=torch.Generator().manual_seed(0))
    shared = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    refusal = rf"calls once, found '{shared}', which AlbertForMaskedLM calls 4 times"
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with pytest.raises(InputError, match=refusal):
        output_at(model, shared, ids)
    assert torch.equal(torch.rand(3), expected)
    with pytest.raises(InputError, match=refusal):
        hook_at(model, shared, lambda *_: None)
    once = output_at(model.eval(), "albert.encoder.embedding_hidden_mapping_in", ids)
    assert torch.equal(once, model.albert.encoder.embedding_hidden_mapping_in(model.albert.embeddings(ids)))


def test_counting_calls_runs_no_hook_of_the_caller_and_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("OPTForCausalLM")
    place = model.get_submodule("model.decoder.layers.1.fc2")
    seen: list[str] = []
    place.register_forward_hook(lambda *_: seen.append("after"))
    model.register_forward_pre_hook(lambda *_: seen.append("before"))
    module_calls.require_single_call(model, place, "fc2")
    assert not seen
    model(input_ids=torch.zeros(1, 3, dtype=torch.long))
    assert seen == ["before", "after"]
    tries: list[nn.Module] = []

    def fails(model: nn.Module) -> None:
        tries.append(model)
        raise RuntimeError

    monkeypatch.setattr(module_calls, "short_pass", fails)
    other = tiny("OPTForCausalLM")
    for _ in range(2):
        module_calls.require_single_call(other, other.get_submodule("model.decoder.layers.1.fc2"), "fc2")
    assert tries == [other]


@pytest.mark.parametrize(
    ("kind", "site"),
    [("OPTForCausalLM", "model.decoder.layers.1.fc2"), ("Qwen3ForCausalLM", "model.layers.1.self_attn.q_norm")],
)
def test_sites_of_two_and_four_axes_have_a_row_for_each_token(kind: str, site: str) -> None:
    model = tiny(kind)
    ids = torch.randint(3, 61, (2, 5), generator=torch.Generator().manual_seed(0))
    held = output_at(model, site, ids)
    rows = token_rows(held, 2, 5)
    assert rows.shape == (2, 5, 16)
    alone = token_rows(output_at(model, site, ids[1:]), 1, 5)
    torch.testing.assert_close(rows[1:], alone)
    assert torch.equal(with_token_rows(held, rows), held)
    transposed = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4)
    assert torch.equal(token_rows(transposed, 2, 5)[1, 4], transposed[1, :, 4].reshape(-1))
    assert torch.equal(with_token_rows(transposed, token_rows(transposed, 2, 5)), transposed)
    with pytest.raises(InputError, match=r"a row for each of 2 x 5 tokens, found shape \(2, 16\)"):
        token_rows(torch.zeros(2, 16), 2, 5)
