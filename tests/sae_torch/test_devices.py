"""Choices on tensors whose solutions come back as tensors: the way of a GPU without CuPy, walked on the processor."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import allocation
import allocation.validation
import sae_torch as st
from allocation.cuda.torch_engine import TorchEngine
from sae_torch import losses
from sae_torch.choices.price_forecast import PriceForecast
from sae_torch.training import trainer as trainer_module
from sae_torch.training.units import Units
from tests.sae_torch.no_synchronise import no_synchronise

CHOICES = {
    "token": lambda: st.TokenChoice(k=3),
    "mutual": lambda: st.MutualChoice(k=3),
    "feature": lambda: st.FeatureChoice(k=3, switch=0.5),
    "quotas": lambda: st.FeatureChoice(k=3, switch=0),
    "balanced": lambda: st.BalancedChoice(k=3, token_caps=5, feature_caps=0.5),
    "both": lambda: st.BalancedChoice(k=3, token_floors=1, feature_floors=0.01),
    "floors": lambda: st.BalancedChoice(k=3, feature_floors=0.03),
    "neither": lambda: st.BalancedChoice(k=3, feature_floors=0.0),
    "limits": lambda: st.BalancedChoice(k=3, feature_floors=0.03, feature_caps=0.3),
}


@pytest.fixture
def as_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tensor counts as one on a GPU without CuPy; that it is missing and that scores are copied is known."""
    monkeypatch.setitem(sys.modules, "cupy", None)  # type: ignore[arg-type]  # where it is installed, too
    for module in (allocation, allocation.validation):
        monkeypatch.setattr(module, "is_on_device", lambda array: hasattr(array, "detach"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CuPy is not installed|.* works in main memory", RuntimeWarning)
        yield


def trained(name: str) -> tuple[st.SparseAutoencoder, torch.Tensor]:
    """A few steps with both auxiliary losses' way through, calibration included."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(64, 8, generator=generator) for _ in range(6)]
    sae = st.SparseAutoencoder(8, 24, choice=CHOICES[name](), device="cpu", score_dtype=None)
    st.Trainer(sae, st.TrainConfig()).fit(batches)
    with torch.no_grad():
        return sae, sae.eval()(batches[0]).x_hat


@pytest.mark.parametrize("name", CHOICES)
def test_training_and_inference_are_the_same(name: str, request: pytest.FixtureRequest) -> None:
    """Weights, thresholds and reconstructions, to the last bit."""
    expected, expected_x = trained(name)
    request.getfixturevalue("as_device")
    found, found_x = trained(name)
    assert torch.equal(found_x, expected_x)
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], value, rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.usefixtures("as_device")
def test_soft_choice() -> None:
    """Shares and gradients come back as tensors."""
    scores = torch.randn(6, 9, requires_grad=True, generator=torch.Generator().manual_seed(0))
    shares = st.SoftChoice(k=2, temperature=0.5)(scores)
    shares.sum().backward()
    assert shares.sum().item() == pytest.approx(12.0)
    assert scores.grad is not None


@pytest.mark.usefixtures("as_device")
@pytest.mark.parametrize("name", ["token", "mutual", "feature", "quotas", "neither", "floors", "limits"])
@pytest.mark.parametrize("block_entries", [1 << 26, 100])
@pytest.mark.parametrize("auxiliary", ["zipf", "k"])
def test_a_step_on_a_card_looks_at_no_number(
    name: str, block_entries: int, auxiliary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Selection, statistics, losses, gradients, clipping, optimiser, unit norm, log; all as on the processor."""
    monkeypatch.setattr(losses, "BLOCK_ENTRIES", block_entries)
    batches = torch.randn(5, 40, 8, generator=torch.Generator().manual_seed(0)).unbind()
    found = []
    for gpu in (True, False):
        sae = st.SparseAutoencoder(8, 24, choice=CHOICES[name]())
        trainer = st.Trainer(sae, st.TrainConfig(auxiliary=auxiliary, dead_after=30, progress=False))
        trainer.begin(batches[0], steps=10, planned_tokens=400)
        if not gpu:
            for module in (allocation, allocation.validation):
                monkeypatch.setattr(module, "is_on_device", lambda array: False)
        on_host = [value for key, value in sae.choice.named_buffers() if key in sae.choice.on_host]
        records = []
        for step, x in enumerate(batches):
            # the first step makes the optimiser's state
            with no_synchronise(on_host) if gpu and step else nullcontext():
                records.append(trainer.step(x))
            assert records[-1].is_read == (not gpu)
        trainer.check_losses()
        assert all(record.is_read for record in records)
        found.append([*(torch.tensor(record.read()) for record in records), *sae.state_dict().values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, equal_nan=True)


class NoCopy(TorchDispatchMode):
    """Copies between main memory and another device only where the host goes on meanwhile."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            assert source.device == result.device or not waits, f"{name} waits"
        return result


@pytest.mark.usefixtures("as_device")
@pytest.mark.parametrize("name", ["token", "mutual", "feature", "quotas", "floors", "limits"])
def test_a_step_stays_on_its_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's device without numbers: no operation mixes it with main memory, and nothing is copied in passing."""
    monkeypatch.setattr(
        TorchEngine, "put", lambda self, array: torch.from_numpy(array).to(self.device, non_blocking=True)
    )
    sae = st.SparseAutoencoder(8, 24, choice=CHOICES[name]()).to("meta")
    config = st.TrainConfig(progress=False)
    for module in (allocation, allocation.validation):
        monkeypatch.setattr(module, "is_on_device", lambda array: getattr(array, "is_meta", False))
    with mock.patch.object(torch.optim, "Adam", partial(torch.optim.Adam, foreach=True)):  # none is fused there
        monkeypatch.setattr(trainer_module, "is_on_device", lambda x: False)
        trainer = st.Trainer(sae, config)
        monkeypatch.setattr(trainer_module, "is_on_device", lambda x: x.is_meta)
    trainer.units = Units(1.0)
    trainer._plan(10, 400)
    for step in range(3):
        with NoCopy() if step else nullcontext():  # the first makes the optimiser's state and copies the quotas
            record = trainer.step(torch.empty(40, 8, device="meta"))
        assert isinstance(record.numbers, torch.Tensor)
        assert record.numbers.is_meta


@pytest.mark.usefixtures("as_device")
@pytest.mark.parametrize("name", ["token", "mutual", "quotas", "floors"])
def test_a_card_skips_what_diverges_until_the_host_looks(name: str) -> None:
    """The step is named, and the weights are those before it, however many steps were launched since."""
    sae = st.SparseAutoencoder(8, 24, choice=CHOICES[name](), score_dtype=None)
    trainer = st.Trainer(sae, st.TrainConfig(progress=False))
    batches = torch.randn(8, 40, 8, generator=torch.Generator().manual_seed(0)).unbind()
    trainer.begin(batches[0], steps=100, planned_tokens=4000)
    for x in batches[:3]:
        trainer.step(x)
    before = [p.detach().clone() for p in sae.parameters()]
    with torch.no_grad():
        sae.b_enc += 1e6
    before[2] += 1e6
    for x in batches[3:]:
        trainer.step(x)
    with pytest.raises(FloatingPointError, match=r"the loss is .* at step 3, where reconstructing nothing would cost"):
        trainer.check_losses()
    assert trainer.failed_step == 3
    for one, other in zip(sae.parameters(), before, strict=True):
        torch.testing.assert_close(one.detach(), other)
    with torch.no_grad():
        sae.b_enc -= 1e6
    trainer.step(batches[0])
    trainer.check_losses()
    assert not torch.equal(sae.W_dec, before[0])


@pytest.mark.usefixtures("as_device")
def test_a_batch_that_is_not_finite_is_named_by_the_next_look() -> None:
    """On a GPU its values are not looked at beforehand; the log holds what was read."""
    batches = [torch.randn(40, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(220)]
    batches[210][3, 4] = torch.nan
    sae = st.SparseAutoencoder(8, 24, choice=st.MutualChoice(3))
    with pytest.raises(st.InputError, match="batches: batch 210 holds NaN or infinite activations"):
        st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
    assert bool(torch.isfinite(sae.W_dec).all())


@pytest.mark.usefixtures("as_device")
def test_checkpoints_look_first() -> None:
    """No state is written that goes on from a step that was refused."""
    sae = st.SparseAutoencoder(8, 24, choice=st.TokenChoice(3))
    trainer = st.Trainer(sae, st.TrainConfig(progress=False))
    trainer.begin(torch.ones(40, 8), steps=100, planned_tokens=4000)
    trainer.step(torch.full((40, 8), torch.inf))
    with pytest.raises(st.InputError, match="batch 0 holds NaN"):
        trainer.state_dict()


@pytest.mark.usefixtures("as_device")
@pytest.mark.parametrize("block_entries", [1 << 26, 100])
@pytest.mark.parametrize("every", [1, 3])
def test_auxiliary_losses_to_the_last_bit(every: int, block_entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of a selection of fixed size are those of the processor, ties and all, unseen by the host."""
    monkeypatch.setattr(losses, "BLOCK_ENTRIES", block_entries)
    x = torch.randint(-2, 3, (40, 8), generator=torch.Generator().manual_seed(0)).float()
    weights = (torch.arange(24) % 4) / 4
    found = []
    for gpu in (True, False):
        if not gpu:
            for module in (allocation, allocation.validation):
                monkeypatch.setattr(module, "is_on_device", lambda array: False)
        for loss in (losses.aux_zipf_loss, losses.aux_k_loss):
            sae = st.SparseAutoencoder(8, 24, choice=st.TokenChoice(3), encoder_scale=1.0, score_dtype=None)
            with torch.no_grad():
                sae.W_enc.copy_(sae.W_enc.mul(4).round())
            out = sae(x, return_pre=True)
            with no_synchronise() if gpu else nullcontext():
                value = loss(out, x, sae, weights if loss is losses.aux_zipf_loss else weights == 0.5, 5, every)
                value.backward()
            found.append([value.detach(), *(p.grad for p in sae.parameters())])
    for one, other in zip(found[0] + found[1], found[2] + found[3], strict=True):
        assert one is not None
        assert bool(one.any())
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.usefixtures("as_device")
def test_nothing_lacking_means_no_auxiliary_loss() -> None:
    """On a GPU the case cannot be seen beforehand."""
    sae = st.SparseAutoencoder(8, 24, choice=st.TokenChoice(3), score_dtype=None)
    x = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    loss = losses.aux_zipf_loss(sae(x, return_pre=True), x, sae, torch.zeros(24), k_aux=4)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert sae.W_dec.grad is None or not bool(sae.W_dec.grad.any())


@pytest.mark.usefixtures("as_device")
def test_a_choice_of_ones_own_is_asked_on_a_card_too() -> None:
    """What it overrides is what is called, whatever its parent could do without waiting."""

    class Halved(st.MutualChoice):
        def limits(self, tokens: int, advance: bool = False) -> dict[str, Any]:
            return {"budget": self.total(tokens) // 2}

    scores = torch.rand(10, 8, generator=torch.Generator().manual_seed(0))
    assert len(Halved(k=2)(scores)) == 10
    assert st.MutualChoice(k=2)(scores).count is not None


@pytest.mark.parametrize("choice", [st.FeatureChoice(k=2, switch=0), st.BalancedChoice(k=2, feature_floors=0.1)])
def test_quotas_and_floors_stay_in_main_memory(choice: st.FeatureChoice | st.BalancedChoice) -> None:
    """Wherever the module goes, and in their own precision; what is compared with scores goes along."""
    choice.build(8)
    before = {name: choice.state_dict()[name].clone() for name in choice.on_host}
    choice.to("meta", torch.float16)
    assert choice.tracker.theta.is_meta
    for name, value in before.items():
        torch.testing.assert_close(getattr(choice, name), value, rtol=0, atol=0)


@pytest.mark.usefixtures("as_device")
def test_densities_are_measured_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit: of two features that fire equally often, another would get the larger quota."""
    found = []
    for gpu in (True, False):
        if not gpu:
            for module in (allocation, allocation.validation):
                monkeypatch.setattr(module, "is_on_device", lambda array: False)
        choice = st.FeatureChoice(2, switch_tokens=130)
        for seed in range(20):
            choice(torch.rand(13, 6, generator=torch.Generator().manual_seed(seed)))
        found.append([choice.densities, choice.quota_densities, choice.owed])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_forecast_goes_along_with_the_scores() -> None:
    forecast = PriceForecast()
    forecast.observe(torch.ones(3), torch.ones(3), None)
    forecast.observe(*torch.ones(3, 3, device="meta"))
    assert forecast.guess is not None
    assert forecast.guess.is_meta
