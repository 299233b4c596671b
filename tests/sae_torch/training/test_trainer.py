"""Training against a dense loop, in any units, reproducible, and safe to interrupt."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.training import trainer as trainer_module
from sae_torch.training import update as update_module
from sae_torch.training.first_sight import LastInputs
from sae_torch.training.schedule import Schedule
from sae_torch.training.update import set_rate, update
from tests.sae_torch.training.activations import activations

QUIET = {"progress": False}


def nmse(sae: st.SparseAutoencoder, x: Tensor) -> float:
    was = sae.training
    with torch.no_grad():
        error = (x - sae.eval()(x).x_hat).pow(2).sum()
    sae.train(was)
    return float(error / (x - x.mean(dim=0)).pow(2).sum())


def choices() -> list[st.Choice]:
    return [st.TokenChoice(4), st.MutualChoice(4), st.FeatureChoice(4)]


@pytest.mark.parametrize("choice", choices(), ids=lambda c: type(c).__name__)
def test_training_reconstructs_and_realises_k_on_unseen_tokens(choice: st.Choice) -> None:
    sae = st.SparseAutoencoder(16, 64, copy.deepcopy(choice))
    log = st.Trainer(sae, st.TrainConfig(learning_rate=5e-3, **QUIET)).fit(activations(300))
    held_out = torch.cat(activations(40, seed=1))
    assert nmse(sae, held_out) < 0.3
    assert log.reconstruction[-1] < 0.5 * log.reconstruction[0]
    assert sae.eval()(held_out).codes.l0 == pytest.approx(4.0, rel=0.02)
    assert sae.training is False
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def dense_losses(choice: st.Choice, config: st.TrainConfig, batches: list[Tensor]) -> Iterator[float]:
    """The same run with dense matrices, plain autograd, torch's own top-k, Adam and clipping."""
    probe = torch.cat(batches[: -(-8192 // 256)])
    scale = 4.0 / float(probe.norm(dim=1).mean())
    start = st.SparseAutoencoder(16, 64, choice, dtype=probe.dtype)
    start.normalise_decoder()  # unit rows in this type, not in float32
    W_enc, W_dec, b_enc = (p.detach().clone().requires_grad_() for p in (start.W_enc, start.W_dec, start.b_enc))
    b_dec = (probe.mean(dim=0) * scale).requires_grad_()
    parameters = [W_dec, W_enc, b_enc, b_dec]
    optimizer = torch.optim.Adam(parameters, betas=config.betas)
    schedule = Schedule(config.learning_rate, len(batches), config.warm_up, config.decay)
    silent_for = torch.zeros(64)
    for step, batch in enumerate(batches):
        x = batch * scale
        z = (x - b_dec) @ W_enc + b_enc
        mask = torch.zeros_like(z)
        if isinstance(choice, st.TokenChoice):
            mask.scatter_(1, z.detach().topk(4, dim=1).indices, 1.0)
        else:
            mask.view(-1)[z.detach().flatten().topk(4 * len(x)).indices] = 1.0
        mask *= z.detach() > 0
        x_hat = (z * mask) @ W_dec + b_dec
        loss = (x_hat - x).pow(2).sum(dim=1).mean()
        if config.auxiliary == "k":
            silent_for = torch.where(mask.any(dim=0), 0, silent_for + len(x))
            dead = silent_for >= config.dead_after
            rows = slice(None, None, config.auxiliary_every)
            value = torch.relu(z[rows]) * dead
            top = torch.zeros_like(value).scatter_(1, value.detach().topk(8, dim=1).indices, 1.0)
            error = (x - x_hat)[rows].detach() - (value * top) @ W_dec
            loss = loss + config.auxiliary_coefficient * error.pow(2).sum(dim=1).mean() * dead.any()
        yield float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        assert W_dec.grad is not None
        W_dec.grad -= (W_dec.grad * W_dec.detach()).sum(dim=1, keepdim=True) * W_dec.detach()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        optimizer.step()
        with torch.no_grad():
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-3)])
@pytest.mark.parametrize("auxiliary", ["none", "k"])
@pytest.mark.parametrize("choice", [st.TokenChoice(4), st.MutualChoice(4)], ids=lambda c: type(c).__name__)
def test_the_loss_curve_is_that_of_a_dense_loop_over_200_steps(
    choice: st.Choice, auxiliary: Any, dtype: torch.dtype, tolerance: float
) -> None:
    batches = [x.to(dtype) for x in activations(200)]
    config = st.TrainConfig(auxiliary=auxiliary, dead_after=256, k_aux=8, **QUIET)
    sae = st.SparseAutoencoder(16, 64, copy.deepcopy(choice), dtype=dtype)
    log = st.Trainer(sae, config).fit(batches)
    assert (sum(log.auxiliary) > 0) == (auxiliary == "k")
    assert log.loss == pytest.approx(list(dense_losses(copy.deepcopy(choice), config, batches)), rel=tolerance)


