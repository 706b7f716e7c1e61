"""Difference of two images' Gaussian derivatives: edges rather than intensities.

Shapes: B batch, C channels, n spatial axes, R derivatives (rows).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.nn.modules.loss import _Loss

from monai_ext.losses.plain_images import plain_pair

__all__ = ["GaussianDerivativeLoss", "gaussian_taps"]


def gaussian_taps(sigma: float) -> tuple[list[float], list[float]]:
    """A Gaussian and its first derivative at the integers up to 3 sigma, as taps of a correlation.

    g(k) = exp(-k² / 2 sigma²), divided by its sum; d(k) = k g(k), divided by the sum of its absolute values, so that
    narrow kernels count as much as wide ones. At least 3 taps: with sigma 0.25 the derivative is the central
    difference (-1/2, 0, 1/2).
    """
    radius = max(1, int(3 * sigma + 0.5))
    places = range(-radius, radius + 1)
    smooth = [math.exp(-(k**2) / (2 * sigma**2)) for k in places]
    slope = [k * value for k, value in zip(places, smooth)]
    smooth_sum, slope_sum = sum(smooth), sum(map(abs, slope))
    return [value / smooth_sum for value in smooth], [value / slope_sum for value in slope]


class GaussianDerivativeLoss(_Loss):
    """Mean absolute difference between the Gaussian derivatives of prediction and reference.

    With G_s the Gaussian of width s and D_a the derivative along the axis a,

        loss = mean over sigmas s, axes a, voxels of | D_a G_s prediction - D_a G_s reference |

    the filters being products of the taps of ``gaussian_taps`` along each axis. Borders repeat the last voxel, so a
    constant difference costs nothing. Prediction and reference are (B, C, ...) with 1 to 3 spatial axes of any size.

    The study (Hooper and Xue, PMLR 259, 2024) takes, with the same taps, the one mixed derivative along all axes at
    once, and zeros beyond the border; ``mixed=True`` is that derivative. It is blind to edges along an axis, and its
    3D form gives 0 for every image of one slice; the gradient is therefore the default here.

    Args:
        sigmas: widths in voxels; each one number for all axes or one for every axis. The study has
            (0.25, 0.5, 1.0) in space, and (0.25, 0.5, 0.5) for time: for (T, H, W),
            ``[[0.25, 0.25, 0.25], [0.5, 0.5, 0.5], [0.5, 1.0, 1.0]]``.
        mixed: the mixed derivative instead of the gradient.

    Raises:
        ValueError: for no or not positive ``sigmas``, a number of them that does not fit the images, and images of
            different shapes.
    """

    def __init__(self, sigmas: Sequence[float | Sequence[float]] = (0.25, 0.5, 1.0), mixed: bool = False) -> None:
        super().__init__()
        self.sigmas = [tuple(sigma) if isinstance(sigma, Sequence) else sigma for sigma in sigmas]
        if not self.sigmas:
            raise ValueError("sigmas is empty; give at least one width in voxels, such as [0.25, 0.5, 1.0].")
        for sigma in self.sigmas:
            if not all(value > 0 for value in (sigma if isinstance(sigma, tuple) else (sigma,))):
                raise ValueError(f"sigmas must be positive widths in voxels, got {sigma}.")
        self.mixed = mixed

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        dims = input.ndim - 2
        if not 1 <= dims <= 3:
            raise ValueError(f"images must be (batch, channels, 1 to 3 spatial axes), got {tuple(input.shape)}.")
        with torch.autocast(input.device.type, enabled=False):
            first, second = plain_pair(input, target)
            # filters are linear: one filtering of the difference, channels being images of their own
            difference = (first - second).flatten(0, 1).unsqueeze(1)
            losses = [self._filtered(difference, self._per_axis(sigma, dims)).abs().mean() for sigma in self.sigmas]
            return torch.stack(losses).mean()

    def _per_axis(self, sigma: float | tuple[float, ...], dims: int) -> tuple[float, ...]:
        if not isinstance(sigma, tuple):
            return (sigma,) * dims
        if len(sigma) != dims:
            raise ValueError(f"sigmas has the entry {list(sigma)}, the images have {dims} spatial axes; give one each.")
        return sigma

    def _filtered(self, image: torch.Tensor, sigmas: tuple[float, ...]) -> torch.Tensor:
        """(B C, 1, ...) to (B C, R, ...): R = n derivatives, or the mixed one."""
        dims = len(sigmas)
        rows = [(True,) * dims] if self.mixed else [tuple(a == b for b in range(dims)) for a in range(dims)]
        convolution = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
        image = image.expand(-1, len(rows), *image.shape[2:])
        for axis, sigma in enumerate(sigmas):
            smooth, slope = gaussian_taps(sigma)
            radius = len(smooth) // 2
            kernel = image.new_tensor([slope if row[axis] else smooth for row in rows])
            kernel = kernel.reshape(len(rows), 1, *[-1 if other == axis else 1 for other in range(dims)])
            pads = [radius if other == axis else 0 for other in reversed(range(dims)) for _ in range(2)]
            image = convolution(F.pad(image, pads, mode="replicate"), kernel, groups=len(rows))
        return image
