from __future__ import annotations

import pytest
import torch
from torch import nn

from sae_torch.activations import LanguageModel
from sae_torch.activations.sites import hidden_state, output_at, resolve_site, with_hidden_state
from sae_torch.errors import InputError


def test_hidden_states_are_those_of_transformers(tiny_language_model: LanguageModel) -> None:
    model = tiny_language_model.model
    token_ids = torch.randint(0, 61, (3, 7), generator=torch.Generator().manual_seed(0))
    states = model(input_ids=token_ids, output_hidden_states=True).hidden_states
    hooks = [len(module._forward_hooks) for module in model.modules()]
    for index in range(4):  # the fourth is after the final norm, so it is no block's output
        found = hidden_state(output_at(model, f"hidden_states[{index}]", token_ids))
        assert torch.equal(found, states[index]), index
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


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
