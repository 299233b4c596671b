"""Our choices as architectures of SAELens' own trainer."""

from __future__ import annotations

ARCHITECTURES = ("token_choice", "mutual_choice", "feature_choice", "balanced_choice")


def register() -> dict[str, tuple[type, type]]:
    """Put our choices into SAELens' trainer, as architectures of the names in `ARCHITECTURES`.

    ::

        acts = choice(pre * ||W_dec||)   in training,   acts = pre ||W_dec|| where it exceeds the threshold in eval mode

    Afterwards SAELens finds the names in its configurations and checkpoints. What its ``save_inference_model`` writes
    is a plain `jumprelu` (or `topk`) folder, which SAELens reads without this package and `sae_torch.load` reads too.
    A second call gives the same classes.

    Returns
    -------
    dict
        By name, the training class and its configuration class. Configurations take ``k``, the mean number of features
        per token; ``feature_choice`` also ``switch_tokens``, after how many tokens its quotas are fitted, and
        ``quotas``; ``balanced_choice`` also ``feature_caps`` and ``feature_floors``, densities per token. A training
        class has ``calibrate(batches)``, which makes tracked thresholds sharp, as our own trainer does at the end.

    Raises
    ------
    ModuleNotFoundError
        If SAELens is not installed.

    Examples
    --------
    >>> from sae_torch.interop import saelens
    >>> classes = saelens.register()  # doctest: +SKIP
    >>> training_class, config_class = classes["feature_choice"]  # doctest: +SKIP
    >>> config = config_class(d_in=576, d_sae=4608, k=32, switch_tokens=340_000)  # doctest: +SKIP
    """
    from sae_torch.interop.saelens_classes import training_classes

    try:
        from sae_lens import registry
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"SAELens' trainer needs {error.name}: run `pip install 'sae-lens>=6.54'`") from error
    missing = [name for name in ARCHITECTURES if name not in registry.SAE_TRAINING_CLASS_REGISTRY]
    if missing:
        for name, (training_class, config_class) in training_classes().items():
            if name in missing:
                registry.register_sae_training_class(name, training_class, config_class)
    return {name: registry.SAE_TRAINING_CLASS_REGISTRY[name] for name in ARCHITECTURES}
