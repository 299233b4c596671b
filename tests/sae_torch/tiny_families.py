"""Tiny random models of several families, made from their configurations."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import transformers

# every family reads the names that it knows
SMALL: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 16, "d_model": 16, "n_embd": 16, "emb_dim": 16, "word_embed_proj_dim": 16,
    "intermediate_size": 32, "ffn_dim": 32, "d_inner": 32, "decoder_ffn_dim": 32, "encoder_ffn_dim": 32,
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "decoder_layers": 4, "encoder_layers": 4,
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "decoder_attention_heads": 2, "encoder_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32, "n_positions": 32, "max_seq_len": 32,
    "num_layers": 4, "num_heads": 2, "embed_dim": 16, "embedding_size": 16, "mlp_hidden_size": 32, "rotary_dim": 4,
    "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8, "shared_intermediate_size": 32, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "state_size": 8, "max_target_positions": 32, "sliding_window": 16, "attention_hidden_size": 16,
    "initializer_range": 0.5, "init_std": 0.5,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "is_decoder": True,
}  # fmt: skip


def tiny(kind: str, **options: Any) -> Any:
    """``tiny("Qwen3ForCausalLM")``: seeded, in evaluation mode, without gradients."""
    config = getattr(transformers, kind).config_class()
    parts = [config, *(part for part in vars(config).values() if isinstance(part, transformers.PretrainedConfig))]
    for part in parts:
        for name, value in (SMALL | options).items():
            if hasattr(part, name):
                with contextlib.suppress(NotImplementedError, AttributeError):  # XLNet has no longest window
                    setattr(part, name, value)
        if getattr(part, "layer_types", None) is not None:
            with contextlib.suppress(AttributeError):  # Mamba's follow from its layers
                part.layer_types = part.layer_types[:4]
    torch.manual_seed(0)
    return getattr(transformers, kind)._from_config(config).eval().requires_grad_(False)
