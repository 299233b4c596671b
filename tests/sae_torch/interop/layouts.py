"""Dictionaries as the families publish them, on random weights, with what each means by them, written out densely.

Every formula here is the family's own: it shares no line with the readers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

Dense = Callable[[Tensor], tuple[Tensor, Tensor]]
NORM = 3.7


@dataclass(frozen=True)
class Weights:
    """Encoder (d, F), decoder (F, d), biases and thresholds of either sign, in float64."""

    E: Tensor
    b: Tensor
    D: Tensor
    c: Tensor
    t: Tensor

    def stored(self, dtype: torch.dtype) -> Weights:
        """As a file of that type holds them."""
        return Weights(*(each.to(dtype).double() for each in (self.E, self.b, self.D, self.c, self.t)))


@dataclass(frozen=True)
class Published:
    """A dictionary on the disk.

    `repository` is the folder that a hub knows, `path` what is given to a reader, and `dense` gives activations and
    reconstructions in float64.
    """

    format: str
    repository: Path
    path: Path
    dense: Dense
    expected: dict[str, Any]


def weights(d: int, F: int, seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = normal(F, d) * (0.2 + 2.0 * torch.rand(F, 1, generator=generator, dtype=torch.float64))
    return Weights(normal(d, F) / math.sqrt(d), 0.3 * normal(F), rows, 0.8 * normal(d), 0.5 * normal(F))


def jump(pre: Tensor, threshold: Tensor | float) -> Tensor:
    """Strictly above the threshold, and never below 0."""
    return torch.where(pre > threshold, pre, 0.0).clamp_min(0.0)


def top(pre: Tensor, k: int) -> Tensor:
    best = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, best.indices, best.values.clamp_min(0.0))


def hub(root: Path, name: str) -> Path:
    """As the cache of a hub lays a repository out."""
    folder = root / f"models--{name.replace('/', '--')}" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def plain(w: Weights, threshold: Tensor | float) -> Dense:
    """Not centred."""

    def dense(x: Tensor) -> tuple[Tensor, Tensor]:
        acts = jump(x @ w.E + w.b, threshold)
        return acts, acts @ w.D + w.c

    return dense


def gemma_scope(
    root: Path, w: Weights, dtype: torch.dtype = torch.float32, folder: str = "layer_20/width_16k/average_l0_71",
    small: bool = False, site: str = "res", **more: Any,
) -> Published:  # fmt: skip
    """An archive of arrays; `embedding` in the folder means that inputs were divided by sqrt(d)."""
    w = w.stored(dtype)
    repository = hub(root, f"google/gemma-scope-2b-pt-{site}")
    path = repository / folder
    path.mkdir(parents=True)
    names = (
        ("w_enc", "b_enc", "w_dec", "b_dec", "threshold")
        if small
        else ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    )
    arrays = dict(zip(names, (w.E, w.b, w.D, w.c, w.t), strict=True)) | more
    np.savez(path / "params.npz", **{name: each.to(dtype).numpy() for name, each in arrays.items()})
    if "embedding" in folder:
        scale = math.sqrt(len(w.c))

        def dense(x: Tensor) -> tuple[Tensor, Tensor]:
            acts = jump((x / scale) @ w.E + w.b, w.t)
            return acts, scale * (acts @ w.D) + w.c

        about = {"hook_name": "hook_embed", "hook_layer": 0}
    else:
        dense = plain(w, w.t)
        places = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
        layer = int(folder.split("/")[0].removeprefix("layer_"))
        place = places.get(site, "ln2.hook_normalized")
        about = {"hook_name": f"blocks.{layer}.{place}", "hook_layer": layer}
        if site == "transcoders":
            about["hook_name_out"] = f"blocks.{layer}.hook_mlp_out"
    l0 = int(folder.rsplit("_", 1)[1])
    return Published("gemma-scope", repository, path, dense, {"model_name": "gemma-2-2b", "l0": l0} | about)


def gemma_scope_2(
    root: Path, w: Weights, dtype: torch.dtype = torch.float32, folder: str = "resid_post/layer_12_width_16k_l0_small",
    config: bool = True, skip: Tensor | None = None, **changes: Any,
) -> Published:  # fmt: skip
    """Transcoders may have an affine connection, (d_in, d_out)."""
    w = w.stored(dtype)
    repository = hub(root, "google/gemma-scope-2-270m-pt")
    path = repository / folder
    path.mkdir(parents=True)
    tensors = {"w_enc": w.E, "b_enc": w.b, "w_dec": w.D, "b_dec": w.c, "threshold": w.t}
    if skip is not None:
        skip = skip.to(dtype).double()
        tensors["affine_skip_connection"] = skip
    save_file({name: each.to(dtype).contiguous() for name, each in tensors.items()}, path / "params.safetensors")
    kind = folder.split("/")[0].removesuffix("_all")
    places = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}
    about: dict[str, Any] = {
        "model_name": "google/gemma-3-270m",
        "hook_name": f"blocks.12.{places.get(kind, 'mlp.hook_in')}",
        "hook_layer": 12,
    }
    if kind == "transcoder":
        about["hook_name_out"] = "blocks.12.hook_mlp_out"
    if config:
        said = {
            "hf_hook_point_in": "model.layers.12.output", "hf_hook_point_out": "model.layers.12.output", "width": 16384,
            "model_name": "google/gemma-3-270m-pt", "architecture": "jump_relu", "l0": 20,
            "affine_connection": skip is not None, "type": "transcoder" if kind == "transcoder" else "sae",
        }  # fmt: skip
        (path / "config.json").write_text(json.dumps(said | changes))
        about |= {"l0": 20}

    def dense(x: Tensor) -> tuple[Tensor, Tensor]:
        acts, y = plain(w, w.t)(x)
        return acts, y if skip is None else y + x @ skip

    return Published("gemma-scope-2", repository, path, dense, about)


def qwen_scope(
    root: Path, w: Weights, dtype: torch.dtype = torch.float32, k: int = 5, config: bool = False,
    name: str = "Qwen/SAE-Res-Qwen3-1.7B-Base-W1K-L0_5",
) -> Published:  # fmt: skip
    """A file for a layer, transposed; a token's k largest pre-activations."""
    w = w.stored(dtype)
    repository = hub(root, name)
    tensors = {"W_enc": w.E.T, "b_enc": w.b, "W_dec": w.D.T, "b_dec": w.c}
    torch.save({each: value.to(dtype).contiguous() for each, value in tensors.items()}, repository / "layer3.sae.pt")
    if config:
        said = {"model_type": "topk_sae", "base_model": "Qwen/Qwen3-1.7B-Base", "k": k, "hook_point": "resid_post"}
        (repository / "config.json").write_text(json.dumps(said))

    def dense(x: Tensor) -> tuple[Tensor, Tensor]:
        acts = top(x @ w.E + w.b, k)
        return acts, acts @ w.D + w.c

    about = {"model_name": "Qwen/Qwen3-1.7B-Base", "hook_name": "blocks.3.hook_resid_post", "hook_layer": 3, "l0": k}
    return Published("qwen-scope", repository, repository / "layer3.sae.pt", dense, about)


