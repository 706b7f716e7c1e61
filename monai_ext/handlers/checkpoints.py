"""Saving and loading state dicts, with errors that say which entry does not fit."""

from __future__ import annotations

import os
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_ext.files import atomic_write

__all__ = ["bare_network", "load_into", "load_weights", "plain_state", "read_checkpoint", "save_checkpoint"]

_SHOWN = 3  # entries named in an error


def bare_network(network: nn.Module) -> nn.Module:
    """The network inside the wrappers of ``torch.compile`` and of data parallelism."""
    while True:
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            network = network.module
        elif hasattr(network, "_orig_mod"):
            network = network._orig_mod
        else:
            return network


def plain_state(state: Any, name: str = "state") -> Any:
    """A copy that ``torch.load(weights_only=True)`` accepts: tensors on the CPU, numbers, strings, containers.

    Raises:
        TypeError: for anything else; the message says where it lies.
    """
    if isinstance(state, torch.Tensor):
        return state.detach().as_subclass(torch.Tensor).cpu().clone()
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state.copy())
    if isinstance(state, np.generic):
        return state.item()
    if state is None or isinstance(state, (bool, int, float, complex, str, bytes)):
        return state
    if isinstance(state, Mapping):
        kind = type(state) if type(state) in (dict, OrderedDict, Counter) else dict
        return kind({key: plain_state(value, f"{name}[{key!r}]") for key, value in state.items()})
    if isinstance(state, (list, tuple)):
        items = [plain_state(value, f"{name}[{index}]") for index, value in enumerate(state)]
        return items if isinstance(state, list) else tuple(items)
    raise TypeError(f"{name} is a {type(state).__name__}, which a checkpoint cannot hold safely.")


def save_checkpoint(state: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Write a state whole or not at all; the old file is kept when the writing fails."""
    state = plain_state(state, Path(path).name)
    with atomic_write(path) as file:
        torch.save(state, file)


def read_checkpoint(path: str | os.PathLike, what: str = "the weights") -> Any:
    """Read a file of ``torch.save`` without running code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, damaged, or of another kind.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} to read {what} from; train first, or give the right path.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        reason = (f"{error}".strip().splitlines() or [""])[0][:120] or type(error).__name__
        if "Weights only load failed" in f"{error}":
            reason = "it is no plain state dict"
        raise ValueError(
            f"{path} cannot be read as {what.removeprefix('the ')}: it is truncated, damaged or of another kind "
            f"({reason.rstrip('.')}); fetch or train it again."
        ) from error


def load_weights(network: nn.Module, path: str | os.PathLike, key: str | None = None) -> None:
    """Load a plain state dict into a network, strictly.

    Args:
        network: takes the weights.
        path: file written by ``torch.save``: a state dict, or a training state of ``TrainingStateHandler``.
        key: entry of the file that holds the state dict; found by itself in a training state.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated or damaged file, or the weights of another network.
    """
    state = read_checkpoint(path)
    options = None
    if isinstance(state, Mapping) and "schema" in state and "network" in state:  # a training state
        options = state.get("network_options")
        key = key or ("ema" if state.get("ema") is not None else "network")
        if key == "ema":
            state = {"ema": state["ema"]["network"]}
    if key is not None:
        if not isinstance(state, Mapping) or key not in state:
            raise ValueError(f"{path} has no entry {key!r}; it has {_some(list(state))}.")
        state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict (names with tensors); give the file models/model.pt of a bundle.")
    load_into(network, state, f"{path}", options)


def load_into(
    network: nn.Module, state: Mapping[str, torch.Tensor], source: str, options: Mapping[str, Any] | None = None
) -> None:
    """``load_state_dict(strict=True)`` with a ValueError that names the first entries that differ.

    Args:
        network: takes the weights.
        state: the state dict.
        source: where it is from, for the message.
        options: those of the network it was saved from, for the message.
    """
    network = bare_network(network)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reasons = _reasons(f"{error}")
        if not reasons:
            raise
        about = f"; this network: {_about(network)}"
        if options:
            about += f"; the saved one: {_options(options)}"
        raise ValueError(
            f"{source} holds the weights of another network: {'; '.join(reasons)}{about}. "
            "Give the network's options it was trained with, or other weights."
        ) from error


def network_options(network: nn.Module) -> dict[str, Any] | None:
    """What a network says of itself in its attribute ``options``, as far as a checkpoint can hold it."""
    options = getattr(bare_network(network), "options", None)
    if not isinstance(options, Mapping):
        return None
    return {"class": type(bare_network(network)).__name__} | {
        str(key): value if isinstance(value, (bool, int, float, str)) else repr(value) for key, value in options.items()
    }


def _about(network: nn.Module) -> str:
    options = network_options(network)
    return _options(options) if options else type(network).__name__


def _options(options: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "class")
    return f"{options.get('class', 'network')}({rest})"


def _some(names: list) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def _reasons(message: str) -> list[str]:
    """torch's long message, as a few words each on shapes, missing and unexpected entries."""
    sizes = re.findall(
        r"size mismatch for (\S+): copying a param with shape (?:torch\.Size\()?(\[.*?\])\)? from checkpoint, "
        r"the shape in current model is (?:torch\.Size\()?(\[.*?\])\)?",
        message,
    )
    reasons = []
    if sizes:
        reasons.append("shapes differ in " + _some([f"{name} {saved} (here {here})" for name, saved, here in sizes]))
    for title, word in (("Missing", "it lacks "), ("Unexpected", "it has the unknown ")):
        found = re.search(rf"{title} key\(s\) in state_dict: (.*?)(?:\n|$)", message)
        if found:
            reasons.append(word + _some(re.findall(r'"([^"]+)"', found.group(1))))
    return reasons
