"""Options of a bundle's command that do not exist, or do not mean what they say.

MONAI takes every ``--name value`` for a new entry of the config: ``--max_epoch 2`` would train all of
``max_epochs`` without a word. An argument that a class does not have ends in three tracebacks. And the value
``false`` arrives as text, which Python counts as true.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
import traceback
from collections.abc import Iterable, Sequence
from pydoc import locate
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser

__all__ = ["check_options", "unknown_argument"]

_READ_AS_WORDS = ("resume", "_disabled_")  # "false" as text means false there


def check_options(words: Sequence[str]) -> None:
    """Look whether every override of a command ``run`` names something in its config files, and none says "false".

    An id counts as known where the files have it, or refer to it. Commands with ``--tracking`` or ``--args_file``
    are passed over: MONAI itself adds ids to them.

    Args:
        words: the words after ``python -m monai.bundle``.

    Raises:
        ValueError: names the option and the nearest id, or what to write in place of "false".
    """
    given = _options(words)
    if list(words[:1]) != ["run"] or "config_file" not in given or {"tracking", "args_file"} & set(given):
        return
    config = ConfigParser.load_config_files(given["config_file"])
    text = json.dumps(config)
    for name, value in given.items():
        parts = re.split("#|::", name)
        first, last = parts[0], parts[-1]
        if isinstance(value, str) and value.lower() == "false" and last not in _READ_AS_WORDS:
            raise ValueError(f"--{name} {value} is text, which counts as true: write --{name} False.")
        if first in config or first in inspect.signature(monai.bundle.run).parameters or first.startswith("_"):
            continue
        if not re.search(rf"@{re.escape(first)}\b", text):
            raise ValueError(f"unknown option --{name}: the config has no {first!r}; {_hint(first, config, '--{}')}")


def unknown_argument(outer: BaseException, inner: BaseException) -> str | None:
    """A sentence where MONAI's ``outer`` error comes from calling a class with an argument that it does not have."""
    failed = re.match(r"Failed to instantiate component '([\w.]+)' with keywords", f"{outer}")
    unexpected = re.search(r"got an unexpected keyword argument '(\w+)'", f"{inner}")
    if not (failed and unexpected and isinstance(inner, TypeError)):
        return None
    frames = traceback.extract_tb(inner.__traceback__)
    if not frames or frames[-1].name != "instantiate":  # raised further down: a bug of that class
        return None
    component: Any = locate(failed.group(1))
    known = [name for name in inspect.signature(component).parameters if name not in ("args", "kwargs")]
    name = unexpected.group(1)
    return f"{component.__name__} has no option {name!r}; {_hint(name, known, repr('{}'))}"


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Names and values as ``fire`` reads them, as far as they matter here."""
    found: dict[str, Any] = {}
    for word, following in zip(words, [*words[1:], ""]):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            value = value if equals else following
            try:
                found[name.replace("-", "_")] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                found[name.replace("-", "_")] = value
    return found


def _hint(name: str, known: Iterable[str], form: str) -> str:
    names = [entry for entry in known if not entry.startswith("_")]
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {form.format(near[0])}?"
    return f"there are: {', '.join(names)}."
