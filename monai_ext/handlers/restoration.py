"""How close a restored image is to its reference: PSNR and SSIM of every case, by scikit-image.

The same handler serves prediction, input and any other image to compare with: ``output_transform`` says which two
entries of the engine's output are compared. Shapes: C channels, then 2 or 3 spatial axes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler

from monai_ext.data.intensity import gain_and_offset
from monai_ext.handlers.per_case import PerCaseMetric
from monai_ext.optional import load

__all__ = ["CasePSNR", "CaseSSIM", "fitted", "psnr", "ssim"]

_WINDOW = 11  # voxels: scikit-image cuts the Gaussian of sigma 1.5 at 3.5 sigma


def psnr(image: np.ndarray, reference: np.ndarray, data_range: float | None = None) -> float:
    """10 log10(range² / mean squared error) in dB, by scikit-image; infinite for equal images.

    Args:
        image: [C, ...].
        reference: of the same shape.
        data_range: greatest possible difference; None takes that between maximum and minimum of the reference.
    """
    image, reference = _checked(image, reference)
    peak_ratio = load("skimage.metrics").peak_signal_noise_ratio
    data_range = _range(reference, data_range)
    with np.errstate(divide="ignore"):
        return float(peak_ratio(reference, image, data_range=data_range))


def ssim(image: np.ndarray, reference: np.ndarray, data_range: float | None = None) -> float:
    """Mean structural similarity of Wang et al. (2004), by scikit-image: Gaussian weights of sigma 1.5.

    Args:
        image: [C, ...], at least 11 voxels along every spatial axis.
        reference: of the same shape.
        data_range: as in ``psnr``.
    """
    image, reference = _checked(image, reference)
    if min(image.shape[1:]) < _WINDOW:
        raise ValueError(f"SSIM needs {_WINDOW} voxels along every axis, the image has {image.shape[1:]}.")
    similarity = load("skimage.metrics").structural_similarity
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    data_range = _range(reference, data_range)
    return float(similarity(reference, image, data_range=data_range, channel_axis=0, **options))


def fitted(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The image with the gain and offset that bring it closest to the reference, by least squares."""
    gain, offset = gain_and_offset(image, reference)
    return gain * image.astype(np.float64) + offset


def _checked(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if image.shape != reference.shape:
        raise ValueError(f"image and reference have different shapes, {image.shape} and {reference.shape}.")
    for name, value in (("image", image), ("reference", reference)):
        if not np.isfinite(value).all():
            raise ValueError(f"the {name} has NaN or infinite values, it cannot be compared.")
    return image.astype(np.float64), reference.astype(np.float64)


def _range(reference: np.ndarray, data_range: float | None) -> float:
    found = float(np.ptp(reference)) if data_range is None else float(data_range)
    if not found > 0:
        raise ValueError(
            f"data_range must be positive, got {found:g}"
            + ("; the reference is constant, give data_range a number." if data_range is None else ".")
        )
    return found


class _RestorationMetric(IgniteMetricHandler):
    """One of the two functions for every case, with an optional fit before."""

    _function: Callable[..., float]

    def __init__(
        self,
        data_range: float | None = None,
        fit: bool = False,
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
    ) -> None:
        if data_range is not None and not data_range > 0:
            raise ValueError(f"data_range must be positive, got {data_range}.")
        compare = partial(_compare, type(self)._function, data_range, fit)
        super().__init__(PerCaseMetric(compare), output_transform=output_transform, save_details=save_details)


class CasePSNR(_RestorationMetric):
    """Peak signal-to-noise ratio of every case in dB; its mean is the metric.

    MONAI's ``PeakSignalToNoiseRatio`` takes one range for all images.

    Args:
        data_range: greatest possible difference, 1 for intensities from 0 to 1; None takes it from each reference.
        fit: bring each image to its reference by gain and offset first (least squares), for pairs whose contrast
            was stretched on its own. Raises every figure, those of the input included.
        output_transform: gives image and reference, as ``from_engine(["pred", "label"])`` does.
        save_details: keep the values of the cases in ``engine.state.metric_details``.

    Raises:
        ValueError: for a range that is not positive, a constant reference without a range, NaN, and images of
            different shapes.
    """

    _function = staticmethod(psnr)


class CaseSSIM(_RestorationMetric):
    """Structural similarity of every case, up to 1; its mean is the metric. Arguments and errors: ``CasePSNR``.

    Volumes are compared in 3D, not slice by slice. Raises ValueError for images below 11 voxels along an axis.
    """

    _function = staticmethod(ssim)


def _compare(
    function: Callable[..., float],
    data_range: float | None,
    fit: bool,
    image: torch.Tensor,
    reference: torch.Tensor,
) -> float:
    first, second = (torch.as_tensor(value).detach().cpu().double().numpy() for value in (image, reference))
    return function(fitted(first, second) if fit else first, second, data_range)
