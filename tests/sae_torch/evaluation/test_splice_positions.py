"""The first token of a text keeps its activation, wherever a cache or padding puts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sae_torch.errors import InputError
from sae_torch.evaluation import splice
from tests.sae_torch.tiny_families import tiny

IDS = torch.randint(3, 61, (2, 7), generator=torch.Generator().manual_seed(0))
PADDING = torch.zeros(2, 2, dtype=torch.long)
MASK = torch.cat([PADDING, torch.ones_like(IDS)], dim=1)
CASES = [
    ("LlamaForCausalLM", "hidden_states[2]"),
    ("LlamaForCausalLM", "model.layers.1.mlp"),
    ("LlamaForCausalLM", "model.layers.1.mlp.down_proj"),
    ("LlamaForCausalLM", "model.embed_tokens"),
    ("GPT2LMHeadModel", "transformer.h.1.ln_2"),
    ("BloomForCausalLM", "hidden_states[2]"),
    ("MptForCausalLM", "hidden_states[0]"),
    ("BartForCausalLM", "hidden_states[2]"),
    ("BigBirdForCausalLM", "hidden_states[2]"),
    ("OPTForCausalLM", "model.decoder.layers.1.fc2"),
    ("Qwen3ForCausalLM", "model.layers.1.self_attn.q_norm"),
    ("Gemma3ForConditionalGeneration", "model.language_model.layers.1.mlp"),
]


class Shift(nn.Module):
    """Adds the same vector to every token it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def encode(self, x: Tensor) -> Any:
        self.given.append(x)
        return x

    def decode(self, codes: Any) -> Tensor:
        shift: Tensor = codes + 5.0 * torch.randn(codes.shape[-1], generator=torch.Generator().manual_seed(3))
        return shift


@pytest.mark.parametrize(("kind", "site"), CASES)
def test_tokens_after_a_cache_are_replaced_as_without_one(kind: str, site: str) -> None:
    model = tiny(kind)
    plain = model(input_ids=IDS).logits
    with splice(model, site, Shift()):
        whole = model(input_ids=IDS).logits
        outputs = [model(input_ids=IDS[:, :3], use_cache=True)]
        for chunk in (IDS[:, 3:4], IDS[:, 4:]):
            outputs.append(model(input_ids=chunk, past_key_values=outputs[-1].past_key_values, use_cache=True))
    torch.testing.assert_close(torch.cat([out.logits for out in outputs], dim=1), whole, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(whole[:, 1:], plain[:, 1:], atol=1e-2)


@pytest.mark.parametrize(("kind", "site"), [case for case in CASES if "Bart" not in case[0]])
def test_padding_on_the_left_moves_the_first_token(kind: str, site: str) -> None:
    model = tiny(kind)
    positions = {"position_ids": (MASK.cumsum(1) - 1).clamp(min=0)}
    own = {} if kind in ("BloomForCausalLM", "MptForCausalLM") else positions
    padded = {"input_ids": torch.cat([PADDING + 1, IDS], dim=1), "attention_mask": MASK}
    for options in [own] if kind in ("GPT2LMHeadModel", "BigBirdForCausalLM") else [own, {}]:
        autoencoder = Shift()
        with splice(model, site, autoencoder):
            alone = model(input_ids=IDS).logits
            beside = model(**padded, **options).logits
        torch.testing.assert_close(beside[:, -1], alone[:, -1], atol=1e-3, rtol=1e-3)
        assert [len(x) for x in autoencoder.given] == [2 * 6, 2 * 6]  # neither padding nor the first token


@pytest.mark.parametrize("site", ["model.layers.1.mlp", "hidden_states[2]"])
@pytest.mark.parametrize("implementation", ["dynamic", "static"])
def test_generation_of_a_padded_batch_equals_that_of_each_prompt(site: str, implementation: str) -> None:
    model = tiny("LlamaForCausalLM", pad_token_id=1)
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 1}
    prompts = torch.cat([PADDING + 1, IDS[:, :3]], dim=1)
    with splice(model, site, Shift()):
        together = model.generate(prompts, attention_mask=MASK[:, :5], cache_implementation=implementation, **options)
        for row, prompt in zip(together, IDS, strict=True):
            ids = prompt[None, :3]
            alone = model.generate(ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
            assert row[5:].tolist() == alone[0, 3:].tolist()


def test_texts_packed_in_a_window_each_have_a_first_token() -> None:
    model, autoencoder = tiny("LlamaForCausalLM"), Shift()
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]]).expand(2, 7)
    with splice(model, "model.layers.1.mlp", autoencoder):
        model(input_ids=IDS, position_ids=positions)
    assert [len(x) for x in autoencoder.given] == [2 * 5]