def llama_scope(
    root: Path, w: Weights, dtype: torch.dtype = torch.bfloat16, with_norms: bool = False, threshold: float = 0.4,
    out: float | None = None, **changes: Any,
) -> Published:  # fmt: skip
    """Inputs scaled to a mean norm of sqrt(d); the threshold is in units of what is not scaled.

    `out` is the mean norm of what a transcoder writes.
    """
    w = w.stored(dtype)
    d, F = w.E.shape
    repository = hub(root, "fnlp/Llama3_1-8B-Base-LXR-8x")
    path = repository / "Llama3_1-8B-Base-L15R-8x"
    (path / "checkpoints").mkdir(parents=True)
    tensors = {"encoder.weight": w.E.T, "encoder.bias": w.b, "decoder.weight": w.D.T, "decoder.bias": w.c}
    tensors = {name: each.to(dtype).contiguous() for name, each in tensors.items()}
    save_file(tensors, path / "checkpoints" / "final.safetensors")
    site, site_out = "blocks.15.hook_resid_post", "blocks.15.hook_resid_post"
    if out is not None:
        site, site_out = "blocks.15.ln2.hook_normalized", "blocks.15.hook_mlp_out"
    said = {
        "hook_point_in": site, "hook_point_out": site_out, "d_model": d, "d_sae": F, "act_fn": "jumprelu", "top_k": 50,
        "jump_relu_threshold": threshold, "norm_activation": "dataset-wise", "use_decoder_bias": True,
        "dataset_average_activation_norm": {"in": NORM, "out": out or NORM}, "apply_decoder_bias_to_pre_encoder": False,
        "sparsity_include_decoder_norm": with_norms,
    }  # fmt: skip
    (path / "hyperparams.json").write_text(json.dumps(said | changes))
    s, s_out = math.sqrt(d) / NORM, math.sqrt(d) / (out or NORM)

    def dense(x: Tensor) -> tuple[Tensor, Tensor]:
        pre = (s * x) @ w.E + w.b
        # as the library folds them: biases over their scales, the decoder times s / s_out, then rows to norm 1
        counted = (pre / s) * (w.D * s / s_out).norm(dim=1) if with_norms else pre / s
        acts = torch.where(counted > threshold, pre, 0.0).clamp_min(0.0)
        return acts, (acts @ w.D + w.c) / s_out

    about = {"model_name": "meta-llama/Llama-3.1-8B", "hook_name": site, "hook_layer": 15, "l0": 50}
    about |= {"hook_name_out": site_out} if out is not None else {}
    return Published("llama-scope", repository, path, dense, about)


