"""Sparse autoencoders whose activation is an exact token-feature allocation.

Names are imported when they are first used: torch takes seconds, and what describes a file needs none.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if find_spec("torch") is None:
    raise ImportError("sae_torch needs torch: pip install 'sae-allocation[torch]'")

if TYPE_CHECKING:
    from sae_torch import losses, parallel
    from sae_torch.adapter import Adapter
    from sae_torch.autoencoder import Output, SparseAutoencoder
    from sae_torch.calibration import calibrate
    from sae_torch.choices.balanced import BalancedChoice
    from sae_torch.choices.choice import Choice
    from sae_torch.choices.feature import FeatureChoice
    from sae_torch.choices.mutual import MutualChoice
    from sae_torch.choices.soft import SoftChoice
    from sae_torch.choices.thresholds import Threshold
    from sae_torch.choices.token import TokenChoice
    from sae_torch.codes import SparseCodes
    from sae_torch.errors import InputError
    from sae_torch.evaluation.splice import splice
    from sae_torch.interop.formats import load
    from sae_torch.interop.saelens import save
    from sae_torch.sparse_coder import Batch
    from sae_torch.training import TrainConfig, Trainer, TrainLog
    from sae_torch.transcoder import Transcoder

__all__ = [
    "Adapter",
    "BalancedChoice",
    "Batch",
    "Choice",
    "FeatureChoice",
    "InputError",
    "MutualChoice",
    "Output",
    "SoftChoice",
    "SparseAutoencoder",
    "SparseCodes",
    "Threshold",
    "TokenChoice",
    "TrainConfig",
    "TrainLog",
    "Trainer",
    "Transcoder",
    "calibrate",
    "load",
    "losses",
    "parallel",
    "save",
    "splice",
]

# Where names are defined; the block above says the same to type checkers and editors, and a test holds both together.
_DEFINED_IN = {
    "Adapter": "adapter",
    "BalancedChoice": "choices.balanced",
    "Batch": "sparse_coder",
    "Choice": "choices.choice",
    "FeatureChoice": "choices.feature",
    "InputError": "errors",
    "MutualChoice": "choices.mutual",
    "Output": "autoencoder",
    "SoftChoice": "choices.soft",
    "SparseAutoencoder": "autoencoder",
    "SparseCodes": "codes",
    "Threshold": "choices.thresholds",
    "TokenChoice": "choices.token",
    "TrainConfig": "training",
    "TrainLog": "training",
    "Trainer": "training",
    "Transcoder": "transcoder",
    "calibrate": "calibration",
    "load": "interop.formats",
    "save": "interop.saelens",
    "splice": "evaluation.splice",
}

if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name: str) -> Any:
        """A public name, or a module of the package."""
        if name in _DEFINED_IN:
            found = getattr(import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
        elif name.isidentifier() and not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            found = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
