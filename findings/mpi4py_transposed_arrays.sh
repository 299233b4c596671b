#!/usr/bin/env bash
# mpi4py 4.1.2 sends a transposed NumPy array as it lies in memory, so another matrix arrives, without a word.
#
# Expected: an array of another layout is copied, or refused as one with gaps is ("buffer is not contiguous"). Seen:
# scores.T counts as contiguous, and its numbers go out in the order of scores. Received into an array of the same shape
# they make a different matrix, although every rank passes the same layout. So does what Bcast sends from a rank whose
# array is in Fortran order.
# Source: run as below with mpi4py 4.1.2, mpich 5.0.2, numpy 2.4.6; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet mpi4py==4.1.2 mpich==5.0.2 numpy==2.4.6
cd "$work"
cat > probe.py <<'PYTHON'
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
scores = np.arange(6.0).reshape(2, 3)
total = np.empty((3, 2))
comm.Allreduce(scores.T, total)
gathered = np.empty((comm.size, 3, 2))
comm.Allgather(scores.T, gathered)
received = np.asfortranarray(scores) if comm.rank == 0 else np.empty((2, 3))
comm.Bcast(received, root=0)
if comm.rank == 0:
    print("scores.T          ", scores.T.tolist())
    print("Allreduce / ranks ", (total / comm.size).tolist())
    print("Allgather         ", gathered[0].tolist())
if comm.rank == 1:
    print("scores            ", scores.tolist())
    print("Bcast             ", received.tolist())
in_memory = scores.reshape(3, 2)  # the numbers of scores.T in the order in which they lie in memory
assert np.array_equal(total, comm.size * in_memory), "changed: a transposed array is summed otherwise"
assert np.array_equal(gathered[0], in_memory), "changed: a transposed array is gathered otherwise"
assert not np.array_equal(in_memory, scores.T)
if comm.rank > 0:
    assert np.array_equal(received, scores.T.reshape(2, 3)), "changed: a Fortran array is broadcast otherwise"
try:
    comm.Allreduce(np.ones((3, 4))[:, ::2], np.empty((3, 2)))
except BufferError as error:
    assert "not contiguous" in str(error), error
else:
    raise AssertionError("changed: an array with gaps is taken")
PYTHON
"$work/env/bin/mpiexec" -n 2 "$work/env/bin/python" -m mpi4py probe.py