def llamascopium(
    root: Path, w: Weights, dtype: torch.dtype = torch.float32, version: int = 2, act_fn: str = "jumprelu",
    with_norms: bool = True, norm: str = "dataset-wise", k: int = 5, out: float | None = None, **changes: Any,
) -> Published:  # fmt: skip
    """Logarithms of thresholds; version 1 is Llama Scope R1. `out` is the mean norm of what a transcoder writes."""
    w = w.stored(dtype)
    d, F = w.E.shape
    repository = hub(root, "fnlp/Llama-Scope-R1-Distill")
    path = repository / "800M-Slimpajama-0-OpenR1-Math-220k" / "L5R"
    path.mkdir(parents=True)
    log = (w.t.abs() + 0.05).log().to(dtype)
    site = "blocks.5.hook_resid_post"
    site_out = site if out is None else "blocks.5.hook_mlp_out"
    tensors = {"W_E": w.E, "b_E": w.b, "W_D": w.D, "b_D": w.c, "activation_function.log_jumprelu_threshold": log}
    if version == 1:
        tensors = {"encoder.weight": w.E.T, "encoder.bias": w.b, "decoder.weight": w.D.T, "decoder.bias": w.c}
        tensors["log_jumprelu_threshold"] = log
    if act_fn != "jumprelu":
        tensors = {name: each for name, each in tensors.items() if "threshold" not in name}
    tensors[f"dataset_average_activation_norm.{site}"] = torch.tensor(NORM)
    if out is not None:
        tensors[f"dataset_average_activation_norm.{site_out}"] = torch.tensor(out)
    types = {name: torch.float32 if "norm" in name else dtype for name in tensors}
    save_file(
        {name: each.to(types[name]).contiguous() for name, each in tensors.items()}, path / "sae_weights.safetensors"
    )
    said = {
        "sae_type": "sae", "hook_point_in": site, "hook_point_out": site_out, "d_model": d, "expansion_factor": F // d,
        "act_fn": act_fn, "norm_activation": norm, "sparsity_include_decoder_norm": with_norms, "top_k": k,
        "use_decoder_bias": True, "use_glu_encoder": False,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(said | changes))
    fixed = 1.0 if norm == "inference" else math.sqrt(d) / float(torch.tensor(NORM))
    fixed_out = fixed if out is None else math.sqrt(d) / float(torch.tensor(out))
    threshold = log.double().exp()

    def dense(x: Tensor) -> tuple[Tensor, Tensor]:
        s = math.sqrt(d) / x.norm(dim=1, keepdim=True) if norm == "token-wise" else fixed
        pre = (s * x) @ w.E + w.b
        norms = w.D.norm(dim=1) if with_norms else torch.ones(F, dtype=torch.float64)
        if act_fn == "topk":
            acts = top(pre * norms, k) / norms
        else:
            acts = jump(pre * norms, threshold if act_fn == "jumprelu" else 0.0) / norms
        return acts, (acts @ w.D + w.c) / (s if norm == "token-wise" else fixed_out)

    about = {"hook_name": site, "hook_layer": 5, "l0": k, "model_name": "meta-llama/Llama-3.1-8B"}
    about |= {"hook_name_out": site_out} if out is not None else {}
    return Published("llamascopium", repository, path, dense, about)


