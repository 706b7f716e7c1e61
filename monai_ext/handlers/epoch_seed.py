"""Randomness that depends on seed, epoch and process only, so that a resumed run is the uninterrupted one."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from ignite.utils import manual_seed
from monai.data.utils import set_rnd
from torch.utils.data import DataLoader

__all__ = ["EpochSeedHandler", "epoch_seed"]


class EpochSeedHandler:
    """Seed python, numpy, torch and MONAI's random transforms at the start of every epoch.

    Where the randomness comes from: with workers, torch's loader draws one seed when its iterator is made and
    seeds every worker's generators and transforms by it; without workers, MONAI seeds the transforms once, when the
    loader is built, and they run on from there. Ignite makes the first iterator after ``EPOCH_STARTED``, and a new
    one only when the former is used up, which is not at an epoch's start where ``epoch_length`` is not the loader's
    length. So at every ``EPOCH_STARTED`` this handler seeds everything and then makes a new iterator.

    Dropout and shuffling follow from the global seed. In multi-process runs every process gets its own stream;
    the sampler's order stays the same on all (``DistributedSampler`` has its own seed).

    Args:
        seed: the run's seed.
        data_loader: the trainer's loader; by default what the engine runs over.
    """

    def __init__(self, seed: int, data_loader: DataLoader | None = None) -> None:
        self.seed = int(seed)
        self.data_loader = data_loader

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        loader: Any = self.data_loader if self.data_loader is not None else engine.state.dataloader
        if getattr(loader, "persistent_workers", False):
            raise ValueError(
                "persistent_workers of the training loader must be false: workers that live on keep their own "
                "random state, which no checkpoint holds."
            )
        seed = epoch_seed(self.seed, engine.state.epoch, idist.get_rank())
        manual_seed(seed)  # python, numpy, torch, cuda
        if loader is None:
            return
        if getattr(loader, "generator", None) is not None:
            loader.generator.manual_seed(seed)
        generator = getattr(getattr(loader, "sampler", None), "generator", None)
        if generator is not None:
            generator.manual_seed(seed)
        if getattr(loader, "num_workers", 0) == 0:
            set_rnd(loader.dataset, seed)
        engine.set_data(loader)


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed of 32 bits for one epoch on one process, far from those of its neighbours."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])
