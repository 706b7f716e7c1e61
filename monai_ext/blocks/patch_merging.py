"""Patch merging: MONAI's two orders of neighbours, and the one of its older releases."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import PatchMerging, PatchMergingV2

# the eight neighbours (along D, H, W) that MONAI's "merging" took before release 1.5: two stand twice, two never
BEFORE_1_5 = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


class PatchMergingBefore15(PatchMergingV2):
    """What MONAI's ``PatchMerging`` computed before release 1.5, for checkpoints trained with it.

    Only 3D differs; 2D never changed.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D, H, W, C) to (B, D/2, H/2, W/2, 2C), odd axes padded with zeros at the end."""
        if x.ndim == 4:
            return super().forward(x)
        _, d, h, w, _ = x.shape
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2, 0, d % 2))
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in BEFORE_1_5], -1)
        return self.reduction(self.norm(x))


PATCH_MERGING: dict[str, type[nn.Module]] = {
    "merging": PatchMerging,
    "mergingv2": PatchMergingV2,
    "merging_before_1_5": PatchMergingBefore15,
}
