"""Test-time averaging over mirrored images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from monai.utils import ensure_tuple


class MirrorInferer(Inferer):
    """Mean of the network's outputs for an image and its mirror images, each mirrored back.

    What has no spatial axes, as a classifier's output, is averaged as it is.

    Args:
        axes: spatial axes (0 is the first); every combination of them is mirrored, 2^len(axes) runs of the network.
        inferer: what calls the network; by default MONAI's ``SimpleInferer``.

    Raises:
        ValueError: for axes that are negative, given twice, or not those of the image.
    """

    def __init__(self, axes: Sequence[int] | int = (0,), inferer: Inferer | None = None) -> None:
        super().__init__()
        self.axes = ensure_tuple(axes)
        if any(axis < 0 for axis in self.axes) or len(set(self.axes)) < len(self.axes):
            raise ValueError(f"axes must be different spatial axes, counted from 0, got {self.axes}.")
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        if any(axis + 2 >= inputs.ndim for axis in self.axes):
            raise ValueError(
                f"axes {self.axes} are not all axes of an image with {inputs.ndim - 2} spatial dimensions."
            )
        total, runs = None, 0
        for count in range(len(self.axes) + 1):
            for axes in itertools.combinations(self.axes, count):
                dims = [axis + 2 for axis in axes]
                mirrored = torch.flip(inputs, dims) if dims else inputs
                out = self.inferer(mirrored, network, *args, **kwargs)
                out = torch.flip(out, dims) if dims and out.ndim == inputs.ndim else out
                total, runs = (out if total is None else total + out), runs + 1
        return total / runs
