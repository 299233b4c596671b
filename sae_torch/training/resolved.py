"""What a run really uses where its settings leave it open."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from sae_torch.activations.beginning import begins_texts
from sae_torch.activations.config import HarvestOptions
from sae_torch.activations.language_model import forward_dtype
from sae_torch.choices.balanced import BalancedChoice
from sae_torch.devices import described_device, resolved_device
from sae_torch.errors import InputError
from sae_torch.training.run_config import RunConfig
from sae_torch.training.trainer import Trainer

# Most tokens that are shuffled with one another in live mode, which holds them in memory.
LIVE_POOL = 1 << 17


def resolved(config: RunConfig) -> RunConfig:
    """The same run with devices, types and the beginnings of windows by their names, instead of ``auto``."""
    reader = config.reader
    if config.live:
        reader = replace(reader, pool_tokens=min(reader.pool_tokens, LIVE_POOL))
    harvest = config.harvest if config.activations is not None else _harvest(config.harvest)
    return replace(config, device=resolved_device(config.device), harvest=harvest, reader=reader)


def _harvest(options: HarvestOptions) -> HarvestOptions:
    device = resolved_device(options.device)
    dtype, bos = options.dtype, options.bos
    if dtype == "auto":
        dtype = str(forward_dtype(device)).removeprefix("torch.")  # type: ignore[assignment]
    if bos == "auto":
        # of a finished run the model may be gone; whoever needs it says what is missing
        with contextlib.suppress(InputError, OSError, ModuleNotFoundError):
            bos = "yes" if begins_texts(options.model) else "no"
    return replace(options, device=device, dtype=dtype, bos=bos)


def used(config: RunConfig, trainers: Mapping[str, Trainer], tokens: int) -> str:
    """What the defaults came to in this run, as comments of a TOML file."""
    lines = [f"device = {described_device(config.device)}"]
    for name, trainer in trainers.items():
        schedule, sae = trainer.schedule, trainer.sae
        assert schedule is not None
        usage = schedule.usage
        found = [f'auxiliary = "{usage.auxiliary}"', f"k_aux = {usage.k_aux}", f"dead_after = {usage.dead_after}"]
        if isinstance(sae.choice, BalancedChoice):
            limits = ("token_caps", "token_floors", "feature_caps", "feature_floors")
            found += [f"{limit} = {value}" for limit in limits if (value := getattr(sae.choice, limit)) is not None]
        found.append(f"score_dtype = {str(sae.product_dtype(tokens)).removeprefix('torch.')}")
        if sae.feature_chunk is not None:
            found.append(f"feature_chunk = {sae.feature_chunk}")
        lines.append(f"{name}: {', '.join(found)}")
    return "\n# What was used where settings leave it open:\n" + "".join(f"# {line}\n" for line in lines)
