"""Inspecting and importing a file of 2 GB on the command line: seconds of the whole process, and its most memory."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import arguments, report, table

WIDTH, FEATURES = 2048, 131_072
# What `sae-torch` runs, in a process of its own: what one held at most cannot be taken back. `getrusage` would count
# its parent's too.
COMMAND = """
import sys
from sae_torch.cli import main
code = main(sys.argv[1:])
lines = open("/proc/self/status").read().splitlines()
print(1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1]))
sys.exit(code)
"""


def main() -> None:
    """Every layout on disk: matrices as they are, transposed, in a torch file, in an archive of arrays."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--layouts", default="", help="only those whose name holds this")
    options = parser.parse_args()
    rows = []
    for name, write in LAYOUTS.items():
        if options.layouts not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "dictionary"
            path.mkdir()
            size = write(path)
            os.sync()  # what is still to be written would count as the time of who comes next
            inspected = [_measured("inspect", str(path)) for _ in range(options.repeats)]
            imported = _measured("import", str(path), "--out", str(Path(folder) / "out"), "--k", "64")
            rows.append(
                [
                    name,
                    size / 1e9,
                    statistics.median(each.seconds for each in inspected),
                    statistics.median(each.busy for each in inspected),
                    max(each.peak for each in inspected) / 1e6,
                    imported.seconds,
                    imported.busy,
                    imported.peak / 1e6,
                    imported.peak / size,
                ]
            )
    headings = [
        "layout",
        "GB",
        "inspect s",
        "of processor",
        "inspect MB",
        "import s",
        "of processors",
        "import MB",
        "import MB / file",
    ]
    notes = (
        "Seconds from the start of Python to its end, and those that processors were busy with it: on a machine that "
        "others use the first are more. Memory is what the process held at most, mapped pages of the file included. "
        f"Processes that waited for a processor on average in the last minute: {os.getloadavg()[0]:.0f}."
    )
    if options.layouts:
        print(table(headings, rows))
    else:
        report("importing", headings, rows, notes)


@dataclass(frozen=True)
class Measured:
    """A command: seconds on the clock, seconds of processors, and the bytes that it held at most."""

    seconds: float
    busy: float
    peak: int


def _measured(*words: str) -> Measured:
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(seconds, busy, int(done.stdout.splitlines()[-1]))


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


def _llama_scope(path: Path) -> int:
    """In bfloat16, as published: torch's layers, so that one matrix is transposed, with scaled inputs."""
    import torch
    from safetensors.torch import save_file

    weights = _weights(transposed=True)
    rows = torch.from_numpy(weights["W_enc"]).bfloat16()
    tensors = {
        "encoder.weight": rows.repeat(2, 1),
        "encoder.bias": torch.zeros(2 * FEATURES, dtype=torch.bfloat16),
        "decoder.weight": rows.T.repeat(1, 2),
        "decoder.bias": torch.ones(WIDTH, dtype=torch.bfloat16),
    }
    (path / "checkpoints").mkdir()
    save_file(tensors, path / "checkpoints" / "final.safetensors")
    config = {
        "hook_point_in": "blocks.8.hook_resid_post",
        "hook_point_out": "blocks.8.hook_resid_post",
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 12.5, "out": 12.5},
        "jump_relu_threshold": 0.5,
        "sparsity_include_decoder_norm": True,
        "use_decoder_bias": True,
    }
    (path / "hyperparams.json").write_text(json.dumps(config))
    return (path / "checkpoints" / "final.safetensors").stat().st_size


LAYOUTS: dict[str, Callable[[Path], int]] = {
    "SAELens, safetensors": _saelens,
    "sparsify, safetensors, encoder transposed": _sparsify,
    "Gemma Scope, npz, not centred": _gemma_scope,
    "Llama Scope, bfloat16, decoder transposed, scaled": _llama_scope,
    "dictionary_learning, torch file, not centred": _dictionary_learning,
}


if __name__ == "__main__":
    main()
