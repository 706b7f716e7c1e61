"""Charbonnier's loss, an absolute difference that is smooth at zero."""

from __future__ import annotations

import torch
from torch.nn.modules.loss import _Loss

from monai_ext.losses.plain_images import plain_pair


class CharbonnierLoss(_Loss):
    """Mean of sqrt(d² + epsilon²) over all voxels, d = prediction - reference.

    Charbonnier et al., *Two deterministic half-quadratic regularization algorithms for computed imaging* (ICIP 1994).
    Quadratic for differences well below ``epsilon``, the absolute difference well above; equal images give
    ``epsilon``. Images may have any shape.

    Args:
        epsilon: where the two regimes meet, in the unit of the images; 1e-3 in the study, for intensities around 1.

    Raises:
        ValueError: for an ``epsilon`` that is not positive, and for images of different shapes.
    """

    def __init__(self, epsilon: float = 1e-3) -> None:
        super().__init__()
        if not epsilon > 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}; 0 has no gradient where images agree.")
        self.epsilon = epsilon

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            first, second = plain_pair(input, target)
            return ((first - second).square() + self.epsilon**2).sqrt().mean()
