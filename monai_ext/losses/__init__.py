"""Losses that MONAI lacks: for denoising."""

from monai_ext.losses.charbonnier import CharbonnierLoss
from monai_ext.losses.denoising import DenoisingLoss
from monai_ext.losses.gaussian_derivative import GaussianDerivativeLoss

__all__ = ["CharbonnierLoss", "DenoisingLoss", "GaussianDerivativeLoss"]
