"""Instance, batch and group norms that work on maps of any size."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.blocks.image_size import is_unknown
from monai_ext.mixers.batch_norm import by_running_statistics, is_single


class _OneVoxel:
    """One voxel has no spread: dividing by it would erase the map, and PyTorch refuses. It passes as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = not is_unknown(x.shape[2:]) and all(size == 1 for size in x.shape[2:])
        return x if one else super().forward(x)


class AnySizeInstanceNorm2d(_OneVoxel, nn.InstanceNorm2d):
    """Instance norm over (H, W); a map of one pixel passes unchanged."""


class AnySizeInstanceNorm3d(_OneVoxel, nn.InstanceNorm3d):
    """Instance norm over (D, H, W); a map of one voxel passes unchanged."""


class _OneValue:
    """One value a channel has no variance, and PyTorch refuses it in training: what is known from before serves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return by_running_statistics(x, self) if is_single(x, self) else super().forward(x)


class AnySizeBatchNorm2d(_OneValue, nn.BatchNorm2d):
    """Batch norm of (B, C, H, W); a single pixel takes the running statistics."""


class AnySizeBatchNorm3d(_OneValue, nn.BatchNorm3d):
    """Batch norm of (B, C, D, H, W); a single voxel takes the running statistics."""


class AnySizeGroupNorm(_OneVoxel, nn.GroupNorm):
    """Group norm of one channel a group, which is an instance norm; a map of one voxel passes unchanged."""


_ANY_SIZE = {
    nn.InstanceNorm2d: AnySizeInstanceNorm2d,
    nn.InstanceNorm3d: AnySizeInstanceNorm3d,
    nn.BatchNorm2d: AnySizeBatchNorm2d,
    nn.BatchNorm3d: AnySizeBatchNorm3d,
}


def allow_tiny_maps(module: nn.Module) -> nn.Module:
    """Replace, in place, every norm below ``module`` that one voxel would stop by one that takes it.

    These are instance and batch norms, and group norms of one channel a group.
    """
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) in _ANY_SIZE:
                norm = _ANY_SIZE[type(child)](
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)
            elif type(child) is nn.GroupNorm and child.num_groups == child.num_channels:
                child.__class__ = AnySizeGroupNorm
    return module
