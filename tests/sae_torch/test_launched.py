"""How a process ends that `torchrun` started beside others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# What a module holds goes when the interpreter is taken down.
SCRIPT = """
import atexit, sys
from sae_torch.launched import end
class Held:
    def __del__(self):
        print("taken down")
held = Held()
atexit.register(print, "said at exit")
print("on standard output")
print("on standard error", file=sys.stderr)
end(7)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_beside_others_the_interpreter_is_not_taken_down(processes: int) -> None:
    """Threads that wait for it would abort the process; what is to be said and done at the exit is."""
    environment = os.environ | {"WORLD_SIZE": str(processes)}
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=60)
    assert ended.returncode == 7
    assert ended.stderr == "on standard error\n"
    said = ["on standard output", "said at exit", *(["taken down"] if processes == 1 else [])]
    assert ended.stdout.splitlines() == said
