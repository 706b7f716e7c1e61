"""Scattering by complex wavelets in 3D as a mixer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.scattering import Scattering


class Scattering3DMixer(Mixer):
    """The mixer ``scattering`` for volumes: ours, since its authors have images only.

    The low band and the 28 oriented complex bands of the first level of the three-dimensional dual-tree complex
    wavelet transform (Chen and Kingsbury, 2012; separable along the axes, see ``monai_ext.ops.scattering``): a weight
    for every channel and place of the low band, two complex layers over the channels of a block for the oriented
    bands, the same for all of them, and the inverse transform. O(C N + C^2 N / K) time. Local: a token reaches 16
    others in every direction. The weights of the low band belong to one grid; odd axes are padded by repeating the
    last token. The number of heads plays no part.

    Args:
        dim: channels of a token.
        num_heads: heads, for the sake of the contract only.
        spatial_dims: 3.
        grid: tokens along each axis, to which the weights belong; networks give it by themselves.
        num_blocks: blocks K of channels; the largest number up to it that divides the channels is taken.

    Raises:
        ValueError: without a grid or with no blocks; in ``forward`` for another grid.
    """

    reads_grid = True
    local = True
    fixed_grid = True
    dims = (3,)

    def __init__(
        self, dim: int, num_heads: int, spatial_dims: int, grid: Sequence[int] | None = None, num_blocks: int = 4
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}.")
        self.scattering = Scattering(dim, self.bind_grid(grid), num_blocks, rows=False)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        y = self.scattering(x.transpose(1, 2).unflatten(2, grid))
        if torch.is_autocast_enabled(x.device.type):  # as a layer under autocast would
            y = y.to(torch.get_autocast_dtype(x.device.type))
        return self.to_tokens(y)
