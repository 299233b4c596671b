"""The number type in which a machine multiplies matrices fastest, where a bound makes up for what it rounds."""

from __future__ import annotations

import torch

# Tokens below which rounding the encoder takes longer than a product in bfloat16 saves.
FEW_TOKENS = 256


def multiplies_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for products in bfloat16; elsewhere they are slower than float32."""
    reads = getattr(torch.cpu, "get_capabilities", None)
    if reads is not None:
        capabilities = reads()
        return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    return any(
        getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )  # torch before 2.11


def product_dtype(asked: torch.dtype | str, tokens: int) -> torch.dtype:
    """Float32 or bfloat16: what was asked for, or of "auto" what is faster for so many tokens.

    Where torch has been told to round float32 products itself, they are bfloat16's.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.product_dtype import product_dtype
    >>> product_dtype("auto", tokens=1)
    torch.float32
    >>> product_dtype(torch.bfloat16, tokens=1)
    torch.bfloat16
    """
    if asked != torch.bfloat16 and _rounds_float32():
        return torch.bfloat16
    if isinstance(asked, torch.dtype):
        return asked
    return torch.bfloat16 if tokens >= FEW_TOKENS and multiplies_bfloat16() else torch.float32


def _rounds_float32() -> bool:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return getattr(matmul, "fp32_precision", "none") not in ("none", "ieee")