@pytest.mark.parametrize(
    ("choice", "auxiliary"),
    [
        (st.MutualChoice(4), "zipf"),
        (st.BalancedChoice(4, feature_caps=0.5), "zipf"),
        (st.BalancedChoice(4, feature_floors=[0.0] + 63 * [0.01]), "zipf"),
        (st.BalancedChoice(4, feature_floors=0.01), "none"),
    ],
)
def test_floors_under_every_feature_need_no_auxiliary_loss(choice: st.Choice, auxiliary: Any) -> None:
    logs = [
        st.Trainer(st.SparseAutoencoder(16, 64, copy.deepcopy(choice)), config).fit(activations(20))
        for config in (st.TrainConfig(**QUIET), st.TrainConfig(auxiliary=auxiliary, **QUIET))
    ]
    assert (sum(logs[0].auxiliary) > 0) == (auxiliary == "zipf")
    assert logs[0].loss == logs[1].loss


def test_an_update_without_temporaries_is_the_plain_one() -> None:
    sae = st.SparseAutoencoder(7, 30, st.TokenChoice(2), dtype=torch.float64)
    for parameter in sae.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).double()
    plain = copy.deepcopy(sae)
    for parameter, twin in zip(sae.parameters(), plain.parameters(), strict=True):
        twin.grad = parameter.grad.clone() if parameter.grad is not None else None
    optimizer = torch.optim.SGD(sae.parameters(), lr=9.0)
    set_rate(optimizer, 0.5)
    update(sae, optimizer, clip=1.0)

    W = plain.W_dec.detach()
    assert plain.W_dec.grad is not None
    plain.W_dec.grad -= (plain.W_dec.grad * W).sum(dim=1, keepdim=True) * W
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    torch.optim.SGD(plain.parameters(), lr=0.5).step()
    with torch.no_grad():
        plain.W_dec.div_(plain.W_dec.norm(dim=1, keepdim=True))
    for one, two in zip(sae.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("factor", [50.0, 1e-3])
def test_the_unit_of_the_activations_does_not_matter(factor: float) -> None:
    errors = []
    for unit in (1.0, factor):
        sae = st.SparseAutoencoder(16, 64, st.FeatureChoice(4))
        st.Trainer(sae, st.TrainConfig(**QUIET)).fit([unit * x for x in activations(60)])
        errors.append(nmse(sae, unit * torch.cat(activations(10, seed=1))))
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)


def test_the_same_seed_gives_the_same_bits_with_and_without_progress(capsys: pytest.CaptureFixture[str]) -> None:
    states = []
    for progress in (False, True):
        sae = st.SparseAutoencoder(16, 64, st.FeatureChoice(4), seed=3)
        st.Trainer(sae, st.TrainConfig(progress=progress)).fit(activations(30))
        states.append(sae.state_dict())
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert "train FeatureChoice" in capsys.readouterr().err


def test_both_auxiliary_losses_are_at_work() -> None:
    for auxiliary, dead_after in (("zipf", None), ("k", 500)):
        sae = st.SparseAutoencoder(16, 256, st.MutualChoice(4))
        config = st.TrainConfig(auxiliary=auxiliary, dead_after=dead_after, **QUIET)  # type: ignore[arg-type]
        log = st.Trainer(sae, config).fit(activations(40))
        assert sum(value > 0 for value in log.auxiliary) > 10, auxiliary


def test_quotas_are_fitted_at_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "PROBE_TOKENS", 1)  # one batch, so that the others are read as they are used
    choice = st.FeatureChoice(4, switch=0.5)
    sae = st.SparseAutoencoder(16, 64, choice)
    seen: list[bool] = []

    def batches() -> Any:
        for x in activations(20):
            seen.append(bool(choice.has_quotas))
            yield x

    st.Trainer(sae, st.TrainConfig(**QUIET)).fit(batches(), steps=20)
    # step 10 of 20 fits them, after its own batch was read
    assert seen == [False] * 11 + [True] * 9
    frozen = choice.quota_densities.clone()
    st.Trainer(sae, st.TrainConfig(**QUIET)).fit(activations(5, seed=9))
    assert torch.equal(choice.quota_densities, frozen)


def test_a_second_call_goes_on_from_the_first() -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4))
    trainer = st.Trainer(sae, st.TrainConfig(**QUIET))
    first = trainer.fit(activations(60))
    before = nmse(sae, torch.cat(activations(5, seed=1)))
    second = trainer.fit(activations(60, seed=2))
    assert second.reconstruction[0] < 1.2 * first.reconstruction[-1] < 0.7 * first.reconstruction[0]
    assert nmse(sae, torch.cat(activations(5, seed=1))) < before


