"""The command line: `python -m monai_ext GROUP COMMAND ...`.

fire reads the arguments; the command runs only once all of them are understood (fire itself would run it first and
complain afterwards), and whatever goes wrong ends in one sentence on stderr and a nonzero exit code.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fire

PROGRAM = "python -m monai_ext"
TRACEBACK_VARIABLE = "MONAI_EXT_TRACEBACK"

Command = Callable[..., "int | None"]


class UsageError(ValueError):
    """The arguments cannot be understood."""


def main(groups: Mapping[str, str], arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code: its own, 1 after an error, 2 after a misuse, 130 after Ctrl-C.

    Args:
        groups: group to the module that holds its `COMMANDS`, or its one `COMMAND` where the group is a command itself;
            imported only when it is asked for.
        arguments: those after the program's name.
    """
    try:
        return _run(groups, list(arguments))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def sentence(error: BaseException) -> str:
    """The error's message on one line; what is no message of ours gets its type and the way to the traceback."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}."
    if text and (isinstance(error, (ValueError, OSError)) or type(error).__module__.startswith("monai_ext.")):
        return text
    return f"{type(error).__name__}: {text} (set {TRACEBACK_VARIABLE}=1 for the traceback)."


def _run(groups: Mapping[str, str], arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        rows = {name: (importlib.import_module(module).__doc__ or "").strip() for name, module in groups.items()}
        print(_overview(f"{PROGRAM} GROUP COMMAND ...", rows))
        return 0
    group, *rest = arguments
    if group not in groups:
        raise UsageError(f"Unknown command {group!r}: known are {', '.join(groups)}; see `{PROGRAM} --help`.")
    module = importlib.import_module(groups[group])
    program = f"{PROGRAM} {group}"
    if hasattr(module, "COMMAND"):
        return _call(module.COMMAND, program, rest)
    commands: Mapping[str, Command] = module.COMMANDS
    if not rest or rest[0] in ("-h", "--help"):
        print(_overview(f"{program} COMMAND ...", {name: command.__doc__ or "" for name, command in commands.items()}))
        return 0
    name, *rest = rest
    if name not in commands:
        raise UsageError(f"Unknown command {f'{group} {name}'!r}: known are {', '.join(commands)}.")
    return _call(commands[name], f"{program} {name}", rest)


def _call(command: Command, program: str, arguments: list[str]) -> int:
    if "-h" in arguments or "--help" in arguments:
        print(_help(program, command))
        return 0
    return int(_understood(command, program, arguments)() or 0)


def _overview(usage: str, rows: Mapping[str, str]) -> str:
    wide = max(map(len, rows))
    lines = [f"  {name:{wide}}  {text.strip().splitlines()[0] if text.strip() else ''}" for name, text in rows.items()]
    return "\n".join([f"usage: {usage}", "", *lines])


def _help(program: str, command: Command) -> str:
    words = [program]
    for position, (name, parameter) in enumerate(inspect.signature(command).parameters.items()):
        required = parameter.default is parameter.empty
        option = f"--{name}" if parameter.default is False else f"--{name} {name.upper()}"
        words.append(name.upper() if required and position == 0 else option if required else f"[{option}]")
    return f"usage: {' '.join(words)}\n\n{inspect.getdoc(command)}"


def _understood(command: Command, program: str, arguments: list[str]) -> Callable[[], int | None]:
    """The command with its arguments bound, not yet run."""
    calls: list[Callable[[], int | None]] = []

    @functools.wraps(command)
    def record(*args: Any, **kwargs: Any) -> None:
        calls.append(functools.partial(command, *args, **kwargs))

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            fire.Fire(record, command=arguments, name=program)
    except fire.core.FireExit as stop:
        last = stop.trace.elements[-1]
        text = " ".join(last.ErrorAsStr().split()).rstrip(".") if last.HasError() else "Nothing to run"
        raise UsageError(f"{text}; see `{program} --help`.") from stop
    return calls[0]
