"""MONAI's convolutional blocks, with less kept for the backward."""

from __future__ import annotations

import torch
import torch.nn as nn
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock

from monai_ext.blocks.image_size import is_unknown
from monai_ext.ops.instance_norm import instance_norm_leaky_relu


def _fits(block: UnetBasicBlock | UnetResBlock, x: torch.Tensor) -> bool:
    """Whether the norms and activation are those of the fused step, and the maps more than one voxel."""
    act = block.lrelu
    norms = [block.norm1, block.norm2, *([block.norm3] if hasattr(block, "norm3") else [])]
    return (
        isinstance(act, nn.LeakyReLU)
        and act.negative_slope > 0
        and all(isinstance(n, (nn.InstanceNorm2d, nn.InstanceNorm3d)) for n in norms)
        and not any(n.affine or n.track_running_stats for n in norms)
        and (is_unknown(x.shape[2:]) or x[0, 0].numel() > 1)
    )


class LeanBasicBlock(UnetBasicBlock):
    """``UnetBasicBlock`` that keeps one map for each of its two steps, where norm and activation allow."""

    def forward(self, inp: torch.Tensor) -> torch.Tensor:
        out = self.conv1(inp)
        if not _fits(self, out):
            return super().forward(inp)
        out = instance_norm_leaky_relu(out, eps=self.norm1.eps, slope=self.lrelu.negative_slope)
        return instance_norm_leaky_relu(self.conv2(out), eps=self.norm2.eps, slope=self.lrelu.negative_slope)


class LeanResBlock(UnetResBlock):
    """``UnetResBlock`` that keeps one map for each of its two steps, where norm and activation allow."""

    def forward(self, inp: torch.Tensor) -> torch.Tensor:
        out = self.conv1(inp)
        if not _fits(self, out):
            return super().forward(inp)
        slope = self.lrelu.negative_slope
        out = self.conv2(instance_norm_leaky_relu(out, eps=self.norm1.eps, slope=slope))
        residual = self.conv3(inp) if self.downsample else inp
        return instance_norm_leaky_relu(out, residual, self.downsample, self.norm2.eps, slope)


_LEAN = {UnetBasicBlock: LeanBasicBlock, UnetResBlock: LeanResBlock}


def keep_less(module: nn.Module) -> nn.Module:
    """Make, in place, every convolutional block of MONAI's below ``module`` a lean one: the same parameters."""
    for child in module.modules():
        if type(child) in _LEAN:
            child.__class__ = _LEAN[type(child)]
    return module
