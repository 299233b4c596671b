"""The command `evaluate`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from sae_torch.activations import Activations, LanguageModel, Pairs, Rows, load_language_model
from sae_torch.activations.language_model import model_provenance
from sae_torch.activations.sites import are_other_sites
from sae_torch.choices.own import import_module
from sae_torch.commands.held_out import autoencoders_in, held_out
from sae_torch.commands.judged_rows import first_rows, opened_rows
from sae_torch.devices import AUTO, described_device, resolved_device
from sae_torch.environment import package_versions
from sae_torch.errors import InputError
from sae_torch.evaluation.evaluation import Evaluation, evaluate
from sae_torch.evaluation.evaluation_file import EvaluationFile, dashboard_beside, tables
from sae_torch.evaluation.metrics import batch_free
from sae_torch.evaluation.model_loss import Replacement, model_loss
from sae_torch.files import require_free
from sae_torch.interop import formats
from sae_torch.interop.formats import FormatName
from sae_torch.interop.saelens import metadata_of
from sae_torch.launched import leads
from sae_torch.parallel.mesh import started_mesh
from sae_torch.parallel.ranked import workers_of
from sae_torch.sparse_coder import SparseCoder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Evaluate:
    """Judge autoencoders on held-out activations, and write a file for `report`.

    Reconstruction, features per token in both modes, dead and under-used features, the density spectrum, difficulty,
    collapse, batch sensitivity, the edge-swap null, and the loss of the language model with reconstructions in place.
    Under torchrun the processes share the autoencoders, and the windows of the loss.
    """

    autoencoders: tuple[Path, ...]
    """Folders or files: of this project, the run of a `train` for all of its own, or anything that `import` reads;
    `evaluate PATH` does without the name."""
    activations: Path | None = None
    """Held-out activations: the folder of a harvest, SAELens cached activations, or .npy files. By default those of the
    documents that the autoencoders' run of `train` held out, harvested if they are not there."""
    targets: Path | None = None
    """With transcoders: held-out activations of what they compute, of the same tokens in the same order; by default
    those that were harvested with the inputs."""
    out: Path = Path("evaluation.json")
    """File to write."""
    tokens: int | None = None
    """How many of the activations, the first; by default all, of a run's held-out documents 40,000."""
    device: str = AUTO
    """Where autoencoders and language model run; auto is the card where there is one, else the CPU."""
    model: str | None = None
    """Language model, where the activations do not name one that can be loaded."""
    loss_windows: int = 128
    """Windows for the loss of a causal language model; 0 leaves it out."""
    pages: int = 300
    """Feature pages of each autoencoder that the file holds itself. Those of all features lie beside it, in a folder
    whose name ends in .features, and `report` shows these while they are there; 0 leaves all out."""
    batch_sizes: tuple[int, ...] = (256, 1024, 4096)
    """Batch sizes whose allocation is compared."""
    batch_tokens: int = 16_384
    """Tokens for that comparison."""
    null_tokens: int = 2048
    """Tokens for the edge-swap null; 0 leaves it out."""
    k: float | None = None
    """Mean number of features per token, where a folder does not say it."""
    format: FormatName | None = None
    """Format of all of them, where files of several lie side by side."""
    layer: int | None = None
    """Which of a set, where a folder holds dictionaries of several layers."""
    modules: tuple[str, ...] = ()
    """Python modules to import first: those that define choices of your own."""
    seed: int = 0
    """Seed of shuffles and of the null."""
    overwrite: bool = False
    """Replace the file."""

    FIRST: ClassVar[str] = "autoencoders"

    def __post_init__(self) -> None:
        if not self.autoencoders:
            raise InputError("autoencoders: expected at least one folder, found none")
        for name in ("tokens", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise InputError(f"{name}: expected at least 2, found {value}")
        for name in ("loss_windows", "pages", "null_tokens", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if any(size < 1 for size in self.batch_sizes):
            raise InputError(f"batch_sizes: expected 1 or more each, found {', '.join(map(str, self.batch_sizes))}")
        if self.k is not None and not self.k > 0:
            raise InputError(f"k: expected a positive number of features per token, found {self.k:g}")

    def run(self) -> None:
        """Measure, write, print tables.

        Raises
        ------
        InputError
            If something given cannot be used; nothing is written.
        """
        device = resolved_device(self.device)
        if leads():
            print(f"device: {described_device(device)}", file=sys.stderr, flush=True)
        mesh = started_mesh()
        world = workers_of(mesh)
        given, _ = world.agreed(self._expanded, lambda _: 0)
        rows = None
        if given.activations is None:
            found = held_out(given.autoencoders, self.tokens, device, self.model, mesh)
            rows, given = found.rows, replace(given, activations=found.folder, model=found.model, tokens=None)
        given._judge(mesh, rows)

    def _expanded(self) -> Evaluate:
        """With the autoencoders of runs; refused before anything is harvested where it can be told without weights."""
        require_free(self.out, self.overwrite)
        given = replace(self, autoencoders=autoencoders_in(self.autoencoders))
        for folder in given.autoencoders:
            formats.describe(folder.expanduser(), self.format, self.layer)
        if self.targets is not None and self.activations is None:
            raise InputError(f"targets: expected activations beside them, found {self.targets} alone")
        return given

    def _judge(self, mesh: DeviceMesh | None, rows: Rows | None) -> None:
        world = workers_of(mesh)
        (saes, activations, language_model), _ = world.agreed(lambda: self._prepared(rows), lambda _: 0)
        for name, version in package_versions().items():
            world.require_alike(name, [version].__iter__)
        world.require_alike("activations", lambda: [len(activations), *sorted(activations.header.items())])
        world.require_alike(
            "autoencoders", lambda: [part for sae in saes.values() for part in sae.state_dict().values()]
        )
        dashboards = {name: dashboard_beside(self.out, number, name) for number, name in enumerate(saes, 1)}
        evaluations = world.divided(
            [
                partial(
                    evaluate, name, sae, activations, language_model if self.pages else None,
                    batch_sizes=self.batch_sizes, batch_tokens=self.batch_tokens, null_tokens=self.null_tokens,
                    pages=self.pages, dashboard=dashboards[name] if self.pages else None, seed=self.seed,
                    progress=world.leads,
                )
                for name, sae in saes.items()
            ]
        )  # fmt: skip
        if language_model is not None and language_model.is_causal:
            evaluations = self._with_losses(evaluations, saes, language_model, activations, mesh)
        if world.leads:
            before = self._pages_before()
            EvaluationFile(tuple(evaluations), self._facts(activations)).write(self.out)
            for file in before - {e.dashboard.resolve() for e in evaluations if e.dashboard is not None}:
                file.unlink(missing_ok=True)
            print(f"{tables(evaluations)}\n\n{self.out}")

    def _pages_before(self) -> set[Path]:
        """Files with the pages of all features that the evaluation to be overwritten names, in its own folder."""
        if not self.out.exists():
            return set()
        try:
            named = EvaluationFile.read(self.out).evaluations
        except InputError:  # no evaluation: nothing of it is ours to remove
            return set()
        folder = self.out.with_suffix(".features").resolve()
        found = {each.dashboard.resolve() for each in named if each.dashboard is not None}
        return {file for file in found if file.parent == folder}

    def _prepared(self, rows: Rows | None) -> tuple[dict[str, SparseCoder], Rows, LanguageModel | None]:
        """Everything that is read, refused before anything is measured."""
        for module in self.modules:
            import_module(module, "modules")
        saes = self._autoencoders()
        assert self.activations is not None
        activations = first_rows(opened_rows(saes, self.activations, self.targets, self._computed, rows), self.tokens)
        read = activations.inputs if isinstance(activations, Pairs) else activations
        for name, sae in saes.items():
            if sae.d_in != read.d_model:
                raise InputError(
                    f"activations {self.activations}: expected the width {sae.d_in} that {name} reads, found "
                    f"{read.d_model}"
                )
        language_model = self._language_model(activations)
        if leads():
            self._compare_with_training(activations)
            if language_model is not None and self.loss_windows and not language_model.is_causal:
                kind = type(language_model.model).__name__
                print(f"{language_model.name} is a {kind}, which predicts no next token: its loss is left out")
        return saes, activations, language_model

    def _computed(self) -> set[str | None]:
        """The sites that transcoders say they compute."""
        said = (formats.metadata(folder.expanduser(), self.format, self.layer) for folder in self.autoencoders)
        return {metadata.get("hook_name_out") for metadata in said}

    def _autoencoders(self) -> dict[str, SparseCoder]:
        folders = [folder.expanduser() for folder in self.autoencoders]
        times = Counter(folder.resolve().name for folder in folders)
        saes: dict[str, SparseCoder] = {}
        for folder in folders:
            path = folder.resolve()
            name = path.name if times[path.name] == 1 else f"{path.parent.name}/{path.name}"
            if name in saes:
                raise InputError(f"autoencoders: expected each folder once, found {folder} twice")
            said = len(folders) > 1 and formats.describe(folder, self.format, self.layer).k is not None
            loaded = formats.load(folder, None if said else self.k, self.format, self.layer)
            saes[name] = loaded.to(resolved_device(self.device))
        return saes

    def _compare_with_training(self, activations: Rows) -> None:
        """Say where an autoencoder was trained on windows that began otherwise, or at another site.

        Hidden states differ by half there, and nothing but the figures would tell.
        """
        here = metadata_of(activations.header)
        begins, site = here.get("prepend_bos"), here.get("hook_name")
        for folder in self.autoencoders:
            trained = formats.metadata(folder.expanduser(), self.format, self.layer)
            began, at = trained.get("prepend_bos"), trained.get("hook_name")
            if begins is not None and isinstance(began, bool) and began != begins:
                print(
                    f"{folder} was trained on windows {'with' if began else 'without'} a token for the beginning of "
                    f"a text (prepend_bos), {self.activations} was harvested {'with' if begins else 'without'} one: "
                    f"harvest with --bos {'yes' if began else 'no'} to judge it on what it knows"
                )
            if site is not None and isinstance(at, str) and are_other_sites(at, site):
                print(f"{folder} was trained at {at}, {self.activations} was harvested at {site}: judge it there")

    def _language_model(self, activations: Rows) -> LanguageModel | None:
        """The model the activations come from; None where they have no text or it is not needed."""
        held = isinstance(activations.inputs if isinstance(activations, Pairs) else activations, Activations)
        if not held or not (self.loss_windows or self.pages):
            return None
        name = self.model or activations.header["model"]
        digest, expected = model_provenance(name).get("model_sha256"), activations.header.get("model_sha256")
        if expected is not None and digest != expected:
            there = "another model" if digest is not None else "no files of one on disk"
            raise InputError(
                f"model {name}: expected the one of {self.activations} ({activations.header['model']}), found {there}; "
                "say where it lies with --model, or leave it out with --loss-windows 0 --pages 0"
            )
        dtype = getattr(torch, activations.header.get("forward_dtype", "float32"))
        return load_language_model(name, dtype, resolved_device(self.device))

    def _with_losses(
        self,
        evaluations: list[Evaluation],
        saes: dict[str, SparseCoder],
        language_model: LanguageModel,
        activations: Rows,
        mesh: DeviceMesh | None,
    ) -> list[Evaluation]:
        source, rows = None, activations
        if isinstance(activations, Pairs):
            source, rows = activations.header["site"], activations.targets
        if not (self.loss_windows and isinstance(rows, Activations)):
            return evaluations

        def reconstruction(sae: SparseCoder) -> Replacement:
            def reconstruct(x: torch.Tensor) -> torch.Tensor:
                with batch_free(sae):
                    read = x.to(sae.W_enc.dtype)
                    return sae.decode(sae.encode(read), read).to(x.dtype)

            return reconstruct

        loss = model_loss(
            language_model,
            rows.header["site"],
            rows.windows(self.loss_windows),
            rows.mean(),
            {name: reconstruction(sae) for name, sae in saes.items()},
            progress="cross-entropy" if leads() else None,
            source=source,
            mesh=mesh,
        )
        return [evaluation.with_model_loss(loss) for evaluation in evaluations]

    def _facts(self, activations: Rows) -> dict[str, str]:
        header = activations.header
        known = {
            "Language model": header.get("model"),
            "Site": header.get("site"),
            "Target": header.get("target"),
            "Text": header.get("text"),
            "Split": header.get("split"),
            "Held out": f"{len(activations):,} tokens of {self.activations}",
            "Autoencoders": ", ".join(map(str, self.autoencoders)),
            "Made with": ", ".join(f"{name} {version}" for name, version in package_versions().items()),
        }
        return {name: text for name, text in known.items() if text is not None}
