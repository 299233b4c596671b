from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sae_torch as st
from sae_torch.activations import LanguageModel
from sae_torch.errors import InputError
from sae_torch.evaluation import splice

from .plain import PlainAutoencoder

SITE = "hidden_states[2]"
TOKENS = torch.randint(0, 61, (3, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def sae() -> PlainAutoencoder:
    return PlainAutoencoder(16, 40).requires_grad_(False)


def logits(language_model: LanguageModel) -> Tensor:
    with torch.no_grad():
        out: Tensor = language_model.model(input_ids=TOKENS).logits
    return out


def logits_with(language_model: LanguageModel, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits with `change` applied to the activations of all positions but the first."""

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], change(output[:, 1:].reshape(-1, 16)).view(3, 8, 16)], dim=1)

    handle = language_model.model.get_submodule("model.layers.1").register_forward_hook(hook)
    try:
        return logits(language_model)
    finally:
        handle.remove()


@pytest.mark.parametrize("skip_first", [True, False])
def test_an_identity_reproduces_the_logits_bit_for_bit(tiny_language_model: LanguageModel, skip_first: bool) -> None:
    before = logits(tiny_language_model)
    with splice(tiny_language_model.model, SITE, nn.Identity(), skip_first=skip_first):
        assert torch.equal(logits(tiny_language_model), before)


def test_the_error_term_without_an_intervention_changes_nothing(
    tiny_language_model: LanguageModel, sae: PlainAutoencoder
) -> None:
    before = logits(tiny_language_model)
    with splice(tiny_language_model.model, SITE, sae, error_term=True):
        assert torch.equal(logits(tiny_language_model), before)


def test_activations_become_reconstructions_while_it_lasts(
    tiny_language_model: LanguageModel, sae: PlainAutoencoder
) -> None:
    before = logits(tiny_language_model)
    expected = logits_with(tiny_language_model, lambda x: sae.dense(x) @ sae.W_dec + sae.b_dec)
    with splice(tiny_language_model.model, SITE, sae):
        torch.testing.assert_close(logits(tiny_language_model), expected)
    assert not torch.allclose(expected, before, atol=1e-2)
    assert torch.equal(logits(tiny_language_model), before)
    with pytest.raises(KeyboardInterrupt), splice(tiny_language_model.model, SITE, sae):
        raise KeyboardInterrupt
    assert torch.equal(logits(tiny_language_model), before)


def test_named_features_are_ablated_and_scaled(tiny_language_model: LanguageModel, sae: PlainAutoencoder) -> None:
    factors = torch.ones(40)
    factors[3], factors[17], factors[5] = 0.0, 0.0, -2.5

    expected = logits_with(tiny_language_model, lambda x: (factors * sae.dense(x)) @ sae.W_dec + sae.b_dec)
    with splice(tiny_language_model.model, SITE, sae, ablate=[3, 17], scale={5: -2.5}):
        torch.testing.assert_close(logits(tiny_language_model), expected)

    expected = logits_with(tiny_language_model, lambda x: x + ((factors - 1) * sae.dense(x)) @ sae.W_dec)
    with splice(tiny_language_model.model, SITE, sae, ablate=[3, 17], scale={5: -2.5}, error_term=True):
        torch.testing.assert_close(logits(tiny_language_model), expected)


def test_features_are_added_where_they_are_not_active(
    tiny_language_model: LanguageModel, sae: PlainAutoencoder
) -> None:
    shift = 2.0 * sae.W_dec[3] - 1.5 * sae.W_dec[17]
    add = {3: 2.0, 17: -1.5}
    expected = logits_with(tiny_language_model, lambda x: x + shift)
    with splice(tiny_language_model.model, SITE, sae, add=add, error_term=True):
        torch.testing.assert_close(logits(tiny_language_model), expected)
    factors = torch.ones(40)
    factors[3] = 0.0
    expected = logits_with(tiny_language_model, lambda x: (factors * sae.dense(x)) @ sae.W_dec + sae.b_dec + shift)
    with splice(tiny_language_model.model, SITE, sae, add=add, ablate=[3]):
        torch.testing.assert_close(logits(tiny_language_model), expected)
    before = logits(tiny_language_model)
    with splice(tiny_language_model.model, SITE, sae, add={3: 0.0}, error_term=True):
        assert torch.equal(logits(tiny_language_model), before)


def test_our_autoencoder_sets_a_feature(tiny_language_model: LanguageModel) -> None:
    ours = st.SparseAutoencoder(16, 40, st.TokenChoice(4)).eval().requires_grad_(False)
    expected = logits_with(tiny_language_model, lambda x: x + 3.0 * ours.W_dec[7])
    with splice(tiny_language_model.model, SITE, ours, add={7: 3.0}, error_term=True):
        torch.testing.assert_close(logits(tiny_language_model), expected)


def test_position_0_is_replaced_only_if_asked(tiny_language_model: LanguageModel, sae: PlainAutoencoder) -> None:
    block = tiny_language_model.model.get_submodule("model.layers.2")
    seen: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        logits(tiny_language_model)
        for skip_first in (True, False):
            with splice(tiny_language_model.model, SITE, sae, skip_first=skip_first):
                logits(tiny_language_model)
    finally:
        handle.remove()
    own, skipping, everywhere = seen
    assert torch.equal(skipping[:, 0], own[:, 0])
    assert not torch.allclose(everywhere[:, 0], own[:, 0], atol=1e-3)
    torch.testing.assert_close(skipping[:, 1:], everywhere[:, 1:])


def test_generation_with_a_cache_equals_generation_without(
    tiny_language_model: LanguageModel, sae: PlainAutoencoder
) -> None:
    # with a cache a step has one token, whose position only the block's arguments tell
    model: Any = tiny_language_model.model
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    prompt = TOKENS[:1, :1]
    with splice(model, SITE, sae, scale={5: 3.0}):
        cached = model.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=True, **options)
        whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=False, **options)
    plain = model.generate(prompt, attention_mask=torch.ones_like(prompt), use_cache=True, **options)
    assert cached.tolist() == whole.tolist()
    assert cached.tolist() != plain.tolist()


class TupleBlock(nn.Module):
    """A block as older transformers have it: the hidden state first in a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return 2 * x, "attention"


def test_tuple_outputs_keep_their_other_entries(sae: PlainAutoencoder) -> None:
    model = nn.ModuleDict({"block": TupleBlock()})
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    with splice(model, "block", sae, skip_first=False):
        hidden, rest = model["block"](x)
    assert rest == "attention"
    torch.testing.assert_close(hidden, sae.dense(2 * x) @ sae.W_dec + sae.b_dec)
    with splice(model, "block", nn.Identity()):
        hidden, rest = model["block"](x)
    assert torch.equal(hidden, 2 * x)


def test_a_narrow_model_keeps_its_dtype(sae: PlainAutoencoder) -> None:
    model = nn.Sequential(nn.Identity())
    x = torch.randn(2, 5, 16, dtype=torch.bfloat16)
    with splice(model, "0", nn.Identity()):
        assert torch.equal(model(x), x)
    with splice(model, "0", sae):
        out = model(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out[:, 0], x[:, 0])
    expected = sae.dense(x[:, 1:].float()) @ sae.W_dec + sae.b_dec
    torch.testing.assert_close(out[:, 1:].float(), expected, rtol=1e-2, atol=1e-2)


def test_gradients_pass_through(sae: PlainAutoencoder) -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    with splice(model, "0", sae):
        model(x).square().sum().backward()
    gradient = model[0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_bad_interventions_are_refused(tiny_language_model: LanguageModel, sae: PlainAutoencoder) -> None:
    model = tiny_language_model.model
    with (
        pytest.raises(InputError, match="feature 3: expected in `ablate` or in `scale`, found in both"),
        splice(model, SITE, sae, ablate=[3], scale={3: 2.0}),
    ):
        pass
    with pytest.raises(InputError, match="feature: expected 0 to 39, found 40"):  # noqa: SIM117
        with splice(model, SITE, sae, ablate=[40]):
            logits(tiny_language_model)
    with (
        pytest.raises(InputError, match=r"sae: expected an autoencoder with the features .* found an identity"),
        splice(model, SITE, nn.Identity(), ablate=[1]),
    ):
        pass
    with pytest.raises(InputError, match="feature: expected 0 to 39, found -1"):  # noqa: SIM117
        with splice(model, SITE, sae, add={-1: 2.0}):
            logits(tiny_language_model)
    with (
        pytest.raises(InputError, match="add: expected a finite number for feature 2, found inf"),
        splice(model, SITE, sae, add={2: float("inf")}),
    ):
        pass
    with pytest.raises(InputError, match="4 blocks"), splice(model, "hidden_states[9]", sae):
        pass


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_with_the_error_term_a_narrow_dictionary_changes_only_what_is_edited(dtype: torch.dtype) -> None:
    """Its rounding of large activations, and of what all its features add, does not reach the model."""
    draw = torch.Generator().manual_seed(0)
    sae = st.SparseAutoencoder(12, 48, choice=st.TokenChoice(k=4), dtype=dtype).eval()
    with torch.no_grad():
        sae.b_dec.fill_(150.0)
    model, x = nn.Sequential(nn.Identity()), 150 + torch.randn(1, 4, 12, generator=draw)
    codes = sae.encode(x[0].to(dtype))
    silent = next(feature for feature in range(48) if feature not in codes.features.tolist())
    settings: dict[str, Any] = {"error_term": True, "skip_first": False}
    with torch.no_grad():
        with st.splice(model, "0", sae, ablate=[silent], **settings):
            assert torch.equal(model(x), x)
        with st.splice(model, "0", sae, add={silent: 1.0}, **settings):
            torch.testing.assert_close(model(x)[0] - x[0], sae.W_dec[silent].float().expand(4, 12), rtol=0, atol=3e-5)
        first = int(codes.features[0])
        with st.splice(model, "0", sae, ablate=[first], **settings):
            change = model(x)[0] - x[0]
    expected = -codes.to_dense()[:, first, None].float() * sae.W_dec[first].float()
    torch.testing.assert_close(change, expected, rtol=1e-2, atol=3e-5)