def test_an_interrupt_leaves_a_module_that_works_on_raw_activations() -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4))

    def interrupted() -> Any:
        yield from activations(80)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        st.Trainer(sae, st.TrainConfig(**QUIET)).fit(interrupted(), steps=1000)
    assert sae.training
    with pytest.warns(UserWarning, match=r"not settled, they gave \d+% .*: call st\.calibrate\(sae, batches\) first"):
        nmse(sae, torch.cat(activations(5, seed=1)))
    st.calibrate(sae, activations(5, seed=2))
    assert nmse(sae, torch.cat(activations(5, seed=1))) < 0.6


def test_a_diverging_loss_stops_with_its_step() -> None:
    sae = st.SparseAutoencoder(16, 64, st.TokenChoice(4))
    with torch.no_grad():
        sae.W_dec[3] = float("nan")
    with pytest.raises(
        FloatingPointError,
        match=r"^step 0: scores: expected finite scores, .* found that 256 entries are NaN, .*; lower the",
    ):
        st.Trainer(sae, st.TrainConfig(**QUIET)).fit(activations(3))


def test_a_loss_far_above_that_of_no_reconstruction_stops() -> None:
    sae = st.SparseAutoencoder(16, 64, st.TokenChoice(4), encoder_scale=1e4)
    with pytest.raises(FloatingPointError, match=r"the loss is .* at step 0, where reconstructing nothing would cost"):
        st.Trainer(sae, st.TrainConfig(**QUIET)).fit(activations(3))


def test_inputs_kept_for_calibration_are_bounded() -> None:
    inputs = LastInputs(st.TrainConfig(calibration=1.0, calibration_tokens=700), steps=50)
    for x in activations(50):
        inputs.append(x, len(x))
    assert [x.shape[0] for x in inputs.batches] == [256, 256]
    inputs.append(torch.zeros(900, 16), 900)
    assert [x.shape[0] for x in inputs.batches] == [900]


@pytest.mark.parametrize(
    ("batches", "steps", "message"),
    [
        (iter([]), None, "steps: list_iterator has no length; say how many steps to train"),
        ([], None, "steps: expected 1 or more, found 0"),
        ([torch.ones(4, 9)], None, r"batch 0 must have shape \(tokens, 16\), found \(4, 9\)"),
        ([torch.full((4, 16), float("nan"))], None, "batch 0 holds NaN or infinite activations"),
        ([[1.0]], None, r"batch 0 must have shape \(tokens, 16\), found list"),
        ([[torch.ones(4, 16)]], None, r"found list; of a DataLoader over a TensorDataset pass \[x for x, in loader\]"),
        ([[torch.ones(4, 16)] * 2], None, "found list; pairs are for st.Transcoder"),
        (torch.ones(4, 16), None, r"found one Tensor of shape \(4, 16\); pass x\.split\(2048\)"),
        (np.ones((4, 16)), None, r"found one ndarray of shape \(4, 16\)"),
        ([torch.ones(4, 16)], 3, "batches: ended after 1 of 3 steps"),
    ],
)
def test_batches_that_do_not_fit_are_named(batches: Any, steps: int | None, message: str) -> None:
    sae = st.SparseAutoencoder(16, 64, st.TokenChoice(4))
    with pytest.raises(st.InputError, match=message):
        st.Trainer(sae, st.TrainConfig(**QUIET)).fit(batches, steps)


def test_float16_is_refused_before_the_first_step_and_the_wider_types_train() -> None:
    """Its first step had scores of NaN, and the remedy named was a lower learning rate."""
    message = "sae: expected weights in bfloat16 or float32 for training, found float16"
    narrow = st.SparseAutoencoder(16, 64, st.TokenChoice(4), dtype=torch.float16)
    for made in (narrow, st.Transcoder(16, 8, 64, st.TokenChoice(4), dtype=torch.float16)):
        with pytest.raises(st.InputError, match=message):
            st.Trainer(made)
    later = st.Trainer(st.SparseAutoencoder(16, 64, st.TokenChoice(4)), st.TrainConfig(**QUIET))
    later.sae.half()
    with pytest.raises(st.InputError, match=message):
        later.fit(activations(3))
    for wide in (narrow.float(), narrow.bfloat16()):
        log = st.Trainer(wide, st.TrainConfig(**QUIET)).fit([x.to(wide.W_dec.dtype) for x in activations(3)])
        assert all(map(math.isfinite, log.loss))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number, found 0.0"),
        ({"warm_up": 0.5, "decay": 0.6}, "warm_up \\+ decay: expected at most 1 in all"),
        ({"auxiliary": "both"}, 'auxiliary: expected "auto", "zipf", "k" or "none"'),
        ({"calibration": -0.1}, "calibration: expected a share"),
        ({"decay_shape": "square"}, 'decay_shape: expected "linear" or "cosine"'),
        ({"k_start": 0}, "k_start: expected a positive number, found 0"),
        ({"k_aux": 0}, "k_aux: expected 1 or more, found 0"),
    ],
)
def test_configurations_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(st.InputError, match=message):
        st.TrainConfig(**arguments)


