"""How a process ends that `torchrun` started beside others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def environment(processes: int) -> dict[str, str]:
    """In which output is buffered, as usual."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
        "WORLD_SIZE": str(processes)
    }


@pytest.mark.parametrize("processes", [1, 2])
def test_beside_others_the_interpreter_is_not_taken_down(processes: int) -> None:
    """Threads that wait for it would abort the process; what is to be said and done at the exit is."""
    words = [sys.executable, "-c", SCRIPT]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment(processes), timeout=60)
    assert ended.returncode == 7
    assert ended.stderr == "on standard error\n"
    said = ["on standard output", "said at exit", *(["taken down"] if processes == 1 else [])]
    assert ended.stdout.splitlines() == said


ENDS = "from sae_torch.launched import end; print('the answer'); end(0)"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("processes", [1, 2])
def test_output_that_cannot_be_written_is_an_error(processes: int) -> None:
    words = [sys.executable, "-c", ENDS]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            words, stdout=full, stderr=subprocess.PIPE, text=True, env=environment(processes), timeout=60
        )
    assert ended.returncode == 120
    assert "No space left on device" in ended.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_nobody_has_to_listen(processes: int) -> None:
    words = ["bash", "-c", '"$0" -c "$1" >&- 2>&-', sys.executable, ENDS]
    assert subprocess.run(words, env=environment(processes), timeout=60).returncode == 0
