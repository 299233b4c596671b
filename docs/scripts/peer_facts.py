"""What the page "How to choose" says about other libraries, found by running them.

`python docs/scripts/peer_facts.py FOLDER` makes one environment for each library in FOLDER (a gigabyte or two each for
those that bring torch), asks it, and writes docs/assets/tables/peers.md. NAME=PYTHON takes an environment that exists.

Inside such an environment the script runs again, with `--ask NAME`: each function below imports its library and returns
pairs of what was tried and what was found. Found is a number that was computed or a list that was read, no opinion.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import allocation as al
import numpy as np

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "assets" / "tables" / "peers.md"
Facts = list[tuple[str, str]]
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(8, 12))
LIMITS = {"budget": 16, "token_caps": 3, "feature_caps": 2}


def exact() -> al.Solution:
    """The matrix that most are asked about."""
    return al.solve(al.balanced_choice(SCORES, **LIMITS))


def pot() -> Facts:
    """POT: partial optimal transport."""
    import ot

    plan = ot.partial.partial_wasserstein(np.full(8, 3.0), np.full(12, 2.0), SCORES.max() - SCORES, m=16)
    single = ot.partial.partial_wasserstein(np.ones(8), np.ones(12), SCORES.max() - SCORES, m=8)
    ours = al.solve(al.balanced_choice(SCORES + 10, token_caps=1, feature_caps=1)).objective
    return [
        (
            "caps of 3 per token and 2 per feature, 16 matches: `partial_wasserstein`",
            f"up to {plan.max():.0f} on one pair; total {(plan * SCORES).sum():.2f}, where the best with at most one "
            f"match per pair is {exact().objective:.2f}",
        ),
        (
            "caps of 1 on both sides",
            f"total {(single * (SCORES + 10)).sum():.4f}, ours {ours:.4f}: the same optimum",
        ),
    ]


def ott() -> Facts:
    """OTT: Sinkhorn in JAX."""
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    facts = []
    for epsilon in (1.0, 0.1):
        geometry = Geometry(cost_matrix=SCORES.max() - SCORES, epsilon=epsilon)
        problem = LinearProblem(geometry, a=np.full(8, 3.0), b=np.full(12, 2.0))
        plan = np.asarray(Sinkhorn(max_iterations=20_000)(problem).matrix)
        between = np.count_nonzero((plan > 0.01) & (plan < 0.99))
        facts.append(
            (
                f"marginals of 3 and 2: `Sinkhorn` at epsilon {epsilon:g}",
                f"largest entry {plan.max():.2f}, {between} of 96 between 0.01 and 0.99",
            )
        )
    return facts


def cvxpylayers() -> Facts:
    """cvxpylayers: any convex problem as a layer."""
    import cvxpy
    import torch
    from cvxpylayers.torch import CvxpyLayer

    def layer(temperature: float) -> Any:
        S, A = cvxpy.Parameter((8, 12)), cvxpy.Variable((8, 12))
        value = cvxpy.sum(cvxpy.multiply(S, A))
        if temperature:
            value += temperature * cvxpy.sum(cvxpy.entr(A) + cvxpy.entr(1 - A))
        limits = [A >= 0, A <= 1, cvxpy.sum(A) <= 16, cvxpy.sum(A, axis=1) <= 3, cvxpy.sum(A, axis=0) <= 2]
        return CvxpyLayer(cvxpy.Problem(cvxpy.Maximize(value), limits), parameters=[S], variables=[A])

    scores = torch.tensor(SCORES, requires_grad=True)
    (hard,) = layer(0.0)(scores)
    shares = hard.detach().numpy()
    (warm,) = layer(0.2)(scores)
    upstream = np.random.default_rng(1).normal(size=SCORES.shape)
    (gradient,) = torch.autograd.grad(warm, scores, torch.tensor(upstream))
    soft = al.soft_solve(al.balanced_choice(SCORES, **LIMITS), temperature=0.2)
    slope = soft.vjp(upstream)
    return [
        (
            "the linear programme of the exact problem",
            f"total {(shares * SCORES).sum():.4f}, ours {exact().objective:.4f}; entries up to "
            f"{np.minimum(abs(shares), abs(1 - shares)).max():.1e} away from 0 and 1",
        ),
        (
            "the soft twin at temperature 0.2, stated with its entropy",
            f"shares differ from `soft_solve` by up to {abs(warm.detach().numpy() - soft.allocation).max():.1e}, "
            f"gradients by {abs(gradient.numpy() - slope).max() / abs(slope).max():.1e} of the largest",
        ),
    ]


def entmax() -> Facts:
    """entmax: sparse softmaxes, and one budget."""
    import torch
    from entmax import budget_bisect, sparsemax

    counts = (sparsemax(torch.tensor(2 * SCORES), dim=1) > 0).sum(dim=1)
    clipped = al.soft_solve(al.mutual_choice(SCORES, 16), temperature=0.5, form="clipped").allocation.ravel()
    shares = budget_bisect(torch.tensor(SCORES.ravel() / 0.5 + 0.5)[None], budget=16, n_iter=80)[0].numpy()
    return [
        (
            "`sparsemax` along the features",
            f"{int(counts.min())} to {int(counts.max())} features per token, decided row by row",
        ),
        (
            "one budget over the matrix: `budget_bisect`",
            f'shares differ from `soft_solve(form="clipped")` by up to {abs(shares - clipped).max():.1e}',
        ),
    ]


def saelens() -> Facts:
    """SAELens: training and a zoo of trained autoencoders."""
    import tempfile

    import sae_torch as st
    import torch
    from sae_lens import SAE
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
    from sae_lens.saes.batchtopk_sae import BatchTopK

    scores = torch.tensor(SCORES, dtype=torch.float32)
    same = np.array_equal(BatchTopK(2)(scores) > 0, al.solve(al.mutual_choice(scores, 16)).mask())
    sae, x = _ours()
    loaded = SAE.load_from_disk(str(st.save(sae, tempfile.mkdtemp())))
    with torch.no_grad():
        away = float((loaded(x) - sae(x).x_hat).abs().max() / sae(x).x_hat.abs().max())
    return [
        ("its BatchTopK and our mutual choice", "the same matches" if same else "other matches"),
        ("architectures that it trains", ", ".join(sorted(SAE_TRAINING_CLASS_REGISTRY))),
        (
            "our saved feature choice, read by `SAE.load_from_disk`",
            f"reconstructions differ by up to {away:.0e} of the largest",
        ),
    ]


def dictionary_learning() -> Facts:
    """dictionary_learning: one file per trainer."""
    import torch
    from dictionary_learning import trainers
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE

    torch.manual_seed(0)
    theirs, x = BatchTopKSAE(16, 64, 4), torch.randn(50, 16)
    with torch.no_grad():
        pre = theirs.encoder(x - theirs.b_dec)
        same = np.array_equal(theirs.encode(x, use_threshold=False) > 0, al.solve(al.mutual_choice(pre, 200)).mask())
    names = sorted(name for name in dir(trainers) if name.endswith("Trainer"))
    return [
        ("its BatchTopK and our mutual choice", "the same matches" if same else "other matches"),
        (
            "trainers that `dictionary_learning.trainers` names",
            ", ".join(name.removesuffix("Trainer") for name in names),
        ),
    ]


def sparsify() -> Facts:
    """sparsify: sparse from the start."""
    from typing import get_args, get_type_hints

    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    coder = SparseCoder(16, SparseCoderConfig(num_latents=64, k=4))
    x, dead = torch.randn(50, 16), torch.arange(64) < 20
    with torch.no_grad():
        codes = coder.encode(x)
        ours = al.solve(al.token_choice(coder.encoder(x - coder.b_dec), 4))
    coder(x, dead_mask=dead).auxk_loss.backward()
    encoder, decoder = (0.0 if w.grad is None else float(w.grad.norm()) for w in (coder.encoder.weight, coder.W_dec))
    same = np.array_equal(np.sort(codes.top_indices, axis=1).ravel(), ours.features)
    return [
        ("its TopK and our token choice", "the same matches" if same else "other matches"),
        ("activations", ", ".join(sorted(get_args(get_type_hints(SparseCoderConfig)["activation"])))),
        (
            "gradient norm of its auxiliary loss with 20 dead features",
            f"encoder {encoder:.2g}, decoder {decoder:.2g}",
        ),
    ]


def _ours() -> tuple[Any, Any]:
    """A small trained feature choice and inputs."""
    import sae_torch as st
    import torch

    generator = torch.Generator().manual_seed(0)
    sae = st.SparseAutoencoder(16, 64, choice=st.FeatureChoice(k=4), seed=0)
    batches = [torch.randn(256, 16, generator=generator) for _ in range(40)]
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
    return sae.eval(), batches[0]


ASKED: dict[str, tuple[str, str, Callable[[], Facts], tuple[str, ...]]] = {
    "pot": ("POT", "POT", pot, ("POT",)),
    "ott": ("OTT", "ott-jax", ott, ("ott-jax",)),
    "cvxpylayers": ("cvxpylayers", "cvxpylayers", cvxpylayers, ("cvxpylayers", "torch")),
    "entmax": ("entmax", "entmax", entmax, ("entmax", "torch")),
    "saelens": ("SAELens", "sae-lens", saelens, ("sae-lens", "torch", "safetensors", "tqdm")),
    "dictionary_learning": (
        "dictionary_learning",
        "dictionary-learning",
        dictionary_learning,
        ("dictionary-learning", "torch"),
    ),
    "sparsify": ("sparsify", "eai-sparsify", sparsify, ("eai-sparsify", "torch")),
}


def answers(name: str, python: Path) -> dict[str, Any]:
    """What the library says in its environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    command = [str(python), __file__, "--ask", name]
    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(said.splitlines()[-1]))


