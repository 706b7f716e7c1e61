"""Options of a bundle's command that do not exist, do not mean what they say, or have impossible values.

MONAI takes every ``--name value`` for a new entry of the config: ``--max_epoch 2`` would train all of
``max_epochs`` without a word. An argument that a class does not have ends in three tracebacks, as does a value
that a component deep inside refuses. And the value ``false`` arrives as text, which Python counts as true.
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
import torch
from monai.bundle import ConfigParser

__all__ = ["check_options", "unknown_argument"]

_READ_AS_WORDS = ("resume", "_disabled_")  # "false" as text means false there
_WHOLE = ("max_epochs", "batch_size", "val_interval", "num_workers", "seed", "patch_size")
# smallest and largest values of entries at the top of a config; None where there is no bound
_RANGES: dict[str, tuple[float, float | None]] = {
    "max_epochs": (1, None),
    "batch_size": (1, None),
    "val_interval": (1, None),
    "patch_size": (1, None),
    "num_workers": (0, None),
    "seed": (0, None),
    "warmup_epochs": (0, None),
    "learning_rate": (0, None),
    "threshold": (0, 1),
    "affine_prob": (0, 1),
    "teacher_share": (0, 1),
}


def check_options(words: Sequence[str]) -> None:
    """Look whether every override of a command ``run`` names something in its config files and can be its value.

    An id counts as known where the files have it, or refer to it. Commands with ``--tracking`` or ``--args_file``
    are passed over: MONAI itself adds ids to them.

    Args:
        words: the words after ``python -m monai.bundle``.

    Raises:
        ValueError: names the option and the nearest id, what to write in place of "false", or what its value may be.
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
        check_value(name, value, _entry(config, parts))
        if first in config or first in inspect.signature(monai.bundle.run).parameters or first.startswith("_"):
            continue
        if not re.search(rf"@{re.escape(first)}\b", text):
            raise ValueError(f"unknown option --{name}: the config has no {first!r}; {_hint(first, config, '--{}')}")


def check_value(name: str, value: Any, former: Any) -> None:
    """Whether an entry of a config can have this value; expressions and references are not looked at.

    Args:
        name: its id.
        value: the new one.
        former: that of the config file, whose kind tells what is expected; None where there is none.

    Raises:
        ValueError: names the option, its value and what it may be.
    """
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return
    if name == "device":
        _check_device(f"{value}")
    if name.split("#")[-1] in _READ_AS_WORDS:
        return
    if isinstance(former, bool) and not isinstance(value, (bool, int)):
        raise ValueError(f"--{name} {value}: write True or False.")
    numbers = former if isinstance(former, list) else [former]
    if former in ([], None) or not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        return
    if isinstance(value, str):
        expected = f'a list, such as "{former}",' if isinstance(former, list) else f"a number, such as {former},"
        raise ValueError(f"--{name} {value}: {expected} is expected.")
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    if name == "patch_size" and len(given) != len(numbers):
        raise ValueError(f'--{name} {value}: a size for each of {len(numbers)} axes is expected, such as "{former}".')
    low, high = _RANGES.get(name, (None, None))
    if low is None:
        return
    for number in given:
        whole = name not in _WHOLE or isinstance(number, int)
        if not isinstance(number, (int, float)) or not whole or number < low or (high is not None and number > high):
            kind = "whole numbers" if name in _WHOLE else "numbers"
            limit = f"from {low} on" if high is None else f"from {low} to {high}"
            raise ValueError(f"--{name} {value}: {kind} {limit} are possible.")


def _check_device(name: str) -> None:
    kind, _, number = name.partition(":")
    if kind == "cuda" and (int(number) if number.isdigit() else 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices that PyTorch can use; give "
            "another, or cpu."
        )


def _entry(config: Any, parts: Sequence[str]) -> Any:
    """What a config has at an id, or None."""
    for part in parts:
        if isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        elif isinstance(config, dict):
            config = config.get(part)
        else:
            return None
    return config


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
