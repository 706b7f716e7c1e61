"""Ctrl-C that is not lost."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from ignite.engine import Engine, Events

__all__ = ["KeepInterrupts"]


class KeepInterrupts:
    """Raise an interrupt again that Python has swallowed.

    An exception within a destructor is printed and forgotten, and at the end of every epoch a data loader waits in its
    destructor for its workers: a training that is interrupted there would go on. With this handler it ends at its next
    iteration. Only where Ctrl-C raises ``KeyboardInterrupt``, Python's default, and in the main thread.
    """

    def __init__(self) -> None:
        self._pending = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._watch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._raise_again)

    def _watch(self) -> None:
        self._pending = False
        if threading.current_thread() is not threading.main_thread():
            return
        current = signal.getsignal(signal.SIGINT)
        if current is signal.default_int_handler or isinstance(getattr(current, "__self__", None), KeepInterrupts):
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._pending = True
        raise KeyboardInterrupt

    def _raise_again(self) -> None:
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt
