"""The demo: from real text to four compared sparse autoencoders."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sae_torch as st
from sae_torch.activations import (
    ActivationReader,
    Activations,
    HarvestConfig,
    LanguageModel,
    harvest,
    load_language_model,
    plan,
)
from sae_torch.activations.language_model import SMOLLM2
from sae_torch.environment import package_versions
from sae_torch.errors import InputError, InterruptedRunError
from sae_torch.evaluation import (
    Evaluation,
    ModelLoss,
    Quality,
    Result,
    ResultsFolder,
    batch_free,
    measure,
    model_loss,
    text_table,
)
from sae_torch.evaluation.dashboard import write_dashboard
from sae_torch.evaluation.evaluation import ZipfCurve
from sae_torch.evaluation.report import write_report
from sae_torch.evaluation.results_folder import REPORT, RESULTS
from sae_torch.files import write_text
from sae_torch.interop.saelens import metadata_of
from sae_torch.sparse_coder import SparseCoder
from sae_torch.training.run_config import FLOOR

# Made for k and the number of features.
CHOICES: dict[str, Callable[[int, int], st.Choice]] = {
    "token choice": lambda k, features: st.TokenChoice(k),
    "mutual choice": lambda k, features: st.MutualChoice(k),
    "feature choice": lambda k, features: st.FeatureChoice(k),
    "balanced choice": lambda k, features: st.BalancedChoice(k, feature_floors=FLOOR * k / features),
}
CURVE = "training.json"


@dataclass(frozen=True)
class Demo:
    """Train and compare four sparse autoencoders on activations of a language model.

    Harvests SmolLM2-135M over the State of the Union addresses, trains token choice (TopK), mutual choice,
    feature choice and balanced choice (floors under the features) with the same budget, seed and steps, and judges
    them on held-out addresses. Writes results.json, report.html and the autoencoders. An interrupted run continues
    when it is started again.
    """

    tokens: int = 250_000
    """Training tokens, seen once."""
    test_tokens: int = 40_000
    """Held-out tokens for reconstruction, density and contexts."""
    loss_windows: int = 128
    """Held-out windows of 128 tokens for the cross-entropy of the language model."""
    features: int = 4608
    """Features of each autoencoder."""
    k: int = 32
    """Budget: mean number of features per token."""
    batch_size: int = 2048
    """Tokens per training step."""
    seed: int = 0
    """Seed of the weights and of the order of the tokens."""
    model: str = SMOLLM2
    """Packaged model, folder, GGUF file, or any model name that transformers knows."""
    site: str = "hidden_states[11]"
    """Where activations are taken and replaced."""
    out: Path = Path("runs/demo")
    """Folder of the results."""
    cache: Path | None = None
    """Cache folder of the activations; by default sae-allocation in the user's cache folder."""
    overwrite: bool = False
    """Do it again, and replace what is in the folder."""

    def __post_init__(self) -> None:
        for name in ("test_tokens", "loss_windows", "features", "k", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.tokens < self.batch_size:
            raise InputError(
                f"tokens: expected at least one batch of {self.batch_size} (batch_size), found {self.tokens}"
            )
        if self.k > self.features:
            raise InputError(f"k: expected at most the {self.features} features, found {self.k}")

    def run(self) -> None:
        """Do the whole job and print one table.

        Raises
        ------
        InputError
            If something given cannot be used; nothing is overwritten.
        InterruptedRunError
            If the user interrupts it; what is finished stays on disk.
        """
        folder = ResultsFolder(self.out, self.configuration)
        if not self.overwrite and (there := folder.published) is not None:
            return self._say_finished(folder, there)
        folder.claim(self.overwrite)
        clock = Stopwatch()
        try:
            self._run(folder, clock)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"while {clock.stage_name}") from None

    def _say_finished(self, folder: ResultsFolder, there: dict[str, Any]) -> None:
        """The table of a demo that has run already."""
        print(f"finished already: {folder.path}; --overwrite does it again")
        print(f"\n{text_table([Result(**result) for result in there['results']])}\n")
        tokens, predicted = there["test_tokens"], there["predicted_tokens"]
        print(f"{tokens:,} held-out tokens, each encoded on its own; cross-entropy of {predicted:,} of them.")
        print(f"{folder.path / REPORT}\n{folder.path / RESULTS}")

    @property
    def configuration(self) -> dict[str, Any]:
        """What determines the results; where they are written is left out."""
        where_written = ("out", "cache", "overwrite")
        settings = {name: value for name, value in asdict(self).items() if name not in where_written}
        return settings | {"activations": self._harvest_config.provenance("train")}

    @property
    def _harvest_config(self) -> HarvestConfig:
        return HarvestConfig(model=self.model, site=self.site)

    def _run(self, folder: ResultsFolder, clock: Stopwatch) -> None:
        with clock.stage("harvesting"):
            train, test, language_model = self._harvest()
        for name in CHOICES:
            with clock.stage(f"training {name}"):
                if folder.part(_slug(name)) is None:
                    self._train(name, train, test, folder)
                else:
                    print(f"{name} is trained already")
        with clock.stage("evaluating reconstruction"):
            saes = {name: st.load(folder.working / _slug(name)) for name in CHOICES}
            qualities = {name: measure(sae, test, progress=f"evaluate {name}") for name, sae in saes.items()}
        with clock.stage("evaluating the language model"):
            if language_model is None:
                language_model = self._load_language_model()
            loss = model_loss(
                language_model,
                self.site,
                test.windows(self.loss_windows),
                train.mean(),
                {name: _reconstruction(sae) for name, sae in saes.items()},
                progress="cross-entropy",
            )
        with clock.stage("writing the report"):
            results = [Result.of(name, qualities[name], loss) for name in CHOICES]
            evaluations = [
                self._evaluation(name, saes[name], qualities[name], loss, folder, test, language_model)
                for name in CHOICES
            ]
            lead = (
                "Sparse autoencoders trained on the same activations with the same budget of "
                f"{self.k} features per token, judged on addresses none of them has seen."
            )
            report = folder.working / REPORT
            write_report(report, evaluations, self._facts(train, test, loss), lead)
            for evaluation in evaluations:
                assert evaluation.dashboard is not None
                evaluation.dashboard.unlink()
        folder.publish(
            {
                "results": [result.as_json() for result in results],
                "zipf": {evaluation.name: _fit_json(evaluation.zipf) for evaluation in evaluations},
                "test_tokens": len(test),
                "predicted_tokens": loss.n_tokens,
                "seconds": {name: round(seconds, 2) for name, seconds in clock.seconds.items()},
                "versions": package_versions(),
            },
            report,
        )
        print(f"\n{text_table(results)}\n")
        print(f"{len(test):,} held-out tokens, each encoded on its own; cross-entropy of {loss.n_tokens:,} of them.")
        print(f"{folder.path / REPORT}\n{folder.path / RESULTS}")
        print(f"{clock.total:.0f} s in all: " + ", ".join(f"{n} {s:.0f} s" for n, s in clock.seconds.items()))

    def _harvest(self) -> tuple[Activations, Activations, LanguageModel | None]:
        config, wanted = self._harvest_config, {"train": self.tokens, "test": self.test_tokens}
        plans = [plan(config, split, tokens, self.cache) for split, tokens in wanted.items()]
        incomplete = [each for each in plans if not each.complete]
        for each in incomplete:
            each.prepare()
        language_model = self._load_language_model() if incomplete else None
        train, test = (
            harvest(config, split, tokens, self.cache, language_model, progress=True)
            for split, tokens in wanted.items()
        )
        return train, test, language_model

    def _load_language_model(self) -> LanguageModel:
        # in the dtype of the harvest, whether it ran now or in an earlier run
        config = self._harvest_config
        return load_language_model(config.model, config.dtype, config.device)

    def _train(self, name: str, train: Activations, test: Activations, folder: ResultsFolder) -> None:
        sae = st.SparseAutoencoder(
            train.d_model, self.features, choice=CHOICES[name](self.k, self.features), seed=self.seed
        )
        log = st.Trainer(sae, st.TrainConfig()).fit(ActivationReader(train, self.batch_size, seed=self.seed))
        probe = test.gather(torch.arange(min(len(test), 512)))

        def write(part: Path) -> None:
            st.save(sae, part, metadata=metadata_of(train.header))
            _check_same(name, sae, st.load(part), probe)
            write_text(part / CURVE, json.dumps({"tokens": log.tokens, "loss": log.reconstruction}))

        folder.write_part(_slug(name), write)

    def _evaluation(
        self,
        name: str,
        sae: SparseCoder,
        quality: Quality,
        loss: ModelLoss,
        folder: ResultsFolder,
        test: Activations,
        language_model: LanguageModel,
    ) -> Evaluation:
        """The evaluation from one pass over the held-out tokens; `sae-torch evaluate` measures more."""
        curve = json.loads((folder.working / _slug(name) / CURVE).read_text(encoding="utf-8"))
        dashboard = folder.working / f"{_slug(name)}.zip"
        write_dashboard(dashboard, sae, quality, test, language_model, progress=f"features {name}")
        return replace(
            Evaluation.of(name, sae, quality).with_model_loss(loss),
            curve=(tuple(curve["tokens"]), tuple(curve["loss"])),
            dashboard=dashboard,
        )

    def _facts(self, train: Activations, test: Activations, loss: ModelLoss) -> dict[str, str]:
        header = train.header
        return {
            "Language model": f"{header['model']}, {header['forward_dtype']} forward pass",
            "Activations": f"{self.site}, width {train.d_model}, {header['dropped']} dropped",
            "Text": f"{header['text']}, whole addresses held out, windows of {header['window']} tokens",
            "Training": f"{len(train):,} tokens once, batches of {self.batch_size:,}, seed {self.seed}",
            "Autoencoders": f"{self.features:,} features, budget {self.k} per token",
            "Held out": f"{len(test):,} tokens; cross-entropy of {loss.n_tokens:,} predicted tokens",
            "Cross-entropy": f"clean {loss.clean:.3f}, mean-ablated {loss.mean:.3f}, zero-ablated {loss.zero:.3f} nats",
            "Made with": ", ".join(f"{name} {version}" for name, version in package_versions().items()),
        }


class Stopwatch:
    """Times of named stages in seconds, each printed when it ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stage_name = "starting"

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        self.stage_name = name
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        print(f"{name}: {self.seconds[name]:.1f} s", flush=True)


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _reconstruction(sae: SparseCoder) -> Callable[[Tensor], Tensor]:
    def reconstruct(x: Tensor) -> Tensor:
        with batch_free(sae):
            out: Tensor = sae.decode(sae.encode(x))
        return out

    return reconstruct


def _check_same(name: str, sae: SparseCoder, loaded: SparseCoder, probe: Tensor) -> None:
    """Require that the saved autoencoder gives what the trained one gives.

    Raises
    ------
    RuntimeError
        If it does not: a defect of this program, not an error of the input.
    """
    if not torch.equal(_reconstruction(sae)(probe), _reconstruction(loaded)(probe)):
        raise RuntimeError(f"the saved autoencoder of {name} does not give the outputs of the trained one")


def _fit_json(fit: ZipfCurve | None) -> dict[str, float] | None:
    if fit is None:
        return None
    return {"alpha": fit.alpha, "beta": fit.beta, "r_squared": fit.r_squared, "excluded": fit.excluded}
