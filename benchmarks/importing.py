"""Inspecting and importing a file of 2 GB: seconds, and the most memory a process of its own ever held."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import arguments, report

WIDTH, FEATURES = 2048, 131_072
# Runs in a process of its own: what one held at most cannot be taken back. `getrusage` would count its parent's too.
MEASURE = """
import json, sys, time
start = time.perf_counter()
from sae_torch.cli import main
import tyro, safetensors
def held():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
ready, before = time.perf_counter(), held()
code = main(sys.argv[1:]) if len(sys.argv) > 1 else 0
done = time.perf_counter()
print(json.dumps({"code": code, "started": ready - start, "seconds": done - ready, "before": before, "peak": held()}))
"""


def main() -> None:
    """Every layout on disk: matrices as they are, transposed, in a torch file, in an archive of arrays."""
    options = arguments(__doc__ or "").parse_args()
    rows = []
    for name, write in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dictionary"
            path.mkdir()
            size = write(path)
            inspected = [_measured("inspect", str(path)) for _ in range(options.repeats)]
            imported = _measured("import", str(path), "--out", str(Path(folder) / "out"), "--k", "64")
            inspect = sorted(inspected, key=lambda each: each["seconds"])[len(inspected) // 2]
            rows.append(
                [
                    name,
                    size / 1e9,
                    inspect["started"],
                    inspect["seconds"],
                    inspect["before"] / 1e6,
                    (inspect["peak"] - inspect["before"]) / 1e6,
                    imported["seconds"],
                    imported["peak"] / 1e6,
                    imported["peak"] / size,
                ]
            )
    headings = [
        "layout",
        "GB",
        "start s",
        "inspect s",
        "start MB",
        "inspect MB beyond it",
        "import s",
        "import MB",
        "import MB / file",
    ]
    report("importing", headings, rows, "Peaks are resident memory of the process, mapped pages of the file included.")


def _measured(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if measured["code"] != 0:
        raise RuntimeError(done.stderr)
    return measured


def _weights(transposed: bool) -> dict[str, np.ndarray[Any, Any]]:
    """Encoder, decoder and biases; a small matrix repeated, since values do not matter."""
    block = np.random.default_rng(0).standard_normal((1024, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    rows = np.tile(block, (FEATURES // 1024, 1))
    columns = rows if transposed else np.tile(np.ascontiguousarray(block.T), (1, FEATURES // 1024))
    small = {"b_enc": np.zeros(FEATURES, np.float32), "b_dec": np.ones(WIDTH, np.float32)}
    return {"W_enc": columns, "W_dec": rows, **small, "threshold": np.full(FEATURES, 0.5, np.float32)}


def _saelens(path: Path) -> int:
    from safetensors.numpy import save_file

    save_file(_weights(transposed=False), path / "sae_weights.safetensors")
    config = {"architecture": "jumprelu", "d_in": WIDTH, "d_sae": FEATURES, "metadata": {"sae_lens_version": "6.54.12"}}
    (path / "cfg.json").write_text(json.dumps(config))
    return (path / "sae_weights.safetensors").stat().st_size


def _sparsify(path: Path) -> int:
    from safetensors.numpy import save_file

    weights = _weights(transposed=True)
    tensors = {"encoder.weight": weights["W_enc"], "encoder.bias": weights["b_enc"], "W_dec": weights["W_dec"]}
    save_file(tensors | {"b_dec": weights["b_dec"]}, path / "sae.safetensors")
    (path / "cfg.json").write_text(json.dumps({"d_in": WIDTH, "num_latents": FEATURES, "k": 64}))
    return (path / "sae.safetensors").stat().st_size


def _dictionary_learning(path: Path) -> int:
    import torch

    weights = {name: torch.from_numpy(array) for name, array in _weights(transposed=False).items()}
    torch.save(weights, path / "ae.pt")
    (path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "JumpReluAutoEncoder"}}))
    return (path / "ae.pt").stat().st_size


def _gemma_scope(path: Path) -> int:
    weights = _weights(transposed=False)
    np.savez(path / "params.npz", **weights)
    return (path / "params.npz").stat().st_size


LAYOUTS: dict[str, Callable[[Path], int]] = {
    "SAELens, safetensors": _saelens,
    "sparsify, encoder transposed": _sparsify,
    "dictionary_learning, torch file, not centred": _dictionary_learning,
    "Gemma Scope, archive of arrays, not centred": _gemma_scope,
}


if __name__ == "__main__":
    main()
