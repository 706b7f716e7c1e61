"""A stage of a Swin transformer: window blocks, then patch merging."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.networks.blocks import UnetrBasicBlock

from monai_ext.blocks.block_options import PLAIN, BlockOptions
from monai_ext.blocks.lean_convolutions import keep_less
from monai_ext.blocks.mixer_block import WindowMixerBlock
from monai_ext.blocks.monai_weights import accept_monai_weights
from monai_ext.blocks.norms import allow_tiny_maps
from monai_ext.blocks.recompute import recompute
from monai_ext.mixers import Mixer


class SwinStage(nn.Module):
    """Window blocks, every second one shifted, and patch merging behind them (Liu et al., 2021).

    Args:
        mixers: one for each block.
        window_size: tokens along each axis of a window.
        downsample: class of the patch merging.
        drop_path: stochastic depth of each block.
        mlp_ratio: inner width of the feed-forward networks over the stage's.
        drop_rate: dropout.
        conv: begin with a residual convolutional block (Swin UNETR v2).
        use_checkpoint: recompute each block in the backward.
        options: further parts of each block.
    """

    def __init__(
        self,
        mixers: Sequence[Mixer],
        window_size: Sequence[int],
        downsample: type[nn.Module],
        drop_path: Sequence[float],
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        conv: bool = False,
        use_checkpoint: bool = False,
        options: BlockOptions = PLAIN,
    ) -> None:
        super().__init__()
        dim, spatial_dims = mixers[0].dim, mixers[0].spatial_dims
        self.use_checkpoint = use_checkpoint
        self.conv = (
            keep_less(allow_tiny_maps(UnetrBasicBlock(spatial_dims, dim, dim, 3, 1, "instance", res_block=True)))
            if conv
            else None
        )
        self.blocks = nn.ModuleList(
            WindowMixerBlock(mixer, window_size, i % 2 == 1, mlp_ratio, drop_rate, drop_path[i], options)
            for i, mixer in enumerate(mixers)
        )
        self.downsample = downsample(dim=dim, norm_layer=nn.LayerNorm, spatial_dims=spatial_dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, *grid) to (B, 2C, *ceil(grid / 2))."""
        if self.conv is not None:
            x = self.conv(x)
        grid = tuple(x.shape[2:])
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = recompute(block, tokens, grid) if self.use_checkpoint else block(tokens, grid)
        return self.downsample(tokens.unflatten(1, grid)).movedim(x.ndim - 1, 1)


def accept_monai_stages(module: nn.Module, stages: int) -> None:
    """Let ``module.stages`` take the keys of MONAI's ``layers1`` … and, of the v2 blocks, ``layers1c`` …"""
    renames = [(rf"layers{i + 1}c\.0\.", f"stages.{i}.conv.") for i in range(stages)]
    renames += [(rf"layers{i + 1}\.0\.", f"stages.{i}.") for i in range(stages)]
    accept_monai_weights(module, renames)
