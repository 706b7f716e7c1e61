"""The weights that a training leaves, as a plain state dict that is always whole."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.utils import is_scalar
from torch import nn

from monai_ext.files import remove_leftovers
from monai_ext.handlers.checkpoints import bare_network, save_checkpoint

__all__ = ["BestModelSaver", "LastModelSaver"]

_logger = logging.getLogger(__name__)


class BestModelSaver:
    """Write the network's state dict when the evaluator's key metric is the best so far.

    MONAI's evaluator knows its best metric (``state.best_metric``, ``state.best_metric_epoch``), and
    ``TrainingStateHandler`` keeps it over a restart; this handler, in the evaluator's list, acts on it. MONAI's
    ``CheckpointSaver`` keeps a list of its own, which a restart forgets, and does not write atomically. A metric
    that is no number (no case had a reference) is never the best.

    Args:
        path: file of the weights, ``models/model.pt`` or so: tensors on the CPU.
        network: the validated network; its averaged copy if ``ema`` is given.
        ema: the handler that averages the weights.
    """

    def __init__(self, path: str | os.PathLike, network: nn.Module, ema: EMAHandler | None = None) -> None:
        self.path = Path(path)
        self.network = network
        self.ema = ema

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._tidy)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _tidy(self, _engine: Engine) -> None:
        if idist.get_rank() == 0:
            remove_leftovers(self.path)

    def __call__(self, engine: Engine) -> None:
        state = engine.state
        if getattr(state, "key_metric_name", None) is None:
            raise ValueError("the evaluator has no key metric, so there is no best model; give it a key_metric.")
        if state.best_metric_epoch != state.epoch:
            return
        if not is_scalar(state.best_metric) or not math.isfinite(state.best_metric):
            # Nothing compares well with NaN: without this, it would stay the best for ever.
            state.best_metric, state.best_metric_epoch = -1, -1
            _logger.warning("%s of epoch %d is no number; no weights saved.", state.key_metric_name, state.epoch)
            return
        _save(self.network, self.ema, self.path)
        _logger.info("best %s so far, %.4f: saved %s.", state.key_metric_name, state.best_metric, self.path)


class LastModelSaver:
    """Write the network's state dict at the end of a training in which no validation could choose one.

    ``BestModelSaver`` writes nothing where there is no case to validate on, where the training has fewer epochs than
    the interval of the validation, or where the metric never was a number. This handler, in the trainer's list, sees
    to it that the training leaves its last weights even so.

    Args:
        path: as in ``BestModelSaver``, like the others.
        network: likewise.
        evaluator: the engine that validates; its ``state.best_metric_epoch`` says whether a best model was found.
        ema: likewise.
    """

    def __init__(
        self, path: str | os.PathLike, network: nn.Module, evaluator: Engine, ema: EMAHandler | None = None
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.evaluator = evaluator
        self.ema = ema

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if self.evaluator.state.best_metric_epoch > 0 or engine.state.iteration == 0:
            return
        _save(self.network, self.ema, self.path)
        _logger.info("no validation chose a model: saved that of epoch %d in %s.", engine.state.epoch, self.path)


def _save(network: nn.Module, ema: EMAHandler | None, path: Path) -> None:
    if idist.get_rank() == 0:
        chosen = ema.ema_model if ema is not None else network
        save_checkpoint(bare_network(chosen).state_dict(), path)
