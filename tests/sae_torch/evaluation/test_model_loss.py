from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sae_torch.activations import LanguageModel
from sae_torch.activations.sites import output_at, with_hidden_state
from sae_torch.errors import InputError
from sae_torch.evaluation import model_loss
from sae_torch.evaluation.model_loss import resumed_at

SITE = "hidden_states[2]"


def make_windows(count: int, length: int = 12) -> Tensor:
    return torch.randint(0, 61, (count, length), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


def reference(language_model: LanguageModel, windows: Tensor, change: nn.Module | None) -> float:
    """Cross-entropy by a whole forward pass with the site's output replaced, one window at a time."""

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output if change is None else torch.cat([output[:, :1], change(output[:, 1:])], dim=1)

    handle = language_model.model.get_submodule("model.layers.1").register_forward_hook(hook)
    try:
        losses = []
        for window in windows.long():
            log_p = language_model.model(input_ids=window[None]).logits[0].log_softmax(-1)
            losses += [-float(log_p[t, window[t + 1]]) for t in range(1, len(window) - 1)]
    finally:
        handle.remove()
    return sum(losses) / len(losses)


class Multiply(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


@pytest.mark.parametrize("windows_per_batch", [1, 2, 8])
def test_each_case_is_a_whole_forward_pass(tiny_language_model: LanguageModel, windows_per_batch: int) -> None:
    windows, mean = make_windows(5), torch.linspace(-1, 1, 16)
    found = model_loss(
        tiny_language_model,
        SITE,
        windows,
        mean,
        {"clean": Multiply(0.5), "itself": lambda x: x},
        windows_per_batch=windows_per_batch,
    )
    assert found.n_tokens == 5 * 10
    assert found.clean == pytest.approx(reference(tiny_language_model, windows, None), rel=1e-5)
    assert found.zero == pytest.approx(reference(tiny_language_model, windows, Multiply(0.0)), rel=1e-5)

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return mean.expand_as(x)

    assert found.mean == pytest.approx(reference(tiny_language_model, windows, Mean()), rel=1e-5)
    # a replacement may be called "clean" without being taken for the clean case
    assert found.spliced["clean"] == pytest.approx(reference(tiny_language_model, windows, Multiply(0.5)), rel=1e-5)
    assert abs(found.spliced["clean"] - found.clean) > 1e-3
    assert found.spliced["itself"] == found.clean
    assert found.recovered("itself") == 1.0
    assert found.recovered("itself", "mean") == 1.0


def test_resuming_reproduces_the_logits_bit_for_bit(tiny_language_model: LanguageModel) -> None:
    model, token_ids = tiny_language_model.model, make_windows(3).long()
    with torch.inference_mode():
        expected = model(input_ids=token_ids).logits
        output = output_at(model, SITE, token_ids)
        ran = []
        handle = model.get_submodule("model.layers.0.mlp").register_forward_hook(lambda *_: ran.append(1))
        try:
            with resumed_at(model, SITE, output):
                resumed = model(input_ids=token_ids).logits
        finally:
            handle.remove()
        assert ran == []  # the blocks before the site are passed over
        assert torch.equal(resumed, expected)
        with resumed_at(model, SITE, with_hidden_state(output, 2 * output)):
            assert not torch.equal(model(input_ids=token_ids).logits, expected)
        assert torch.equal(model(input_ids=token_ids).logits, expected)  # and run again afterwards


def test_the_model_is_restored_after_an_error(tiny_language_model: LanguageModel) -> None:
    model, token_ids = tiny_language_model.model, make_windows(1).long()
    expected = model(input_ids=token_ids).logits

    def fail(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model_loss(tiny_language_model, SITE, make_windows(1), torch.zeros(16), {"bad": fail})
    assert torch.equal(model(input_ids=token_ids).logits, expected)


def test_sites_that_cannot_be_resumed_and_short_windows_are_refused(tiny_language_model: LanguageModel) -> None:
    with (
        pytest.raises(InputError, match=r"site: expected the output of a block, .* found 'model\.layers\.1\.mlp'"),
        resumed_at(tiny_language_model.model, "model.layers.1.mlp", torch.zeros(1)),
    ):
        pass
    with pytest.raises(InputError, match=r"expected shape \(windows, length\) with length >= 3, found \(4, 2\)"):
        model_loss(tiny_language_model, SITE, make_windows(4, 2), torch.zeros(16), {})


def test_divergence_is_from_the_clean_predictions(tiny_language_model: LanguageModel) -> None:
    windows = make_windows(3)
    found = model_loss(
        tiny_language_model, SITE, windows, torch.zeros(16), {"half": Multiply(0.5), "itself": lambda x: x}
    )
    assert found.kl["spliced itself"] == pytest.approx(0.0, abs=1e-6)
    assert found.kl["zero"] == pytest.approx(found.kl["mean"])  # the mean given is zero
    assert 0 < found.kl["spliced half"] < found.kl["zero"]
    assert found.kl_recovered("itself") == pytest.approx(1.0)
    assert found.kl_recovered("half", "mean") == pytest.approx(1 - found.kl["spliced half"] / found.kl["zero"])

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], 0.5 * output[:, 1:]], dim=1)

    model = tiny_language_model.model
    clean = model(input_ids=windows.long()).logits[:, 1:-1].log_softmax(-1)
    handle = model.get_submodule("model.layers.1").register_forward_hook(hook)
    try:
        spliced = model(input_ids=windows.long()).logits[:, 1:-1].log_softmax(-1)
    finally:
        handle.remove()
    expected = (clean.exp() * (clean - spliced)).sum(-1).mean()
    assert found.kl["spliced half"] == pytest.approx(float(expected), rel=1e-4)


def test_a_module_that_is_no_block_is_judged_in_whole_passes(tiny_language_model: LanguageModel) -> None:
    windows, site = make_windows(3), "model.layers.1.mlp"
    found = model_loss(tiny_language_model, site, windows, torch.zeros(16), {"none": torch.zeros_like})

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], torch.zeros_like(output[:, 1:])], dim=1)

    model = tiny_language_model.model
    handle = model.get_submodule(site).register_forward_hook(hook)
    try:
        log_p = model(input_ids=windows.long()).logits[:, 1:-1].log_softmax(-1)
    finally:
        handle.remove()
    expected = -log_p.gather(-1, windows.long()[:, 2:, None]).mean()
    assert found.zero == pytest.approx(float(expected), rel=1e-5)
    assert found.spliced["none"] == found.zero
    assert found.clean != found.zero
