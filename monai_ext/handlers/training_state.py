"""Resuming: the whole state of a training run in one file, written at the end of every epoch."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn

from monai_ext.files import hold_folder, release_folder, remove_leftovers
from monai_ext.handlers.checkpoints import bare_network, load_into, network_options, read_checkpoint, save_checkpoint
from monai_ext.handlers.interrupts import KeepInterrupts

__all__ = ["TrainingStateHandler"]

SCHEMA = 1
_logger = logging.getLogger(__name__)


class TrainingStateHandler:
    """Save everything that a killed run needs to go on, and restore it.

    The file holds network, optimizer, schedule, EMA, gradient scaler, epoch, iteration, best metric and random
    states. It is written after everything else at the end of an epoch (validation, metrics, schedule, logs),
    whatever the place of this handler in the list, so that a resumed run starts at the next epoch. A run killed
    within an epoch does that epoch again; ``EpochSeedHandler`` makes it the same epoch.

    While it is attached, an interrupt (Ctrl-C) ends the training wherever it comes, see ``KeepInterrupts``.

    Attach it on every process: all of them restore, only the first one writes. The random states are those of the
    first process and are restored where there is one process only.

    Args:
        path: the file, ``training_state.pt`` or so.
        network: the trained network.
        optimizer: its optimizer.
        lr_scheduler: the schedule; anything with ``state_dict`` and ``load_state_dict``.
        ema: the handler that averages the weights.
        evaluator: the engine whose ``state.best_metric`` and ``state.best_metric_epoch`` are kept.
        others: further objects with ``state_dict`` and ``load_state_dict``, by name.
        every: epochs between two files.
        resume: whether to go on from the file; "true" and "false", as the command line says it, will do.

    Raises:
        FileNotFoundError: resuming, and there is no file.
        ValueError: resuming, and the file is damaged or from another network; another process trains into its folder.
        OSError: disk full; the old file is kept.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any = None,
        ema: EMAHandler | None = None,
        evaluator: Engine | None = None,
        others: Mapping[str, Any] | None = None,
        every: int = 1,
        resume: bool | str = False,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch, got {every}.")
        if f"{resume}".lower() not in ("true", "false"):
            raise ValueError(f"resume must be true or false, got {resume!r}.")
        self.path = Path(path)
        self.network = network
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.ema = ema
        self.evaluator = evaluator
        self.others = dict(others or {})
        self.every = every
        self.resume = f"{resume}".lower() == "true"  # any text would be true

    def attach(self, engine: Engine) -> None:
        KeepInterrupts().attach(engine)
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self._leave)
        engine.add_event_handler(Events.TERMINATE, self._leave)
        engine.add_event_handler(Events.EPOCH_STARTED, self._attach_last)

    def start(self, engine: Engine) -> None:
        """Restore the state if asked to; otherwise a run begins afresh and will overwrite the file."""
        engine.state.saved_training_state = None
        if idist.get_rank() == 0:
            if not hold_folder(self.path.parent):
                raise ValueError(
                    f"another training writes into {self.path.parent}: wait for its end, or give another output_dir."
                )
            remove_leftovers(self.path)
        if self.resume:
            if not self.path.is_file():
                raise FileNotFoundError(f"nothing to resume from: there is no {self.path}; start without resuming.")
            self.load_state(engine, read_checkpoint(self.path, "the state of a training run"))

    def _leave(self) -> None:
        release_folder(self.path.parent)

    def _attach_last(self, engine: Engine) -> None:
        # All other handlers are attached by now, so this one comes after them.
        if not engine.has_event_handler(self.save, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write the file, if it is due."""
        epoch, last = engine.state.epoch, engine.state.max_epochs
        if epoch % self.every and epoch != last:
            return
        former = self._identity()
        try:
            if idist.get_rank() == 0:
                save_checkpoint(self.state(engine), self.path)
        finally:
            # also where an interrupt comes after the new file took its place: what is said of it must be true
            if idist.get_rank() > 0 or self._identity() != former:
                engine.state.saved_training_state = (str(self.path), epoch)

    def _identity(self) -> tuple[int, int] | None:
        """Differs between the file and the one that replaces it; None without a file."""
        with contextlib.suppress(OSError):
            found = self.path.stat()
            return found.st_ino, found.st_mtime_ns
        return None

    def state(self, engine: Engine) -> dict[str, Any]:
        """What the file holds."""
        scaler = getattr(engine, "scaler", None)
        best = getattr(self.evaluator, "state", None)
        return {
            "schema": SCHEMA,
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "max_epochs": engine.state.max_epochs,
            "network": bare_network(self.network).state_dict(),
            "network_options": network_options(self.network),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict() if self.lr_scheduler is not None else None,
            "ema": _ema_state(self.ema, engine) if self.ema is not None else None,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "best_metric": getattr(best, "best_metric", None),
            "best_metric_epoch": getattr(best, "best_metric_epoch", None),
            "others": {name: item.state_dict() for name, item in self.others.items()},
            "random": _random_state(),
        }

    def load_state(self, engine: Engine, state: Any) -> None:
        """Put a state back into the engine and everything it trains."""
        if not isinstance(state, Mapping) or "schema" not in state:
            raise ValueError(f"{self.path} holds no training state, it may be one of weights; start without resuming.")
        if state["schema"] != SCHEMA:
            raise ValueError(f"{self.path} has the format {state['schema']}, this version reads {SCHEMA}; train anew.")
        length = engine.state.epoch_length
        if length is not None and state["epoch_length"] not in (None, length):
            raise ValueError(
                f"{self.path} is from a run of {state['epoch_length']} iterations an epoch, this one has {length}; "
                "resume with the same data, batch size and number of processes."
            )
        for name, present in (("lr_scheduler", self.lr_scheduler), ("ema", self.ema)):
            if (state[name] is None) != (present is None):
                have = "has no" if state[name] is None else "has the"
                raise ValueError(f"{self.path} {have} state of {name!r}, unlike this run; resume with the same config.")
        load_into(self.network, state["network"], str(self.path), state["network_options"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ValueError(f"{self.path} is from another optimizer ({error}); resume with its config.") from error
        if self.lr_scheduler is not None:
            _load_schedule(self.lr_scheduler, state["lr_scheduler"])
        if self.ema is not None:
            _load_ema(self.ema, engine, state["ema"], str(self.path), state["network_options"])
        scaler = getattr(engine, "scaler", None)
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        for name, item in self.others.items():
            if name not in state["others"]:
                raise ValueError(f"{self.path} has no state of {name!r}; resume with the same config.")
            item.load_state_dict(state["others"][name])
        if self.evaluator is not None and state["best_metric_epoch"] is not None:
            self.evaluator.state.best_metric = state["best_metric"]
            self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        engine.state.saved_training_state = (str(self.path), state["epoch"])
        if idist.get_world_size() == 1:
            _set_random_state(state["random"])
        if engine.state.max_epochs is not None and state["epoch"] >= engine.state.max_epochs:
            _logger.warning(
                "the run in %s is complete (%d of %d epochs), nothing to do; raise train#trainer#max_epochs to go on.",
                self.path,
                state["epoch"],
                engine.state.max_epochs,
            )
        else:
            _logger.info("resuming from %s after epoch %d.", self.path, state["epoch"])


def _load_schedule(schedule: Any, state: Mapping[str, Any]) -> None:
    """Restore where a schedule stands; its shape is the config's, which may ask for more epochs than before."""
    arguments = inspect.signature(type(schedule).__init__).parameters
    shape = {name: value for name, value in vars(schedule).items() if name in arguments and name != "last_epoch"}
    schedule.load_state_dict(state)
    vars(schedule).update(shape)


def _ema_state(ema: EMAHandler, engine: Engine) -> dict[str, Any]:
    schedule = getattr(ema, "momentum_scheduler", None)
    return {
        "network": bare_network(ema.ema_model).state_dict(),
        "momentum": getattr(engine.state, "ema_momentum", None),
        "schedule_step": schedule.event_index if schedule is not None else None,
    }


def _load_ema(ema: EMAHandler, engine: Engine, state: Mapping[str, Any], source: str, options: Any) -> None:
    load_into(ema.ema_model, state["network"], source, options)
    schedule = getattr(ema, "momentum_scheduler", None)
    if schedule is not None and state["schedule_step"] is not None:
        schedule.event_index = state["schedule_step"]
        engine.state.ema_momentum = state["momentum"]


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.astype(np.int64), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
