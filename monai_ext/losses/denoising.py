"""The study's loss for denoising."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss

from monai_ext.losses.charbonnier import CharbonnierLoss
from monai_ext.losses.gaussian_derivative import GaussianDerivativeLoss
from monai_ext.losses.plain_images import plain_pair


class DenoisingLoss(_Loss):
    """w0 · mean squared error + w1 · ``CharbonnierLoss`` + w2 · ``GaussianDerivativeLoss``.

    The sum of Hooper and Xue (PMLR 259, 2024), with their weights, epsilon and widths; ``GaussianDerivativeLoss``
    says where its derivative departs from theirs. Prediction and reference are (B, C, ...) with 1 to 3 spatial axes,
    their intensities around 1. Computed in float32 at least, under autocast, too.

    Args:
        weights: of the three terms; 0 leaves a term out.
        epsilon: of ``CharbonnierLoss``.
        sigmas: of ``GaussianDerivativeLoss``, in voxels.
        mixed: of ``GaussianDerivativeLoss``.

    Raises:
        ValueError: for weights that are not three, negative or all 0, and for the reasons of the two losses.
    """

    def __init__(
        self,
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        epsilon: float = 1e-3,
        sigmas: Sequence[float | Sequence[float]] = (0.25, 0.5, 1.0),
        mixed: bool = False,
    ) -> None:
        super().__init__()
        self.weights = tuple(weights)
        if len(self.weights) != 3 or not all(weight >= 0 for weight in self.weights) or not any(self.weights):
            raise ValueError(
                "weights must be three numbers, none negative, for squared error, Charbonnier and Gaussian "
                f"derivative, got {list(self.weights)}."
            )
        self.charbonnier = CharbonnierLoss(epsilon)
        self.gaussian_derivative = GaussianDerivativeLoss(sigmas, mixed)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.autocast(input.device.type, enabled=False):
            first, second = plain_pair(input, target)
            terms = (F.mse_loss, self.charbonnier, self.gaussian_derivative)
            parts = [weight * term(first, second) for weight, term in zip(self.weights, terms) if weight]
            return torch.stack(parts).sum()