def environment(name: str, folder: Path) -> Path:
    """The Python of an environment with the library; made if it is missing."""
    python = folder / name / "bin" / "python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        packages = ["numpy", "scipy", *ASKED[name][3]]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def table(found: dict[str, dict[str, Any]]) -> str:
    """One row for each fact."""
    lines = ["| library | tried | found |", "| --- | --- | --- |"]
    for name, said in found.items():
        label = f"{ASKED[name][0]} {said['version']}"
        for tried, result in said["facts"]:
            lines.append(f"| {label} | {tried} | {result} |")
            label = ""
    made = f"{datetime.now(UTC).date().isoformat()}, Python {platform.python_version()}"
    return "\n".join([*lines, "", f"<small>`docs/scripts/peer_facts.py`: {made}</small>", ""])


def main() -> None:
    """Ask one, or all."""
    if sys.argv[1] == "--ask":
        _, distribution, ask, _ = ASKED[sys.argv[2]]
        with contextlib.redirect_stdout(sys.stderr):
            facts = ask()
        print(json.dumps({"version": metadata.version(distribution), "facts": facts}))
        return
    given = dict(argument.split("=", 1) for argument in sys.argv[2:])
    pythons = {name: Path(given[name]) if name in given else environment(name, Path(sys.argv[1])) for name in ASKED}
    found = {name: answers(name, python) for name, python in pythons.items()}
    TARGET.write_text(table(found), encoding="utf-8")
    print(TARGET.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
