"""Training: the loop, and runs that go on where they stopped.

`trainer` is the loop over batches, in memory alone; `config` says what it takes, `schedule` what changes over its
steps, `update` what a step does to the weights. `first_sight` calibrates at the end; `ending` reads the last
batches again for it.

`run` is what `sae-torch train` does, from activations to saved autoencoders, as `run_config` says. It resumes:
`checkpoint` keeps the state, `interruption` lets a step end after Ctrl-C or SIGTERM and holds the folder for one
process, `metrics` cuts off what lies beyond the checkpoint.
"""

from sae_torch.training.config import TrainConfig
from sae_torch.training.log import TrainLog
from sae_torch.training.trainer import Trainer

__all__ = ["TrainConfig", "TrainLog", "Trainer"]
