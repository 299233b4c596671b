"""One file per algorithm; each solver is a small frozen object passed to `allocation.solve`."""
