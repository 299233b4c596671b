"""Selections where the scores are: CuPy arrays and CUDA tensors. CuPy and torch are imported on first use.

Begin with `scores`: `DeviceScores`, the matrix; `Engine`, all that is asked of a device; `FixedTop`, what it selects.
`validation` makes the matrix from what callers pass in, and picks the engine:

- `cupy_device` for CuPy arrays and `torch_device` for tensors, if CuPy is there. Both are a `kernel_engine`, which runs
  the launches of `selection`. The kernels are the ``.cu`` files, which `kernels` joins in this order: ``keys`` (scores
  as integers), ``rank`` (radix selection), ``bracket``, ``survivors``, ``finish``, ``positions``.
- `torch_engine` for tensors without CuPy, by torch's own operations; `torch_namespace` names these as NumPy does.
- `floors` puts a budget with floors of one side together from three selections.

One operation, four names: `Engine.padded_top` selects the best of every group, `FixedTop` is its answer.
`DeviceScores.top` calls it for the solvers and waits for the count. `allocation.select_fixed` calls it for training
loops and waits for nothing.
"""
