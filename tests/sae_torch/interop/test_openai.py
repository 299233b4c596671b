"""OpenAI's files for GPT-2 small: their two activations, and what the path says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae_torch as st
from sae_torch.interop import formats, openai

D, F, K = 8, 20, 3


def written(tmp_path: Path, dtype: torch.dtype = torch.float32, **entries: Any) -> tuple[Path, dict[str, Tensor]]:
    """A file in their words, with decoder norms over an order of magnitude."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"pre_bias": (D,), "encoder.weight": (F, D), "latent_bias": (F,), "decoder.weight": (D, F)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights["decoder.weight"] *= torch.logspace(-0.5, 0.5, F)
    weights = {name: value.to(dtype) for name, value in weights.items()}
    folder = tmp_path / "resid_delta_mlp_v5_32k" / "autoencoders"
    folder.mkdir(parents=True)
    torch.save({**weights, "stats_last_nonzero": torch.zeros(F, dtype=torch.long), **entries}, folder / "6.pt")
    return folder / "6.pt", weights


def dense(w: dict[str, Tensor], x: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """Their forward pass, written anew: with a TopK each input is normalised, with 7 and not 8 in the variance."""
    mean, std = torch.zeros(len(x), 1), torch.ones(len(x), 1)
    if k is not None:
        mean = x.sum(1, keepdim=True) / D
        std = ((x - mean).square().sum(1, keepdim=True) / (D - 1)).sqrt()
    read = (x - mean) / (std + (0 if k is None else 1e-5))
    pre = (read - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]
    acts = pre.relu()
    if k is not None:
        top = pre.topk(k, dim=1)
        acts = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
    return acts, (acts @ w["decoder.weight"].T + w["pre_bias"]) * std + mean


TOP = {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}


# What their own module writes with a later torch, and then does not read.
NESTED = {"activation.k": K, "activation.postact_fn": "ReLU"}


@pytest.mark.parametrize("entries", [TOP, {"activation": "ReLU", "activation_state_dict": {}}, {}], ids=str)
def test_it_is_their_function_here_and_after_an_import(entries: dict[str, Any], tmp_path: Path) -> None:
    path, w = written(tmp_path, **entries, **(NESTED if entries is TOP else {}))
    x = 5 * torch.randn(200, D, generator=torch.Generator().manual_seed(0)) + 3
    acts, x_hat = dense(w, x, K if entries is TOP else None)
    sae = formats.load(path, k=None if entries is TOP else 7)
    for each in (sae, st.load(st.save(sae, tmp_path / "saved"))):
        out = each(x)
        if each is sae or entries is TOP:
            torch.testing.assert_close(out.codes.to_dense(), acts, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(out.x_hat, x_hat, rtol=1e-5, atol=1e-4)


def test_what_the_file_and_its_path_say(tmp_path: Path) -> None:
    path, _ = written(tmp_path, torch.float16, **TOP)
    told = formats.describe(path)
    assert (told.format, told.d_model, told.n_features, told.dtype, told.k) == ("openai", D, F, "float16", K)
    assert (told.model, told.site, told.layer) == ("gpt2-small", "blocks.6.hook_mlp_out", 6)
    assert told.conventions == (openai.NORMALISED,)
    (tmp_path / "7.pt").write_bytes(path.read_bytes())
    assert formats.metadata(tmp_path / "7.pt") == {"model_name": "gpt2-small"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"activation": "Identity"}, r"6\.pt: activation: expected ReLU, or TopK .*, found Identity"),
        (TOP | {"activation_state_dict": {"k": K, "postact_fn": "Identity"}}, "found TopK with 'Identity' after it"),
        (
            TOP | {"activation_state_dict": {"postact_fn": "ReLU"}},
            r"6\.pt: k must be a whole number from 1, found None",
        ),
        ({"pre_bias": torch.zeros(D + 1)}, r"6\.pt: pre_bias: expected shape \(8,\), found \(9,\)"),
        ({"encoder.weight": torch.zeros(3)}, r"6\.pt: encoder\.weight"),
    ],
)
def test_what_has_no_equivalent_is_refused(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, **entries)
    with pytest.raises(st.InputError, match=message):
        formats.load(path, k=3)
