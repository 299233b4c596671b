"""Policy iteration on longest paths: what every node gains on the way that it follows now, evaluated at once."""

from __future__ import annotations

import numpy as np

from allocation.arrays import Indices, Reals


def path_lengths(follows: Indices, length: Reals) -> Reals | None:
    """The length of each path that ends where nothing is followed (-1); None if some go in circles.

    Halves the paths each time: every node takes over what the one it follows follows.
    """
    follows, length = follows.copy(), length.copy()
    for _ in range(follows.size.bit_length() + 1):
        going = np.flatnonzero(follows >= 0)
        if not going.size:
            return length
        ahead = follows[going]
        length[going] += length[ahead]
        follows[going] = follows[ahead]
    return None
