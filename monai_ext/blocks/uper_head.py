"""The head of UPerNet: context from pooled maps, a feature pyramid, and what fuses its levels.

Legend: B batch, C channels, L levels of the pyramid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.networks.blocks import Convolution
from monai.networks.layers import Conv, Dropout

from monai_ext.blocks.image_size import is_unknown, resize_to
from monai_ext.blocks.norms import allow_tiny_maps
from monai_ext.blocks.recompute import recompute
from monai_ext.ops.bin_average import bin_average

POOL_SIZES = (1, 2, 3, 6)
# see UPerHead: what an instance norm would erase is what the pooled maps bring
NORM = ("group", {"num_groups": 1})


class UPerHead(nn.Module):
    """Maps of several resolutions to logits at the finest (Xiao et al., "Unified Perceptual Parsing for Scene
    Understanding", ECCV 2018).

    With maps x_1 (finest) to x_L, and "conv" for a convolution, a norm and an activation::

        t_L = conv3([x_L, up(conv1(pool_b(x_L))) for each b])    means over b bins along each axis
        t_i = conv1(x_i) + up(t_{i+1})                           for i < L
        s_i = conv3(t_i),  s_L = t_L
        y   = conv1'(dropout(conv3([s_1, up(s_2), ..., up(s_L)])))    conv1' is a convolution alone

    ``up`` interpolates linearly. Departures from the paper: the norm is a group norm by default instead of batch norm,
    so that batches of one can be trained with; no norm over each channel's map, since the mean over the whole image,
    a constant map, would not come through it. The average of bins is PyTorch's adaptive pooling.

    The study of Hooper and Xue (2024), which took its head from a common re-implementation, has bins of
    (1, 2, 4, 6) and, by a slip, one smoothing convolution for all levels: ``shared_smoothing`` has it, too. What is not
    offered here of its slips: a padded 1 x 1 convolution behind the pooling, which adds a border of zeros to the
    map, and a top-down path that adds each level's neighbour only. It also pools to a quarter of the deepest map's
    channels each, has no norm and activation around the pyramid's convolutions, and classifies behind the
    interpolation to the image.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of each map, finest first.
        channels: channels inside the head.
        out_channels: channels of the output (classes).
        pool_sizes: bins along each axis, one entry for each pooled map; a map with fewer places than bins is repeated.
        norm_name: norm of the convolutions, as MONAI names it; None for none. With ``"instance"`` the mean of the
            image hardly arrives.
        act: activation of the convolutions.
        dropout_rate: dropout of whole channels before the classifier.
        shared_smoothing: one convolution and norm smooths all levels.
        use_checkpoint: recompute each convolution in the backward instead of keeping what is inside.

    Raises:
        ValueError: for other dimensions, no map, channels or bins below 1 or a rate outside 0 to 1.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: Sequence[int],
        channels: int,
        out_channels: int,
        pool_sizes: Sequence[int] = POOL_SIZES,
        norm_name: tuple | str | None = NORM,
        act: tuple | str | None = ("relu", {"inplace": True}),
        dropout_rate: float = 0.0,
        shared_smoothing: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if not in_channels or min(in_channels) < 1:
            raise ValueError(f"in_channels must name the channels of at least one map, got {tuple(in_channels)}.")
        if channels < 1:
            raise ValueError(f"the head's channels must be at least 1, got {channels}.")
        if not pool_sizes or min(pool_sizes) < 1:
            raise ValueError(f"pool_sizes must name at least one number of bins, from 1, got {tuple(pool_sizes)}.")
        if not 0 <= dropout_rate <= 1:
            raise ValueError(f"the head's dropout_rate must lie between 0 and 1, got {dropout_rate}.")
        self.in_channels, self.pool_sizes = tuple(in_channels), tuple(pool_sizes)
        self.spatial_dims, self.use_checkpoint = spatial_dims, use_checkpoint

        def conv(inside: int, kernel_size: int) -> nn.Module:
            return Convolution(
                spatial_dims,
                inside,
                channels,
                kernel_size=kernel_size,
                act=act,
                norm=norm_name or None,
                bias=not norm_name,
            )

        *finer, deepest = self.in_channels
        self.pooled = nn.ModuleList(conv(deepest, 1) for _ in self.pool_sizes)
        self.context = conv(deepest + len(self.pool_sizes) * channels, 3)
        self.laterals = nn.ModuleList(conv(inside, 1) for inside in finer)
        self.smoothing = nn.ModuleList(conv(channels, 3) for _ in (finer[:1] if shared_smoothing else finer))
        self.fusion = conv(len(self.in_channels) * channels, 3)
        self.dropout = Dropout[Dropout.DROPOUT, spatial_dims](dropout_rate)
        self.out = Conv[Conv.CONV, spatial_dims](channels, out_channels, 1)
        allow_tiny_maps(self)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Run the head.

        Args:
            maps: (B, C_i, *grid_i), finest first; grids may be equal, and tiny.

        Returns:
            logits (B, out_channels, *grid of the finest)

        Raises:
            ValueError: for another number of maps, other channels or dimensions, or a map that is finer than the one
                before it.
        """
        self._check(maps)
        x = maps[-1]
        pooled = [self._run(conv, bin_average(x, bins)) for conv, bins in zip(self.pooled, self.pool_sizes)]
        top = self._run(self.context, torch.cat([x, *(resize_to(p, x.shape[2:]) for p in pooled)], 1))
        levels = [top]
        for i in reversed(range(len(self.laterals))):
            top = self._run(self.laterals[i], maps[i]) + resize_to(top, maps[i].shape[2:])
            levels.append(self._run(self.smoothing[i % len(self.smoothing)], top))
        finest = maps[0].shape[2:]
        fused = self._run(self.fusion, torch.cat([resize_to(level, finest) for level in reversed(levels)], 1))
        return self.out(self.dropout(fused))

    def _check(self, maps: Sequence[torch.Tensor]) -> None:
        if len(maps) != len(self.in_channels):
            raise ValueError(f"the head was built for {len(self.in_channels)} maps, got {len(maps)}.")
        for number, (x, channels) in enumerate(zip(maps, self.in_channels)):
            if x.ndim != self.spatial_dims + 2 or x.shape[1] != channels:
                raise ValueError(
                    f"map {number} must have {channels} channels and {self.spatial_dims} spatial dimensions, got the "
                    f"shape {tuple(x.shape)}."
                )
        grids = [tuple(x.shape[2:]) for x in maps]
        for number in range(1, len(grids)):
            before, grid = grids[number - 1], grids[number]
            if not is_unknown([*before, *grid]) and any(a < b for a, b in zip(before, grid)):
                raise ValueError(
                    f"maps must come finest first, but map {number} of {grid} is finer than the one before it, of "
                    f"{before}."
                )

    def _run(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return recompute(block, x) if self.use_checkpoint else block(x)
