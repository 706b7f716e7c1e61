"""Averages over bins of a grid (adaptive average pooling).

Legend: B batch, C channels, n length of an axis, b bins along it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def bin_average_plain(x: torch.Tensor, bins: int) -> torch.Tensor:
    """PyTorch's own, which does not become ONNX where the bins do not divide the grid, and in 3D never does whole."""
    pool = F.adaptive_avg_pool2d if x.ndim == 4 else F.adaptive_avg_pool3d
    return pool(x, bins)


def bin_average(x: torch.Tensor, bins: int) -> torch.Tensor:
    """Means over ``bins`` parts of each axis: bin i holds the places floor(i n / b) to ceil((i + 1) n / b) - 1.

    Bins overlap where they do not divide an axis, and repeat values on an axis that is shorter than they are many.
    A box's mean is the mean along one axis after the other, so each axis is a product with a (b, n) matrix: it can be
    exported with open sizes, and its backward is deterministic on any device.

    Args:
        x: map (B, C, *grid), a grid of any number of axes.
        bins: bins along each axis, at least 1.

    Returns:
        (B, C, bins, bins, ...)
    """
    number = torch.arange(bins, device=x.device)[:, None]
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        first, behind = number * n // bins, ((number + 1) * n + bins - 1) // bins
        place = torch.arange(n, device=x.device)
        weights = ((place >= first) & (place < behind)).to(torch.float64) / (behind - first)
        x = F.linear(x.movedim(axis, x.ndim - 1), weights.to(x.dtype)).movedim(x.ndim - 1, axis)
    return x
