"""A handler that kills its training."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ignite.engine import Engine, Events


class KillOnce:
    """Kill the process as nothing can catch it, in the middle of an epoch, the first time only.

    Args:
        iteration: after which.
        mark: file that remembers that it was done.
    """

    def __init__(self, iteration: int, mark: str) -> None:
        self.iteration = iteration
        self.mark = Path(mark)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration == self.iteration and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
