"""Selections where the scores are: CuPy arrays and CUDA tensors. CuPy and torch are imported on first use."""
