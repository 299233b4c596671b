"""The Triton kernels without a GPU: the CPU answers under the interpreter, and machine code for two architectures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sae_torch.ops import segments, triton_kernels

HERE = Path(__file__).parent


def test_kernels_under_the_interpreter() -> None:
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            HERE / "triton_interpreted.py",
        ],
        cwd=HERE.parents[1],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "18 passed" in found.stdout, found.stdout


def test_a_machine_on_which_triton_does_not_run() -> None:
    """It is installed, but there is no driver, or no compiler: torch's kernels serve, and one sentence says so."""
    with pytest.warns(RuntimeWarning, match="Triton does not run here, and torch's own kernels take its place"):
        assert not segments.has_triton.__wrapped__()


POINTERS = {
    "_weighted_row_sums": ("rows", "weights", "out"),
    "_sampled_dots": ("left", "right", "out"),
    "_count_above": ("scores", "theta"),
}
INDICES = {"index": "*i64", "offsets": "*i64", "left_index": "*i64", "right_index": "*i64", "counts": "*i32"}
SIZES = {"matches": 16, "width": 256, "strip": 256, "columns": 128}


def compiled(name: str, number: str, architecture: int, ones: tuple[str, ...] = ()) -> dict[str, Any]:
    """What Triton makes of a kernel, from its own language to machine code; sizes of 1 are compiled in as on a card."""
    kernel = getattr(triton_kernels, name)
    fixed = SIZES | {"wide": tl.float64 if number == "fp64" else tl.float32} | dict.fromkeys(ones, 1)
    signature = {
        argument: "constexpr"
        if argument in fixed
        else f"*{number}"
        if argument in POINTERS[name]
        else INDICES.get(argument, "i32")
        for argument in kernel.arg_names
    }
    places = {(place,): fixed[argument] for place, argument in enumerate(kernel.arg_names) if argument in fixed}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    asm: dict[str, Any] = triton.compile(source, target=GPUTarget("cuda", architecture, 32)).asm
    return asm


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("number", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("name", POINTERS)
def test_kernels_compile_without_a_card(name: str, number: str, architecture: int) -> None:
    """Down to machine code; nothing adds in an order that scheduling decides, or counts a subnormal number as 0."""
    asm = compiled(name, number, architecture)
    assert len(asm["cubin"]) > 1000
    assert "atom" not in asm["ptx"]
    assert ".ftz" not in asm["ptx"]


@pytest.mark.parametrize("name", POINTERS)
def test_no_position_is_a_product_of_32_bits(name: str) -> None:
    """But the first column of a program, which the columns of a row bound."""
    products = re.findall(r"arith\.muli (.*) : .*i32", compiled(name, "fp32", 90)["ttir"])
    assert all(re.fullmatch(r"%column, %c(128|256)_i32", product) for product in products), products


@pytest.mark.parametrize("ones", [("d",), ("count",), ("tokens", "features")])
def test_sizes_of_one_compile(ones: tuple[str, ...]) -> None:
    """One column, one match, one token, one feature."""
    for name in POINTERS:
        if set(ones) <= set(getattr(triton_kernels, name).arg_names):
            assert len(compiled(name, "bf16", 90, ones)["cubin"]) > 1000
