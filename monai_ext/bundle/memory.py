"""How much memory there is, and how much a training takes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_ext.bench.estimate import estimate

# Python with PyTorch, MONAI and the workers that load data; measured with the bundles on a CPU
PROGRAM = 0.9e9
# the step keeps more than the estimate sees: workspaces of convolutions, gaps between blocks
MARGIN = 1.3
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


def bytes_of(text: str) -> float:
    """`8GB`, `8G`, `7.5 GiB`, `512MB` in bytes.

    Raises:
        ValueError: no amount of memory.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(text), flags=re.IGNORECASE)
    if match is None or not match.group(2):
        raise ValueError(f"--memory {text} is no amount of memory: give it with its unit, such as 8GB.")
    number, unit, binary = match.groups()
    return float(number) * (_BINARY if binary else _UNITS)[unit.upper()]


def machine_memory(device: torch.device) -> float:
    """Bytes of the GPU, or of the machine, within the limit of a container.

    Raises:
        ValueError: the system does not say.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    try:
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError) as error:
        raise ValueError("this system does not tell its memory: give --memory, such as --memory 8GB.") from error
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, float(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return total


def training_memory(network: dict[str, Any], batch: int, channels: int, size: Sequence[int]) -> tuple[float, float]:
    """Bytes that a training of this network takes without its data, and the operations of a step.

    Args:
        network: `network_def` of a config.
        batch: patches of a step.
        channels: of the image.
        size: of a patch.

    Raises:
        ValueError: the network cannot be built so, as for a mixer that knows no such images.
    """
    try:
        built = ConfigParser({"network": network}).get_parsed_content("network")
        found = estimate(built, batch, channels, size)
    except RuntimeError as error:  # MONAI's, around the network's own
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ValueError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise ValueError(f"the network cannot be built: {cause}") from error
    return PROGRAM + MARGIN * found.memory, found.flops + found.attention
