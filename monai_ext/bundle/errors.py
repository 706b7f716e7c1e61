"""A bundle's command ends with one plain sentence where the user can mend what is wrong.

MONAI wraps an error in several others (transform, dataset, worker, component of the config) and logs each
traceback on its way; the sentence that matters drowns. ``plain_errors`` is called first in a bundle's
``initialize``.
"""

from __future__ import annotations

import builtins
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ignite.engine import Engine
from tqdm import tqdm

from monai_ext.bundle.options import check_options, unknown_argument
from monai_ext.handlers.checkpoints import load_weights

__all__ = ["load_weights", "mistake_in", "plain_errors"]

VARIABLE = "MONAI_EXT_TRACEBACK"

_PACKAGE = Path(__file__).resolve().parent.parent
_COMMANDS = ("monai.bundle", "monai_ext")
_CHAIN = (
    "\nThe above exception was the direct cause of the following exception:\n",
    "\nDuring handling of the above exception, another exception occurred:\n",
)


def plain_errors(resume_flag: str = "--resume true", always: bool = False) -> None:
    """Print a user's mistake as one sentence when it ends the command; other errors keep their traceback.

    Nothing happens where the program is not ``python -m monai.bundle`` or ``python -m monai_ext``: in a library
    user's process or a server, errors stay what they are. ``MONAI_EXT_TRACEBACK=1`` brings everything back.

    Args:
        resume_flag: what to add to the command to resume; named when the user interrupts a training.
        always: install it in any program.
    """
    if os.environ.get(VARIABLE, "0") not in ("", "0") or not (always or _is_command()):
        return
    if not isinstance(sys.excepthook, _PlainHook):
        sys.excepthook = _PlainHook(sys.excepthook, resume_flag)
        logging.setLogRecordFactory(_QuietRecords(logging.getLogRecordFactory()))
    if _is_command():
        check_options(sys.argv[1:])


def mistake_in(error: BaseException | None) -> str | None:
    """The sentence of the innermost ValueError or OSError raised in this package, or None.

    A data loader's worker sends its error as text; the text is searched in the same way. An argument that a class
    named in a config does not have is the user's mistake, too.
    """
    found, outer = None, error
    for link in _chain(error):
        if "Original Traceback" in f"{link}":
            found = _mistake_in_text(f"{link}") or found
        elif isinstance(link, (ValueError, OSError)) and _raised_here(link.__traceback__):
            found = _sentence(link)
        else:
            found = unknown_argument(outer, link) or found
        outer = link
    return found


class _PlainHook:
    """Stands for ``sys.excepthook``."""

    def __init__(self, former: Callable[..., object], resume_flag: str) -> None:
        self.former = former
        self.resume_flag = resume_flag

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _close_bars()
        if isinstance(error, KeyboardInterrupt):
            saved = _saved_state(trace)
            if saved is None:
                _say("interrupted.")
            else:
                _say(
                    f"interrupted: the training is saved up to epoch {saved[1]} in {saved[0]}; "
                    f"the same command with {self.resume_flag} goes on from there."
                )
            return
        sentence = mistake_in(error)
        if sentence is None:
            self.former(kind, error, trace)
            return
        _say(f"error: {sentence}")
        _say(f"(set {VARIABLE}=1 to see where it comes from)")


class _QuietRecords:
    """Stands for logging's record factory; what is said of a mistake on its way gets a level below all handlers.

    Ignite and MONAI log the error in every engine it passes, with traceback. A filter on the handlers would miss
    those that MONAI's handlers make for their own loggers later on.
    """

    def __init__(self, former: Callable[..., logging.LogRecord]) -> None:
        self.former = former

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self.former(*args, **kwargs)
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if isinstance(record.exc_info, tuple) else sys.exc_info()[1]
            about_error = record.exc_info or "terminating due to exception" in f"{record.msg}"
            if about_error and (isinstance(error, KeyboardInterrupt) or mistake_in(error) is not None):
                record.levelno = logging.NOTSET - 1
        return record


def _is_command() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = getattr(spec, "name", None) or ""
    return name.removesuffix(".__main__") in _COMMANDS


def _close_bars() -> None:
    """End the lines of progress bars, which would be drawn once more after the last word."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """From the outermost error to the innermost."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _raised_here(trace: TracebackType | None) -> bool:
    frames = traceback.extract_tb(trace)
    return bool(frames) and _in_package(frames[-1].filename)


def _in_package(filename: str) -> bool:
    return Path(filename).resolve().is_relative_to(_PACKAGE)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return f"{error}"


def _mistake_in_text(text: str) -> str | None:
    """The same as ``mistake_in`` for a traceback written out; the innermost error comes first."""
    for part in re.split("|".join(map(re.escape, _CHAIN)), text):
        files = re.findall(r'^\s*File "([^"]+)", line \d+', part, flags=re.MULTILINE)
        raised = re.search(r"^(?:\w+\.)*(\w+): (.*)\Z", part.strip(), flags=re.MULTILINE | re.DOTALL)
        if files and raised and _in_package(files[-1]) and _is_mistake(raised.group(1)):
            return re.sub(r"^\[Errno \d+\] ", "", raised.group(2).strip())
    return None


def _is_mistake(name: str) -> bool:
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, (ValueError, OSError))


def _saved_state(trace: TracebackType | None) -> tuple[str, int] | None:
    """File and epoch of the last training state, from the engine that was running."""
    while trace is not None:
        engine = trace.tb_frame.f_locals.get("self")
        saved = getattr(engine.state, "saved_training_state", None) if isinstance(engine, Engine) else None
        if saved is not None:
            return saved
        trace = trace.tb_next
    return None
