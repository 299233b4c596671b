#!/usr/bin/env bash
# MPICH 5.0.2 (mpi4py 4.1.2): after an Allreduce with MAX or MIN of one float the ranks hold different results.
#
# Expected: one result in every rank's buffer, as the standard describes Allreduce. Seen, with fewer numbers than ranks:
# two ranks with 0.0 and -0.0 each end with the zero of the other; with 1.0 and NaN one ends with 1.0, the other with NaN.
# So ranks that branch on a maximum part ways, or hold thresholds of different bits. With as many numbers as ranks or more
# all ranks get the same bits, but which of the two zeros, and whether the NaN is kept, depends on the position. Sums of
# floats agree on all ranks.
# Source: run as below with mpi4py 4.1.2, mpich 5.0.2, numpy 2.4.6; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet mpi4py==4.1.2 mpich==5.0.2 numpy==2.4.6
cd "$work"
cat > probe.py <<'PYTHON'
import itertools

import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD


def results(operation, values, count):
    """What each rank holds after values[rank], `count` times, was reduced, as text that tells -0.0 from 0.0."""
    found = np.empty(count)
    comm.Allreduce(np.full(count, values[comm.rank]), found, operation)
    return comm.allgather(repr(found.tolist()))


for operation in (MPI.MAX, MPI.MIN):
    for pair in ((0.0, -0.0), (1.0, np.nan)):
        for count in (1, 3, 4):
            values = [pair[rank % 2] for rank in range(comm.size)]
            found = results(operation, values, count)
            differ = len(set(found)) > 1
            if comm.rank == 0:
                print(f"{comm.size} ranks, {'MAX' if operation == MPI.MAX else 'MIN'} of {count} x {values}:", *found)
            assert differ == (count < comm.size), "changed: which ranks agree"
sums = [results(MPI.SUM, values, 1) for values in itertools.product((1e8, 1.0, -1e8, 0.1), repeat=comm.size)]
assert all(len(set(found)) == 1 for found in sums), "changed: sums differ by rank"
PYTHON
for ranks in 2 4; do
    "$work/env/bin/mpiexec" -n "$ranks" "$work/env/bin/python" -m mpi4py probe.py
done
