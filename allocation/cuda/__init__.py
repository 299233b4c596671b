"""Selections where the scores are: CuPy arrays and CUDA tensors. Nothing here is imported without a CUDA array."""