def test_weights_that_are_not_finite_are_no_state_to_go_on_from() -> None:
    trainer = st.Trainer(st.SparseAutoencoder(16, 64, st.TokenChoice(4)), st.TrainConfig(**QUIET))
    batches = activations(3)
    trainer.begin(batches[0], 3, 768)
    trainer.step(batches[0])
    with torch.no_grad():
        trainer.sae.W_enc[3, 5] = float("nan")
    with pytest.raises(FloatingPointError, match="encoder is not finite after step 1: lower the learning rate"):
        trainer.state_dict()
    with pytest.raises(FloatingPointError, match=r"step 1: scores: .* entries are NaN"):
        trainer.step(batches[1])


@pytest.mark.parametrize("entries", [1, 16 * 24])
def test_an_update_in_blocks_of_rows_is_that_of_the_whole(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    for block_entries in (1 << 18, entries):
        monkeypatch.setattr(update_module, "BLOCK_ENTRIES", block_entries)
        sae = st.SparseAutoencoder(16, 64, st.TokenChoice(4))
        st.Trainer(sae, st.TrainConfig(**QUIET)).fit(activations(3))
        trained.append(sae.W_dec.detach())
    torch.testing.assert_close(*trained)


@pytest.mark.parametrize("kind", ["autoencoder", "transcoder"])
@pytest.mark.parametrize("again", [False, True])
def test_a_start_that_is_interrupted_leaves_the_module_on_raw_activations(
    kind: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first schedule and before a second one of the same trainer; then it begins as if nothing had been."""
    generator = torch.Generator().manual_seed(0)
    xs = [100 * torch.randn(100, 8, generator=generator) + 50 for _ in range(4)]
    batches: list[Any] = xs if kind == "autoencoder" else [(x, x[:, :6]) for x in xs]
    choice = st.MutualChoice(k=4)
    sae = st.SparseAutoencoder(8, 32, choice) if kind == "autoencoder" else st.Transcoder(8, 6, 32, choice)
    trainer = st.Trainer(sae, st.TrainConfig(progress=False))
    trainer.fit(batches)
    if not again:
        trainer = st.Trainer(sae, st.TrainConfig(progress=False))
    before = {name: value.clone() for name, value in sae.state_dict().items()}

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sae, "normalise_decoder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer.begin(batches[0], steps=4, planned_tokens=400)
    assert trainer.schedule is None
    for name, value in sae.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)
    trainer.fit(batches)
    assert trainer.scale > 0


def test_a_fresh_autoencoder_whose_start_was_interrupted_starts_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets its bias from the data at the next try."""
    probe = 100 * torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) + 50

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def begun(tries: int) -> dict[str, torch.Tensor]:
        sae = st.SparseAutoencoder(8, 32, st.MutualChoice(k=4))
        trainer = st.Trainer(sae, st.TrainConfig(progress=False))
        for _ in range(tries - 1):
            with monkeypatch.context() as patch:
                patch.setattr(trainer_module, "start", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    trainer.begin(probe, steps=4, planned_tokens=400)
        trainer.begin(probe, steps=4, planned_tokens=400)
        return dict(sae.named_parameters())

    once, again = begun(1), begun(2)
    for name, weight in once.items():
        torch.testing.assert_close(again[name], weight)
    assert bool(again["b_dec"].any())


@pytest.mark.parametrize("turned", ["saved", "resumed"])
def test_moments_follow_the_weights_whatever_lies_in_memory_how(turned: str) -> None:
    """The fused optimiser of the CPU goes by places in memory, and a state keeps those of the weights it is of."""
    batches = [torch.randn(256, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]

    def trainer(by_columns: bool) -> st.Trainer:
        sae = st.SparseAutoencoder(16, 48, st.MutualChoice(4))
        for weight in sae.parameters() if by_columns else ():
            weight.data = weight.data.T.contiguous().T if weight.ndim == 2 else weight.data
        return st.Trainer(sae, st.TrainConfig(progress=False))

    one, other = trainer(turned == "saved"), trainer(turned == "resumed")
    one.begin(batches, 8, 8 * 256)
    for x in batches[:4]:
        one.step(x)
    other.load_state_dict(copy.deepcopy(one.state_dict()), 8 * 256)
    for x in batches[4:]:
        one.step(x)
        other.step(x)
    for name, value in one.sae.state_dict().items():
        torch.testing.assert_close(other.sae.state_dict()[name], value, msg=name)
