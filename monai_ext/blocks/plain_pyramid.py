"""A pyramid from the maps of a plain transformer, which are all of one size.

Legend: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.networks.blocks import Convolution
from monai.networks.layers import Pool

from monai_ext.blocks.norms import allow_tiny_maps
from monai_ext.blocks.recompute import recompute


class PlainPyramid(nn.Module):
    """Maps at the grid of the patches to maps at 4, 2, 1 and 1/2 times its resolution, for four maps.

    As BEiT (Bao et al., 2022) has it, transposed convolutions of stride 2 (with a norm and a GELU between two) make
    the first maps finer, the last but one stays, and max pooling makes the last coarser. Each finer map has half the
    channels of the coarser, as in ViTDet (Li et al., 2022), since a volume has eight times the voxels. With another
    number of maps the last two are made as here, and each one before them is twice as fine as the next. No map
    becomes finer than the image: along an axis with patches of p voxels, it grows by the largest 2^k <= p at most.

    Args:
        spatial_dims: 2 or 3.
        hidden_size: channels of the maps.
        levels: number of maps.
        patch_size: voxels of a patch along each axis.
        norm_name: norm between two transposed convolutions, as MONAI names it; None for none.
        use_checkpoint: recompute each level in the backward.
    """

    def __init__(
        self,
        spatial_dims: int,
        hidden_size: int,
        levels: int,
        patch_size: Sequence[int],
        norm_name: tuple | str | None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.levels, self.out_channels = nn.ModuleList(), []
        for level in range(levels):
            wanted = max(levels, 2) - 2 - level  # of 1, 0 and -1 for three maps
            factors = [tuple(2 if p >= 2 << step else 1 for p in patch_size) for step in range(max(wanted, 0))]
            factors = [factor for factor in factors if max(factor) > 1]
            widths = [max(hidden_size >> step, 1) for step in range(len(factors) + 1)]
            steps: list[nn.Module] = [
                Convolution(
                    spatial_dims,
                    widths[step],
                    widths[step + 1],
                    strides=factor,
                    kernel_size=factor,
                    act="gelu",
                    norm=norm_name or None,
                    bias=last or not norm_name,
                    conv_only=last,
                    is_transposed=True,
                    padding=0,
                    output_padding=0,
                )
                for step, factor in enumerate(factors)
                for last in [step == len(factors) - 1]
            ]
            if wanted < 0:
                steps.append(Pool[Pool.MAX, spatial_dims](2, 2, ceil_mode=True))
            self.levels.append(nn.Sequential(*steps))
            self.out_channels.append(widths[-1])
        allow_tiny_maps(self)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Maps (B, hidden_size, *grid), one a level, to maps (B, out_channels[i], *grid_i), finest first."""
        return [recompute(level, x) if self.use_checkpoint else level(x) for level, x in zip(self.levels, maps)]
