"""An autoencoder as SAEBench expects one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.errors import InputError
from sae_torch.interop.inference_form import InferenceForm
from sae_torch.ops import rounded_down


@dataclass
class BenchmarkConfig:
    """The entries that SAEBench reads of a configuration."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    architecture: str
    dtype: str
    device: str
    context_size: int | None = None
    hook_head_index: int | None = None
    apply_b_dec_to_input: bool = True
    finetuning_scaling_factor: bool = False
    activation_fn_str: str = "relu"
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    prepend_bos: bool = False
    normalize_activations: str = "none"
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -100_000
    sae_lens_training_version: str | None = None
    sae_lens_version: str | None = None
    neuronpedia_id: str | None = None

    @property
    def metadata(self) -> Any:
        """Newer versions look for the same entries here, and set what they have found."""
        return self.__dict__.get("_metadata", self)

    @metadata.setter
    def metadata(self, found: Any) -> None:
        self.__dict__["_metadata"] = found

    def to_dict(self) -> dict[str, Any]:
        """All entries, as SAEBench writes them beside its results."""
        return asdict(self)

    def get(self, name: str, default: Any = None) -> Any:
        """An entry by name."""
        return getattr(self, name, default)


class BenchmarkAutoencoder(nn.Module):
    """An autoencoder with dense activations, its weights and its configuration where SAEBench looks for them.

    ::

        encode: (..., d_model) -> (..., features),   decode: (..., features) -> (..., d_model),   rows of norm 1

    Parameters
    ----------
    sae : SparseAutoencoder
        Trained or calibrated, unless it is token choice. It is copied; its batch-free form is used.
    model_name, hook_name : str
        Of the model in TransformerLens and of the site in it, for instance ``blocks.10.hook_resid_post``.
    hook_layer : int, optional
        Found in `hook_name` by default.
    context_size : int, optional

    Raises
    ------
    InputError
        If the choice has no batch-free form of thresholds, or `hook_name` names no layer.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> from sae_torch.interop.saebench import BenchmarkAutoencoder
    >>> sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(k=2))
    >>> adapter = BenchmarkAutoencoder(sae, "some-model", "blocks.3.hook_resid_post")
    >>> adapter.encode(torch.randn(2, 5, 4)).shape, adapter.cfg.hook_layer
    (torch.Size([2, 5, 8]), 3)
    """

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    threshold: nn.Parameter

    def __init__(
        self,
        sae: SparseAutoencoder,
        model_name: str,
        hook_name: str,
        hook_layer: int | None = None,
        context_size: int | None = None,
    ) -> None:
        super().__init__()
        form = InferenceForm.of(sae)
        form.require_autoencoder("SAEBench")
        form.require_thresholds_alone("SAEBench")
        form.require_plain_inputs("SAEBench")
        layer = re.search(r"\.(\d+)(?:\.|$)", hook_name)
        if hook_layer is None and layer is None:
            raise InputError(f"hook_layer: {hook_name!r} names no layer, say which it is")
        for name, tensor in form.tensors.items():
            self.register_parameter(name, nn.Parameter(tensor.clone(), requires_grad=False))
        self.k = form.k
        self.cfg = BenchmarkConfig(
            model_name=model_name,
            d_in=sae.d_model,
            d_sae=sae.n_features,
            hook_layer=int(layer[1]) if hook_layer is None and layer is not None else int(hook_layer or 0),
            hook_name=hook_name,
            architecture="jumprelu" if form.k is None else "topk",
            dtype=str(sae.W_dec.dtype).removeprefix("torch."),
            device=str(sae.W_dec.device),
            context_size=context_size,
        )
        self.to(sae.W_dec.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BenchmarkAutoencoder:
        before = self._parameters.get("threshold")
        exact = None if before is None else before.detach()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if exact is not None:  # SAEBench casts to the language model's type, which rounds to the nearest
            self.threshold.data = rounded_down(exact.to(self.threshold.device), self.threshold.dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.W_dec.dtype

    def encode(self, x: Tensor) -> Tensor:
        """Dense activations."""
        pre = (x.to(self.dtype) - self.b_dec) @ self.W_enc + self.b_enc
        if self.k is None:
            return torch.relu(pre) * (pre > self.threshold)
        top = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, torch.relu(top.values))

    def decode(self, acts: Tensor) -> Tensor:
        """Reconstruction from dense activations."""
        return acts @ self.W_dec + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def check_decoder_norms(self) -> bool:
        """Whether decoder rows have norm 1, within the rounding of their type."""
        tolerance = max(1e-5, torch.finfo(self.dtype).eps)
        return bool(((self.W_dec.float().norm(dim=1) - 1).abs() < tolerance).all())
