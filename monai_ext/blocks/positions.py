"""Positions: absolute ones for a grid, relative ones within a window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_ext.blocks.image_size import is_unknown
from monai_ext.ops.window_attention import grid_code, window_bias


def resize_positions(table: torch.Tensor, old: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """Interpolate a table of positions (1, prod(old), C) to another grid, linearly along each axis.

    Returns:
        (1, prod(new), C); the table itself when the grids are equal
    """
    if not is_unknown(new) and tuple(old) == tuple(new):
        return table
    mode = {2: "bilinear", 3: "trilinear"}[len(old)]
    maps = table.to(torch.promote_types(table.dtype, torch.float32)).transpose(1, 2).reshape(1, -1, *old)
    maps = F.interpolate(maps, size=tuple(new), mode=mode, align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(table.dtype)


class RelativePositionBias(nn.Module):
    """A learned score bias for every offset between two tokens of a window and every head (Liu et al., Swin, 2021).

    A window that a small grid clips to ``n`` tokens takes the leading (n, n) block of the full window's index, as
    MONAI does. That is geometrically right only where the clipped axis is the first, and it is kept so that MONAI's
    weights give MONAI's outputs.

    Args:
        window_size: tokens along each axis of a window.
        num_heads: heads.
    """

    def __init__(self, window_size: Sequence[int], num_heads: int) -> None:
        super().__init__()
        size = 1
        for w in window_size:
            size *= 2 * w - 1
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(size, num_heads), std=0.02))
        self.register_buffer("code", grid_code(window_size), persistent=False)

    def forward(self, n: int) -> torch.Tensor:
        """The bias (H, n, n) of a window of ``n`` tokens."""
        return window_bias(self.table, self.code[:n])
