"""The training classes of our choices as architectures of SAELens, which `saelens_training` registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import allocation
from sae_torch.calibration import calibrate_choice
from sae_torch.choices.balanced import BalancedChoice
from sae_torch.choices.choice import Choice
from sae_torch.choices.feature import FeatureChoice
from sae_torch.choices.mutual import MutualChoice
from sae_torch.choices.token import TokenChoice
from sae_torch.ops import rounded_down

# SAELens casts checkpoints to the dtype of the weights: bytes survive that, counts and densities do not.
STATISTICS, PACKED = "activation_fn.", "activation_fn.packed"


class DenseChoice(nn.Module):
    """A choice where a dense activation is expected: scores of shape (..., features) in, activations out."""

    def __init__(self, choice: Choice, n_features: int) -> None:
        super().__init__()
        choice.build(n_features)
        self.choice = choice

    def forward(self, scores: Tensor) -> Tensor:
        """Selected scores, zeros elsewhere; all leading axes are one batch."""
        flat = scores.reshape(-1, scores.shape[-1])
        dense: Tensor = self.choice(flat).to_dense()
        return dense.reshape(scores.shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DenseChoice:
        # statistics follow the module to its device, never to its dtype
        super()._apply(lambda tensor: tensor.to(fn(tensor.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        return self


def training_classes() -> dict[str, tuple[Any, Any]]:
    """The classes by name; made when asked for, since SAELens takes seconds to import."""
    from sae_lens.saes.jumprelu_sae import JumpReLUSAEConfig
    from sae_lens.saes.topk_sae import TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from safetensors.torch import load, save

    from sae_torch.interop.inference_form import settings

    class AllocationSAE(TopKTrainingSAE):  # type: ignore[misc]
        """SAELens' training class with one of our choices as its activation."""

        def get_activation_fn(self) -> DenseChoice:
            return DenseChoice(self.cfg.make_choice(), self.cfg.d_sae)

        @torch.no_grad()
        def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
            super().fold_activation_norm_scaling_factor(scaling_factor)
            if self.cfg.rescale_acts_by_decoder_norm:
                self.activation_fn.choice.rescale(1.0 / scaling_factor)  # the decoder was divided by it

        def calibrate(self, batches: Iterable[Tensor]) -> None:
            """Set the thresholds to the prices of one pooled problem over all batches, at frozen weights."""
            calibrate_choice(self.activation_fn.choice, lambda x: [self._scores(x)], batches)

        def _scores(self, x: Tensor) -> Tensor:
            scores: Tensor = self.process_sae_in(x) @ self.W_enc + self.b_enc
            return scores * self.W_dec.norm(dim=-1) if self.cfg.rescale_acts_by_decoder_norm else scores

        def process_state_dict_for_saving(self, state_dict: dict[str, Any]) -> None:
            super().process_state_dict_for_saving(state_dict)
            names = [name for name in state_dict if name.startswith(STATISTICS)]
            statistics = {name: state_dict.pop(name).contiguous() for name in names}
            if statistics:
                state_dict[PACKED] = torch.frombuffer(bytearray(save(statistics)), dtype=torch.uint8)

        def process_state_dict_for_loading(self, state_dict: dict[str, Any]) -> None:
            super().process_state_dict_for_loading(state_dict)
            packed = state_dict.pop(PACKED, None)
            if packed is not None:
                state_dict.update(load(packed.cpu().to(torch.uint8).numpy().tobytes()))

        def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
            super().process_state_dict_for_saving_inference(state_dict)
            state_dict.pop(PACKED, None)
            batch_free = self.activation_fn.choice.batch_free()
            if not isinstance(batch_free, Choice):
                theta = rounded_down(batch_free.theta.to(self.b_enc.device), self.b_enc.dtype)
                state_dict["threshold"] = theta.expand_as(self.b_enc).contiguous()

    @dataclass(kw_only=True)
    class AllocationConfig(TopKTrainingSAEConfig):  # type: ignore[misc]
        k: float

        @classmethod
        def architecture(cls) -> str:
            raise NotImplementedError

        def make_choice(self) -> Choice:
            raise NotImplementedError

        def get_inference_config_class(self) -> Any:
            return JumpReLUSAEConfig

        def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
            config: dict[str, Any] = super().get_inference_sae_cfg_dict()
            ours = {"version": allocation.__version__, **settings(self.make_choice())}
            return config | {"metadata": config["metadata"] | {"allocation": ours}}

    @dataclass(kw_only=True)
    class TokenChoiceConfig(AllocationConfig):
        """Each token takes its best k features."""

        @classmethod
        def architecture(cls) -> str:
            return "token_choice"

        def make_choice(self) -> Choice:
            return TokenChoice(int(self.k))

        def get_inference_config_class(self) -> Any:
            return TopKSAEConfig

        def get_inference_sae_cfg_dict(self) -> dict[str, Any]:
            # the rows are written with norm 1
            return super().get_inference_sae_cfg_dict() | {"k": int(self.k), "rescale_acts_by_decoder_norm": False}

    @dataclass(kw_only=True)
    class MutualChoiceConfig(AllocationConfig):
        """The best matches of the whole batch, k per token on average."""

        @classmethod
        def architecture(cls) -> str:
            return "mutual_choice"

        def make_choice(self) -> Choice:
            return MutualChoice(self.k)

    @dataclass(kw_only=True)
    class FeatureChoiceConfig(AllocationConfig):
        """Mutual choice for `switch_tokens` tokens, then each feature takes its best tokens."""

        switch_tokens: int
        quotas: str = "zipf"

        @classmethod
        def architecture(cls) -> str:
            return "feature_choice"

        def make_choice(self) -> Choice:
            return FeatureChoice(self.k, self.quotas, switch_tokens=self.switch_tokens)

    @dataclass(kw_only=True)
    class BalancedChoiceConfig(AllocationConfig):
        """A budget for the batch with caps and floors on every feature."""

        feature_caps: float | None = None
        feature_floors: float | None = None

        @classmethod
        def architecture(cls) -> str:
            return "balanced_choice"

        def make_choice(self) -> Choice:
            return BalancedChoice(self.k, feature_caps=self.feature_caps, feature_floors=self.feature_floors)

    configurations = (TokenChoiceConfig, MutualChoiceConfig, FeatureChoiceConfig, BalancedChoiceConfig)
    return {config.architecture(): (AllocationSAE, config) for config in configurations}
