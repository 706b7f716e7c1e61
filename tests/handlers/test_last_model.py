"""A training leaves weights even where no validation could choose them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from ignite.handlers import EMAHandler
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanSquaredError, ValidationHandler, from_engine
from torch import nn

from monai_ext.handlers.best_model import BestModelSaver, LastModelSaver

CASE = {"image": torch.ones(1, 1, 2, 2), "label": torch.ones(1, 1, 2, 2)}


def train(folder: Path, cases: int, interval: int = 1) -> tuple[Path, EMAHandler]:
    """Two epochs of one step, with an evaluator as bundles have it."""
    network = nn.Conv2d(1, 1, 1)
    ema = EMAHandler(network, momentum=0.5)
    path = folder / "model.pt"
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[CASE] * cases,
        network=ema.ema_model,
        key_val_metric={"error": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
        val_handlers=[BestModelSaver(path, network, ema)],
    )

    def step(_engine: Engine, _batch: int) -> None:
        with torch.no_grad():
            network.weight += 1

    trainer = Engine(step)
    ema.attach(trainer)
    ValidationHandler(interval, evaluator).attach(trainer)
    saver = LastModelSaver(path, network, evaluator, ema)
    saver.attach(trainer)
    trainer.run([0], max_epochs=2)
    return path, ema


@pytest.mark.filterwarnings("ignore:`dataloader` is empty")
@pytest.mark.parametrize(("cases", "interval"), [(0, 1), (1, 3)], ids=["no case", "too few epochs"])
def test_the_last_weights(tmp_path: Path, cases: int, interval: int) -> None:
    path, ema = train(tmp_path, cases, interval)
    saved = torch.load(path, weights_only=True)
    assert torch.equal(saved["weight"], ema.ema_model.weight)


def test_what_the_validation_chose_stays(tmp_path: Path) -> None:
    path, ema = train(tmp_path, 1, 2)
    saved = torch.load(path, weights_only=True)
    assert torch.equal(saved["weight"], ema.ema_model.weight), "validated in the second epoch"
    times = path.stat().st_mtime_ns
    trainer, network = Engine(lambda _engine, _batch: None), nn.Conv2d(1, 1, 1)
    evaluator = Engine(lambda _engine, _batch: None)
    evaluator.state.best_metric_epoch = 1
    LastModelSaver(path, network, evaluator).attach(trainer)
    trainer.run([0])
    assert path.stat().st_mtime_ns == times