def test_the_inner_model_may_be_called() -> None:
    model, autoencoder = tiny("LlamaForCausalLM"), Shift()
    with splice(model, "model.layers.1.mlp", autoencoder):
        model(input_ids=IDS, attention_mask=torch.ones_like(IDS))
        cache = model.model(input_ids=IDS[:, :4], use_cache=True).past_key_values
        model.model(inputs_embeds=model.get_input_embeddings()(IDS[:, 4:]), past_key_values=cache)
    assert [len(x) for x in autoencoder.given] == [2 * 6, 2 * 3, 2 * 3]


def test_a_decoder_reads_its_own_mask_and_tokens() -> None:
    model, autoencoder = tiny("BartForConditionalGeneration"), Shift()
    with splice(model, "model.decoder.layers.1.fc2", autoencoder):
        model(input_ids=torch.cat([IDS, PADDING + 1], 1), attention_mask=MASK.flip(1), decoder_input_ids=IDS[:, :5])
    assert [len(x) for x in autoencoder.given] == [2 * 4]
    with splice(model, "model.encoder.layers.1.fc2", autoencoder):
        model(input_ids=torch.cat([IDS, PADDING + 1], 1), attention_mask=MASK.flip(1), decoder_input_ids=IDS[:, :5])
    assert len(autoencoder.given[-1]) == 2 * 6


def test_positions_that_cannot_be_known_are_said() -> None:
    model = tiny("LlamaForCausalLM")
    cache = model(input_ids=IDS[:, :4], use_cache=True).past_key_values
    wrong = pytest.raises(InputError, match=r"skip_first: expected False .* mask of shape \(2, 5\) for 2 x 3 tokens")
    with wrong, splice(model, "model.layers.1.mlp", Shift()):
        model(input_ids=IDS[:, 4:], past_key_values=cache, attention_mask=MASK[:, :5])
    rows = nn.Sequential(nn.Linear(4, 4))
    match = r"skip_first: expected False where no call of the model tells positions, .* shape \(3, 4\)"
    with pytest.raises(InputError, match=match), splice(rows, "0", Shift()):
        rows(torch.zeros(3, 4))
    with splice(rows, "0", Shift(), skip_first=False):
        assert rows(torch.zeros(3, 4)).shape == (3, 4)


def test_positions_hold_where_a_block_is_computed_again() -> None:
    model = tiny("LlamaForCausalLM").requires_grad_(True)
    gradients = []
    for again in (False, True):
        model.zero_grad()
        block = model.model.layers[1]
        own = block.mlp.forward
        if again:
            block.mlp.forward = lambda x, own=own: checkpoint(own, x, use_reentrant=False)
        with splice(model, "model.layers.1.mlp.down_proj", Shift()):
            model(input_ids=torch.cat([PADDING + 1, IDS], 1), attention_mask=MASK).logits.square().sum().backward()
        gradients.append(model.model.layers[0].mlp.up_proj.weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize("how", ["wrapped", "in place", "a block"])
def test_a_compiled_model_is_spliced(how: str) -> None:
    model = tiny("LlamaForCausalLM")
    called = model
    if how == "wrapped":
        called = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    else:
        model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    before = called(input_ids=IDS).logits
    with splice(called, "model.layers.1.mlp", Shift()):
        inside = called(input_ids=IDS).logits
    torch.testing.assert_close(called(input_ids=IDS).logits, before)
    plain = tiny("LlamaForCausalLM")
    with splice(plain, "model.layers.1.mlp", Shift()):
        torch.testing.assert_close(inside, plain(input_ids=IDS).logits)
    assert not torch.allclose(inside, before, atol=1e-2)


def test_what_is_compiled_inside_does_not_keep_the_splice() -> None:
    model = tiny("LlamaForCausalLM")
    before = model(input_ids=IDS).logits
    model.compile(backend="eager")
    with splice(model, "model.layers.1.mlp", Shift()):
        model(input_ids=IDS)
    torch.testing.assert_close(model(input_ids=IDS).logits, before)


@pytest.mark.parametrize(
    ("site", "match"),
    [
        ("transformer.h", r"site: expected a module that is called, found 'transformer.h', a ModuleList of 4 modules"),
        ("transformer.h.1.attn.attn_dropout", "site: expected a module that the forward pass reaches, found 'tr"),
    ],
)
def test_a_site_where_nothing_would_be_replaced_is_said(site: str, match: str) -> None:
    model = tiny("GPT2LMHeadModel")
    with pytest.raises(InputError, match=match), splice(model, site, nn.Identity()):
        model(input_ids=IDS)


def test_activations_with_heads_have_a_row_for_each_token() -> None:
    model, autoencoder = tiny("Qwen3ForCausalLM"), Shift()
    with splice(model, "model.layers.1.self_attn.q_norm", autoencoder):
        model(input_ids=IDS)
        with pytest.raises(InputError, match=r"expected another number of tokens in a window than the 2 heads"):
            model(input_ids=IDS[:, :2])
    assert autoencoder.given[0].shape == (12, 16)
