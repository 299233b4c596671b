"""Several processes that train one autoencoder: which part each has, and how they talk."""

from sae_torch.parallel.mesh import mesh
from sae_torch.parallel.torch_ranks import ranks

__all__ = ["mesh", "ranks"]
