"""What writes the figures of the documentation: a script for each, `harness` for fair timing, and the evidence `study`.

`gpu_check` runs on a machine with a GPU, and with it the other files named `gpu_`.
"""