def goodfire(
    root: Path, w: Weights, dtype: torch.dtype = torch.float32, name: str = "Llama-3.1-8B-Instruct-SAE-l19.pth"
) -> Published:
    """A ReLU; DeepSeek's has shorter names."""
    w = w.stored(dtype)
    deepseek = name.startswith("DeepSeek")
    repository = hub(
        root, "qresearch/" + name.partition(".pt")[0] if deepseek else "Goodfire/" + name.partition(".pt")[0]
    )
    encoder, decoder = ("encoder", "decoder") if deepseek else ("encoder_linear", "decoder_linear")
    tensors = {f"{encoder}.weight": w.E.T, f"{encoder}.bias": w.b, f"{decoder}.weight": w.D.T, f"{decoder}.bias": w.c}
    torch.save({key: each.to(dtype).contiguous() for key, each in tensors.items()}, repository / name)
    owner = "deepseek-ai" if deepseek else "meta-llama"
    about = {
        "model_name": f"{owner}/{name.partition('-SAE')[0]}",
        "hook_name": "blocks.19.hook_resid_post",
        "hook_layer": 19,
    }
    return Published("goodfire", repository, repository / name, plain(w, 0.0), about)


def hook_z(root: Path, w: Weights, dtype: torch.dtype = torch.float32) -> Published:
    """Centred."""
    w = w.stored(dtype)
    repository = hub(root, "ckkissane/attn-saes-gpt2-small-all-layers")
    name = "gpt2-small_L1_Hcat_z_lr1.20e-03_l18.00e-01_ds24576_bs4096_dc1.00e-06_rsanthropic_rie25000_nr4_v5"
    tensors = {"W_enc": w.E, "b_enc": w.b, "W_dec": w.D, "b_dec": w.c}
    torch.save({key: each.to(dtype) for key, each in tensors.items()}, repository / f"{name}.pt")
    said = {"act_size": w.E.shape[0], "dict_size": w.E.shape[1], "act_name": "blocks.1.attn.hook_z"}
    (repository / f"{name}_cfg.json").write_text(json.dumps(said))

    def dense(x: Tensor) -> tuple[Tensor, Tensor]:
        acts = jump((x - w.c) @ w.E + w.b, 0.0)
        return acts, acts @ w.D + w.c

    about = {"model_name": "gpt2-small", "hook_name": "blocks.1.attn.hook_z", "hook_layer": 1}
    return Published("hook-z", repository, repository / f"{name}.pt", dense, about)
