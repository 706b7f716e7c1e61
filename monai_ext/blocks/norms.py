"""Instance norms that work on maps of any size."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.blocks.image_size import is_unknown


class _OneVoxel:
    """One voxel has no spread: dividing by it would erase the map, and PyTorch refuses. It passes as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = not is_unknown(x.shape[2:]) and all(size == 1 for size in x.shape[2:])
        return x if one else super().forward(x)


class AnySizeInstanceNorm2d(_OneVoxel, nn.InstanceNorm2d):
    """Instance norm over (H, W); a map of one pixel passes unchanged."""


class AnySizeInstanceNorm3d(_OneVoxel, nn.InstanceNorm3d):
    """Instance norm over (D, H, W); a map of one voxel passes unchanged."""


_ANY_SIZE = {nn.InstanceNorm2d: AnySizeInstanceNorm2d, nn.InstanceNorm3d: AnySizeInstanceNorm3d}


def allow_tiny_maps(module: nn.Module) -> nn.Module:
    """Replace, in place, every instance norm below ``module`` by one that takes a map of one voxel."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) in _ANY_SIZE:
                norm = _ANY_SIZE[type(child)](
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                )
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm)
    return module
