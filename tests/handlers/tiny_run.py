"""A small training as a bundle would wire it, run by the tests here and, to be killed, as a program."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, MeanDice, ValidationHandler, from_engine
from monai.losses import DiceCELoss
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import AsDiscreted, Compose, RandFlipd, RandGaussianNoised, RandScaleIntensityd
from torch import nn

from monai_ext.handlers.best_model import BestModelSaver
from monai_ext.handlers.epoch_seed import EpochSeedHandler
from monai_ext.handlers.training_log import TrainingLogHandler
from monai_ext.handlers.training_state import TrainingStateHandler


def made_up_items(number: int, seed: int) -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(number):
        image = torch.randn(1, 6, 7, 5, generator=random)
        items.append({"image": image, "label": (image > 0.3).float()})
    return items


class KillAt:
    """Kill the process as nothing can catch it, in the middle of an epoch."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def attach(self, engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        if engine.state.iteration == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


def build(
    folder: Path,
    workers: int = 0,
    resume: bool = False,
    epochs: int = 4,
    kill_at: int | None = None,
    epoch_level: bool = False,
    channels: int = 4,
    epoch_length: int | None = None,
    seeded: bool = True,
    every: int = 1,
) -> SupervisedTrainer:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, channels, 3, padding=1), nn.BatchNorm3d(channels), nn.Dropout(0.3), nn.Conv3d(channels, 2, 1)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    ema = EMAHandler(network, momentum=0.1, momentum_warmup=0.5, warmup_iters=12)
    transform = Compose(
        [
            RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
            RandGaussianNoised("image", prob=0.7, std=0.5),
            RandScaleIntensityd("image", factors=0.5, prob=0.5),
        ]
    )
    dataset = CacheDataset(made_up_items(8, 1), transform, num_workers=None, progress=False)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers)
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=2, t_total=epochs if epoch_level else 4 * epochs)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(made_up_items(2, 2), batch_size=1),
        network=ema.ema_model,
        postprocessing=Compose(
            [AsDiscreted("pred", argmax=True, to_onehot=2), AsDiscreted("label", to_onehot=2)],
        ),
        key_val_metric={
            "val_mean_dice": MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))
        },
        val_handlers=[BestModelSaver(folder / "models" / "model.pt", network, ema)],
    )
    handlers = [
        # The worst order: what writes at an epoch's end stands before what makes the epoch.
        TrainingStateHandler(
            folder / "training_state.pt", network, optimizer, schedule, ema, evaluator, resume=resume, every=every
        ),
        TrainingLogHandler(folder, optimizer, evaluator, curve_every=2),
        *([EpochSeedHandler(7)] if seeded else []),
        ValidationHandler(1, evaluator),
        LrScheduleHandler(schedule, print_lr=False, epoch_level=epoch_level),
        ema,
        *([KillAt(kill_at)] if kill_at is not None else []),
    ]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True),
        train_handlers=handlers,
        epoch_length=epoch_length,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    build(Path(sys.argv[1]), workers=int(sys.argv[2]), epoch_level=sys.argv[2] != "0", kill_at=10).run()
