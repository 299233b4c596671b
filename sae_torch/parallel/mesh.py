"""The processes of a run as a grid: those along "data" share the tokens, those along "features" the dictionary."""

from __future__ import annotations

import atexit
import os
import time
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from sae_torch.errors import InputError
from sae_torch.launched import leads, world_size
from sae_torch.parallel.survivors import first_to_say, join
from sae_torch.plain_numbers import is_whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

DATA, FEATURES = "data", "features"
# In which threads of gloo let go of their last tensors, in seconds.
MOMENT = 0.05


def mesh(data: int = 1, features: int = 1, device: str | None = None) -> DeviceMesh:
    """The processes that `torchrun` started, as ``data`` times ``features``.

    Joins them, if nobody has. Without `torchrun` it is a mesh of this one process.

    Parameters
    ----------
    data : int
        Processes, or groups of them, with tokens of their own.
    features : int
        Parts of the dictionary, each held by another process.
    device : str, optional
        ``"cuda"`` where there is one, else ``"cpu"``.

    Returns
    -------
    torch.distributed.DeviceMesh
        With the dimensions ``"data"`` and ``"features"``.

    Raises
    ------
    InputError
        If `data` times `features` is not the number of processes.

    Examples
    --------
    >>> import sae_torch as st
    >>> st.parallel.mesh(data=1, features=1).mesh_dim_names
    ('data', 'features')
    """
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh  # takes a second to import

    for name, size in ((DATA, data), (FEATURES, features)):
        if not is_whole(size) or size < 1:
            raise InputError(f"{name}: expected a positive number of processes, found {size!r}")
    started = _processes()
    if data * features != started:
        raise InputError(
            f"mesh: expected data x features to be the number of processes, found {data} x {features} = "
            f"{data * features} with WORLD_SIZE = {started}"
        )
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if started == 1 and not dist.is_initialized():
        # nobody to talk to, so no process group
        return DeviceMesh(device, [[0]], mesh_dim_names=(DATA, FEATURES), _init_backend=False, _rank=0)
    if not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        join()
        atexit.register(_leave)
    return init_device_mesh(device, (data, features), mesh_dim_names=(DATA, FEATURES))


def tells(text: str) -> bool:
    """Whether this process is to tell the user of an error.

    That is the first that meets it, or, where they have not joined yet, the one that leads.
    """
    return first_to_say(text) if dist.is_initialized() else leads()


def joined(data: int, features: int) -> DeviceMesh | None:
    """As `mesh`; None for one process that nobody started beside others."""
    return None if data == features == _processes() == 1 else mesh(data, features)


def started_mesh() -> DeviceMesh | None:
    """The processes that `torchrun` started, each with work of its own; None where it did not."""
    return joined(_processes(), 1)


def _processes() -> int:
    if dist.is_initialized():
        return dist.get_world_size()
    return world_size()


def _leave() -> None:
    """Leave the group; a script's interpreter waits a moment for threads that may need it (see `launched.end`)."""
    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(MOMENT)
