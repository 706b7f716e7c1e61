"""A progress bar for MONAI's engines."""

from __future__ import annotations

import sys
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from tqdm import tqdm

__all__ = ["LossProgressBar"]


class LossProgressBar:
    """A bar of tqdm for every epoch, with the mean loss so far where the engine has one.

    Ignite's own bar shows no loss when attached by MONAI's lists of handlers, which pass the engine only, and
    redraws itself several times an iteration, which fills log files. This one is drawn by the first process, and
    every half minute only where the output is no terminal.

    Args:
        desc: text before the epoch's number.
        tqdm_kwargs: further options of tqdm.
    """

    def __init__(self, desc: str = "epoch", **tqdm_kwargs: Any) -> None:
        self.desc = desc
        self.tqdm_kwargs = tqdm_kwargs
        self._bar: tqdm | None = None
        self._sum, self._count = 0.0, 0

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        state = engine.state
        epochs = f" {state.epoch}/{state.max_epochs}" if state.max_epochs != 1 else ""
        interval = 0.2 if sys.stderr.isatty() else 30.0
        options = {"total": state.epoch_length, "desc": f"{self.desc}{epochs}", "mininterval": interval}
        self._bar = tqdm(**{**options, "dynamic_ncols": True, **self.tqdm_kwargs})
        self._sum, self._count = 0.0, 0

    def _advance(self, engine: Engine) -> None:
        if self._bar is None:
            return
        output = engine.state.output
        first = output[0] if isinstance(output, (list, tuple)) and output else output
        if isinstance(first, dict) and first.get("loss") is not None:
            self._sum += float(first["loss"])
            self._count += 1
            self._bar.set_postfix(loss=f"{self._sum / self._count:.4f}", refresh=False)
        self._bar.update()

    def _end(self, _engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
