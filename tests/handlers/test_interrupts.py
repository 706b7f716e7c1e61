from __future__ import annotations

import signal

import pytest
from ignite.engine import Engine

from monai_ext.handlers.interrupts import KeepInterrupts


class Swallows:
    """As a data loader whose destructor waits for its workers."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_swallowed_interrupt_comes_again() -> None:
    def step(engine: Engine, number: int) -> None:
        done.append(number)
        if len(done) == 3:
            Swallows()

    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(2):  # also where the former training has set its own handling
            done: list[int] = []
            engine = Engine(step)
            KeepInterrupts().attach(engine)
            with pytest.raises(KeyboardInterrupt):
                engine.run(range(10), max_epochs=1)
            assert done == [0, 1, 2]
    finally:
        signal.signal(signal.SIGINT, former)


def test_other_handlings_are_left_alone() -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        engine = Engine(lambda engine, number: None)
        KeepInterrupts().attach(engine)
        engine.run(range(2))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)
