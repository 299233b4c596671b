"""Every kernel compiles for the GPUs it is meant for, with the compiler that CuPy uses."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from allocation.cuda.kernels import TYPES, definitions, source

ROOT = Path(__file__).parents[3]


def nvrtc() -> ctypes.CDLL:
    """The run-time compiler, from its wheel."""
    files = metadata.files("nvidia-cuda-nvrtc") or []
    # the library of built-in functions is sought by name: it is found if it is there already
    builtins, compiler = (
        next(str(file.locate()) for file in files if file.name.startswith(name))
        for name in ("libnvrtc-builtins.so", "libnvrtc.so")
    )
    ctypes.CDLL(builtins)
    return ctypes.CDLL(compiler)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("type_name", TYPES)
def test_every_kernel_compiles(type_name: str, architecture: str) -> None:
    """Without a warning, for all number types."""
    compiler = nvrtc()
    program = ctypes.c_void_p()
    text = source().encode()
    assert compiler.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None) == 0
    options = [option.encode() for option in (f"-arch={architecture}", "-std=c++17", *definitions(type_name))]
    result = compiler.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetProgramLog(program, log)
    assert result == 0, log.value.decode()
    assert "warning" not in log.value.decode()
    assert compiler.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    assert size.value > 10_000


def test_importing_without_a_device_neither_fails_nor_warns() -> None:
    """Both packages and all of `allocation.cuda`, warnings being errors; CuPy and torch are left alone."""
    modules = [f"allocation.cuda.{path.stem}" for path in (ROOT / "allocation" / "cuda").glob("[a-z]*.py")]
    script = (
        f"import importlib, sys, allocation\nfor name in {modules}: importlib.import_module(name)\n"
        "assert not {'torch', 'cupy'} & set(sys.modules)\nimport sae_torch\nassert 'cupy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, check=True)
