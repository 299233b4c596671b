"""What a user installs: a wheel that needs numpy and scipy alone, and imports that stay light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_installs_and_allocation_needs_only_numpy_and_scipy(tmp_path: Path) -> None:
    """A fresh environment without torch solves, verifies and reports a missing extra in one sentence."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    report = Path("sae_torch/evaluation/report")
    data = {
        str(file.relative_to(ROOT)) for file in (ROOT / report).rglob("*") if file.suffix in (".html", ".css", ".js")
    }
    assert str(report / "templates" / "page.html") in data
    assert data <= set(zipfile.ZipFile(wheel).namelist())
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pins = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True, env=pins)
    installed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    names = {line.split("==")[0].lower() for line in installed.stdout.splitlines()}
    assert names <= {"numpy", "scipy", "sae-allocation", "pip", "setuptools"}, names
    script = (
        "import allocation as al, importlib.resources as r\n"
        "p = al.balanced_choice([[3.0, 1.0], [2.0, 0.5]], token_caps=1, feature_caps=1)\n"
        "assert al.verify(p, al.solve(p)).optimal\n"
        "assert r.files('allocation').joinpath('py.typed').is_file()\n"
        "from allocation.cuda.kernels import source\nassert 'compact_whole' in source()\n"
        "try:\n    import sae_torch\nexcept ImportError as error:\n    print(error)\n"
    )
    said = subprocess.run([python, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "pip install 'sae-allocation[torch]'" in said
    # what the hints say works from a wheel that no index has: pip asks the installed distribution
    for extra, needs in {"plot": "matplotlib", "flow": "ortools", "torch": "safetensors", "lm": "tyro"}.items():
        command = [python, "-m", "pip", "install", "--dry-run", "-q", "--report", "-", f"sae-allocation[{extra}]"]
        plan = subprocess.run(command, check=True, env=pins, capture_output=True, text=True).stdout
        assert needs in {found["metadata"]["name"] for found in json.loads(plan)["install"]}


# What each extra opens; each line runs where there is nothing but the extras up to it.
DOORS = {
    "plot": "import allocation as al; al.plot.matrix(al.token_choice([[2.0, 1.0]], k=1)).figure.savefig('a.png')",
    "flow": "import allocation as al; p = al.balanced_choice([[3.0, 1.0], [2.0, 0.5]], token_caps=1, feature_caps=1); "
    "assert 'OR-tools' in al.Auto().explain(p); assert al.verify(p, al.solve(p)).optimal",
    "mpi": "import allocation as al; from mpi4py import MPI; assert al.mpi_ranks(MPI.COMM_WORLD).count == 1",
    "torch": "import sae_torch as st, torch; sae = st.SparseAutoencoder(4, 8, choice=st.TokenChoice(2)); "
    "st.Trainer(sae, st.TrainConfig(progress=False)).fit(torch.randn(4, 20, 4)); st.load(st.save(sae, 'kept'))",
    "lm": "from sae_torch.cli import main; main(['import', '--help'])",
    "datasets": "open('a.csv', 'w').write('text\\none\\n'); from sae_torch.activations import StreamedText; "
    "assert [d.text for d in StreamedText(('a.csv',), held_out=0.0).iterate('train')] == ['one']",
}


@pytest.mark.slow
def test_each_extra_of_the_wheel_opens_its_door(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "environment"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pins = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "MPLBACKEND": "Agg"}
    pins.pop("PYTHONPATH", None)
    for extra, line in DOORS.items():
        subprocess.run([python, "-m", "pip", "install", "-q", f"{wheel}[{extra}]"], check=True, env=pins)
        done = subprocess.run([python, "-c", line], cwd=tmp_path, env=pins, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{extra}: {done.stdout}{done.stderr}"
    command = subprocess.run(
        [home / "bin" / "sae-torch", "--version"], env=pins, capture_output=True, text=True, check=True
    )
    assert command.stdout.split()[-1] == sae_torch_version()


def sae_torch_version() -> str:
    """Of the sources."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def test_importing_allocation_reads_few_modules_and_needs_no_torch() -> None:
    """What an import takes is the modules it reads: beyond NumPy, its own and a few of the standard library."""
    script = (
        "import sys, numpy\nbefore = set(sys.modules)\nimport allocation\n"
        "assert not {'torch', 'cupy', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "print(*sorted(m for m in set(sys.modules) - before if m.split('.')[0] != 'allocation'))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(run.stdout.split()) <= 60, run.stdout
