"""The module as part of a user's model."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sae_torch as st
from sae_torch.rough_scores import RoughScores
from sae_torch.sparse_coder import unit_rows


class UserModel(nn.Module):
    """A model of somebody else with the layer inside."""

    def __init__(self, choice: st.Choice) -> None:
        super().__init__()
        self.before = nn.Linear(16, 16)
        self.sae = st.SparseAutoencoder(16, 64, choice)

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * self.sae(torch.tanh(self.before(x))).x_hat


# the compiler looks at .grad of whatever crosses a graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "choice",
    [
        st.TokenChoice(4),
        st.MutualChoice(4),
        st.FeatureChoice(4, switch_tokens=10**9),
        st.BalancedChoice(4, feature_floors=0.01),
    ],
)
def test_a_compiled_model_gives_the_same_answers_and_gradients(choice: st.Choice) -> None:
    torch.manual_seed(0)
    model = UserModel(copy.deepcopy(choice))
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.randn(50, 16)
    for _ in range(3):
        ours, expected = compiled(x), reference(x)
        torch.testing.assert_close(ours, expected)
        model.zero_grad()
        reference.zero_grad()
        ours.square().sum().backward()
        expected.square().sum().backward()
        for (name, one), (_, two) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
            torch.testing.assert_close(one.grad, two.grad, msg=name)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, equal_nan=True)


def test_scores_come_along_only_on_request() -> None:
    sae = st.SparseAutoencoder(8, 32, st.TokenChoice(2))
    x = torch.randn(5, 8)
    assert sae(x).pre is None
    pre = sae(x, return_pre=True).pre
    assert pre is not None
    torch.testing.assert_close(pre, (x - sae.b_dec) @ sae.W_enc * sae.W_dec.norm(dim=1) + sae.b_enc)
    assert not pre.requires_grad


@pytest.mark.parametrize("score_dtype", [None, torch.float32, torch.bfloat16])
def test_scores_are_written_over_those_no_longer_needed(score_dtype: torch.dtype | None) -> None:
    sae = st.SparseAutoencoder(8, 32, st.TokenChoice(2), score_dtype=score_dtype)
    one, two = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    memory = _product(sae(one, return_pre=True))
    out = sae(two, return_pre=True, memory=memory)
    fresh = sae(two, return_pre=True)
    assert _product(out) is memory
    assert memory.dtype == sae.product_dtype(len(two))
    assert out.pre is not None
    assert fresh.pre is not None
    assert torch.equal(out.pre, fresh.pre)
    assert torch.equal(out.x_hat, fresh.x_hat)
    for unfit in (torch.empty(5, 31), torch.empty(5, 32, dtype=torch.float64)):
        assert torch.equal(sae(two, memory=unfit).x_hat, fresh.x_hat)


def _product(out: st.Output) -> torch.Tensor:
    scores = out.scores.near if isinstance(out.scores, RoughScores) else out.scores
    assert isinstance(scores, torch.Tensor)
    return scores


def test_scores_do_not_depend_on_the_scale_between_encoder_and_decoder() -> None:
    sae = st.SparseAutoencoder(8, 32, st.MutualChoice(2))
    other = copy.deepcopy(sae)
    factors = 0.5 + torch.rand(32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        other.W_dec.div_(factors[:, None])
        other.W_enc.mul_(factors)
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    one, two = sae(x), other(x)
    assert torch.equal(one.codes.features, two.codes.features)
    torch.testing.assert_close(one.x_hat, two.x_hat)
    other.normalise_decoder()
    torch.testing.assert_close(other.W_enc, sae.W_enc)


def test_rounded_scores_decide_who_matches_but_not_how_strongly() -> None:
    choice = st.BalancedChoice(4, token_caps=6)  # limits on both sides take the product as it comes
    sae = st.SparseAutoencoder(16, 64, copy.deepcopy(choice), score_dtype=torch.bfloat16)
    x = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    scores = sae.scores(x)
    assert scores.dtype == torch.bfloat16
    expected = copy.deepcopy(sae.choice).mask(scores)
    codes = sae.encode(x)
    assert torch.equal(codes.to_dense().detach() != 0, expected)
    exact = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    torch.testing.assert_close(codes.values, exact[codes.tokens, codes.features])


def test_a_state_dict_restores_everything_that_a_forward_uses() -> None:
    sae = st.SparseAutoencoder(8, 32, st.FeatureChoice(2))
    batches = [torch.randn(100, 8, generator=torch.Generator().manual_seed(i)) for i in range(12)]
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
    again = st.SparseAutoencoder(8, 32, st.FeatureChoice(2), seed=1)
    again.load_state_dict(sae.state_dict())
    for mode in (False, True):
        one, two = sae.train(mode)(batches[0]), again.train(mode)(batches[0])
        assert torch.equal(one.x_hat, two.x_hat)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.SparseAutoencoder(0, 8, st.TokenChoice(1)), "d_model: expected a positive integer, found 0"),
        (lambda: st.SparseAutoencoder(4, 8.0, st.TokenChoice(1)), "n_features: expected a positive integer"),  # type: ignore[arg-type]
        (lambda: st.SparseAutoencoder(4, 8, "topk"), "choice: expected a choice such as"),  # type: ignore[arg-type]
        (lambda: st.SparseAutoencoder(4, 8, st.TokenChoice(1), dtype=torch.int64), "dtype: expected a floating-point"),
        (
            lambda: st.SparseAutoencoder(4, 8, st.TokenChoice(1))(torch.ones(3, 5)),
            r"x: .* \(tokens, 4\), found \(3, 5\)",
        ),
        (lambda: st.SparseAutoencoder(4, 8, st.TokenChoice(1))(torch.ones(3, 4).half()), "x: expected torch.float32"),
        (lambda: st.calibrate(st.SparseAutoencoder(4, 8, st.MutualChoice(1)), []), "at least one token"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(st.InputError, match=message):
        call()


def test_the_import_is_light() -> None:
    """A few modules beyond torch and its own, none of the command line, the language model, the compiler."""
    script = (
        "import sys, torch\nbefore = set(sys.modules)\nimport sae_torch\n"
        "assert not {'transformers', 'matplotlib', 'tyro', 'torch._dynamo'} & set(sys.modules)\n"
        "own = 'allocation', 'sae_torch'\n"
        "print(*sorted(m for m in set(sys.modules) - before if m.split('.')[0] not in own))"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert len(run.stdout.split()) <= 60, run.stdout


def test_safetensors_saves_its_state_and_training_goes_on_from_it(tmp_path: Path) -> None:
    """As from a state of torch's own, with the encoder laid out in memory as a fast optimiser wants it."""
    sae = st.SparseAutoencoder(8, 24, st.BalancedChoice(4, feature_floors=0.02))
    sae(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)))
    save_file(sae.state_dict(), tmp_path / "sae.safetensors")
    twin = st.SparseAutoencoder(8, 24, st.BalancedChoice(4, feature_floors=0.02), seed=1)
    twin.load_state_dict(load_file(tmp_path / "sae.safetensors"))
    for key, value in sae.state_dict().items():
        assert torch.equal(twin.state_dict()[key], value), key
    assert all(weight.is_contiguous() for weight in twin.parameters())
    transposed = dict(sae.state_dict())
    transposed["W_enc"] = transposed.pop("encoder").T
    names = list(transposed)
    twin = st.SparseAutoencoder(8, 24, st.BalancedChoice(4, feature_floors=0.02), seed=2)
    twin.load_state_dict(transposed)
    assert torch.equal(twin.encoder, sae.encoder)
    assert list(transposed) == names  # what the caller holds is left alone


SIZES = strategies.integers(0, 200)


@given(strategies.integers(1, 200), strategies.integers(1, 40), SIZES, SIZES, strategies.integers(1, 400))
def test_rows_that_a_process_holds_are_drawn_as_all_are(n: int, width: int, one: int, other: int, drawn: int) -> None:
    """A block at a time, the same bits."""
    held = slice(min(one, other, n), min(max(one, other), n))
    whole = unit_rows(n, width, torch.Generator().manual_seed(n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sae_torch.sparse_coder.DRAWN", drawn)
        generator = torch.Generator().manual_seed(n)
        assert unit_rows(n, width, generator, held).numpy().tobytes() == whole[held].numpy().tobytes()
    again = torch.Generator().manual_seed(n)
    torch.randn(n, width, generator=again)
    assert torch.equal(generator.get_state(), again.get_state())  # what is drawn next is the same, too
