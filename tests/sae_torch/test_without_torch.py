"""What needs no torch does not import it: descriptions of files, the help, and the package itself until it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sae_torch as st
from sae_torch.interop import circuit_tracer, dictionary_learning, sparsify
from sae_torch.interop.weight_headers import TORCH_SUFFIXES
from tests.sae_torch.interop.test_published import CASES, published

ROOT = Path(__file__).parents[2]
# Reads paths from its input, so that one process describes all of them.
SCRIPT = """
import contextlib, io, sys
from sae_torch.cli import main
from sae_torch.interop import formats

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for words in (["--help"], ["--version"], ["inspekt"], ["inspect", "--help"]):
        with contextlib.suppress(SystemExit):
            main(words)
    assert main(["inspect", "nowhere"]) == 2
    for path in sys.argv[1:]:
        assert main(["inspect", path]) == 0, path
        formats.metadata(path)
assert "torch" not in sys.modules
"""


def jump_relu_of_dictionary_learning(folder: Path) -> Path:
    """One of its folders that has no k among the tensors."""
    folder.mkdir()
    shapes = {"W_enc": (4, 8), "W_dec": (8, 4), "b_enc": (8,), "b_dec": (4,), "threshold": (8,)}
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, folder / "ae.pt")
    (folder / "config.json").write_text('{"trainer": {"dict_class": "JumpReluAutoEncoder"}}')
    return folder


def test_the_help_and_descriptions_of_every_family_do_without_torch(tmp_path: Path) -> None:
    paths = []
    for number, name in enumerate(CASES):
        (tmp_path / str(number)).mkdir()
        paths.append(published(name, tmp_path / str(number)).path)
    assert sum(path.suffix in TORCH_SUFFIXES for path in paths) > 3
    token, mutual = st.SparseAutoencoder(4, 8, st.TokenChoice(2)), st.Transcoder(4, 4, 8, st.MutualChoice(2))
    st.calibrate(mutual, [torch.randn(50, 4, generator=torch.Generator().manual_seed(0))])
    sites = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
    paths += [st.save(token, tmp_path / "ours"), sparsify.save(token, tmp_path / "sparsify")]
    paths += [st.save(mutual, tmp_path / "thresholds"), jump_relu_of_dictionary_learning(tmp_path / "jump")]
    paths += [dictionary_learning.save(token, tmp_path / "top k")]
    paths += [circuit_tracer.save(mutual, tmp_path / "set", sites) / "layer_0.safetensors"]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, paths)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_package_imports_torch_when_a_name_is_used_and_has_all_its_names() -> None:
    script = (
        "import sys\nimport sae_torch\nassert not {'torch', 'allocation', 'numpy'} & set(sys.modules)\n"
        "assert set(sae_torch.__all__) <= set(dir(sae_torch))\nassert sae_torch.InputError.__name__ == 'InputError'\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names: dict[str, object] = {}
    exec("from sae_torch import *", names)
    assert set(st.__all__) <= names.keys()


def test_type_checkers_are_told_where_names_are() -> None:
    tree = ast.parse((ROOT / "sae_torch" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    told = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        told |= {alias.name: node.module.removeprefix("sae_torch").removeprefix(".") for alias in node.names}
    modules = {name for name, place in told.items() if not place}
    assert {name: place for name, place in told.items() if place} == st._DEFINED_IN
    assert set(told) == set(st.__all__)
    assert modules == {"losses", "parallel"}


def test_modules_are_attributes_and_other_names_are_refused() -> None:
    assert st.interop.sparsify is sparsify
    assert st.losses.reconstruction
    for name in ("Sae", "_sae", "__wrapped__", "foo.bar", ""):
        with pytest.raises(AttributeError, match=f"module 'sae_torch' has no attribute '{name}'"):
            getattr(st, name)
