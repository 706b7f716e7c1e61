"""Intensities of pairs of images: one scale for both, and a gain and an offset between them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_tensor

from monai_ext.data.case_name import name_of

__all__ = ["FitIntensityd", "ScaleByNoised", "ScaleTogetherd", "gain_and_offset", "noise_estimate"]


def gain_and_offset(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """The gain a and offset b that minimise the sum of (a source + b - target)²; a = 0 for a constant source.

    Raises:
        ValueError: for images of different shapes.
    """
    if source.shape != target.shape:
        raise ValueError(f"the two images have different shapes, {source.shape} and {target.shape}.")
    source, target = source.astype(np.float64), target.astype(np.float64)
    centred = source - source.mean()
    power = float((centred**2).sum())
    # what rounding leaves of a constant image is no signal
    constant = power <= source.size * (1e-7 * float(np.abs(source).max(initial=0.0))) ** 2
    gain = 0.0 if constant else float((centred * (target - target.mean())).sum()) / power
    return gain, float(target.mean() - gain * source.mean())


class ScaleTogetherd(MapTransform, InvertibleTransform):
    """Scale several images by the numbers found on one of them.

    (x - low) / (high - low), low and high being percentiles of ``reference_key``. In denoising that is the noisy
    image, the only one there is in use: percentiles of the clean image would carry knowledge of it into the
    network's input. Nothing is clipped. ``Invertd`` brings predictions back to the intensities of the file.

    Args:
        keys: images to scale.
        reference_key: the image whose percentiles count.
        lower: percentile that becomes 0.
        upper: percentile that becomes 1.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for percentiles that are no interval in 0 to 100, an item without ``reference_key``, and an
            image whose two percentiles are equal.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference_key: str = "image",
        lower: float = 0.5,
        upper: float = 99.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"lower and upper must be percentiles, lower below upper, got {lower} and {upper}.")
        self.reference_key = reference_key
        self.lower = lower
        self.upper = upper

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        reference = entry_of(d, self.reference_key)
        numbers = _numbers(reference)
        low, high = (float(value) for value in np.percentile(numbers, (self.lower, self.upper)))
        if not high > low:
            raise ValueError(
                f"{name_of(self.reference_key, reference)} has the same value, {low:g}, at its percentiles "
                f"{self.lower:g} and {self.upper:g}; choose percentiles further apart, or take it out of the data list."
            )
        unit = self.unit(numbers, high - low)
        for key in self.key_iterator(d):
            image = convert_to_tensor(d[key], dtype=torch.float32, track_meta=get_track_meta())
            d[key] = self.push_transform((image - low) / unit, extra_info={"low": low, "range": unit})
        return d

    def unit(self, reference: np.ndarray, between: float) -> float:
        """What becomes 1, from the reference image and the distance of its two percentiles."""
        return between

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            found = self.pop_transform(d[key])[TraceKeys.EXTRA_INFO]
            d[key] = d[key] * float(found["range"]) + float(found["low"])
        return d


class ScaleByNoised(ScaleTogetherd):
    """Scale several images so that the noise of one of them has a standard deviation of about 1.

    (x - low) / sigma, low being a percentile of ``reference_key`` and sigma its ``noise_estimate``. A denoiser then
    meets noise of one strength and images of different contrast, whatever the level: without norms it is hard for a
    network to take away much where there is much noise and little where there is little. The estimate comes from the
    noisy image alone. ``Invertd`` brings predictions back to the intensities of the file.

    Args:
        keys: images to scale.
        reference_key: the noisy image.
        lower: percentile that becomes 0.
        upper: with ``lower`` the measure of the image's contrast.
        floor: sigma is at least this part of the contrast, so that images without noise stay finite.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: as ``ScaleTogetherd``, and for a ``floor`` that is not positive.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference_key: str = "image",
        lower: float = 0.5,
        upper: float = 99.5,
        floor: float = 0.01,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, reference_key, lower, upper, allow_missing_keys)
        if not floor > 0:
            raise ValueError(f"floor must be positive, got {floor}.")
        self.floor = floor

    def unit(self, reference: np.ndarray, between: float) -> float:
        return max(noise_estimate(reference), self.floor * between)


def noise_estimate(image: np.ndarray) -> float:
    """Standard deviation of an image's noise, [C, ...]; noise that is independent from voxel to voxel.

    The median of |second differences along every axis| over 0.6745, for noise of standard deviation 1 to give 1; the
    differences (1, -2, 1) leave nothing of flat parts, slopes and edges along an axis. After Immerkær, *Fast noise
    variance estimation* (1996), and Donoho's median (1994). Axes of fewer than 3 voxels are left out; without any
    axis there is no estimate, 0. Fine texture counts as noise.
    """
    values, axes = image.astype(np.float64), [axis for axis in range(1, image.ndim) if image.shape[axis] >= 3]
    for axis in axes:
        values = np.diff(values, n=2, axis=axis) / np.sqrt(6)
    return float(np.median(np.abs(values))) / 0.6745 if axes else 0.0


class FitIntensityd(MapTransform):
    """Bring images to the scale of another by gain and offset, fitted by least squares.

    For pairs of a noisy image and a reference whose contrast was stretched on its own. The reference is fitted to
    the noisy image, never the other way round: noise of mean 0 then leaves gain and offset unbiased, and the
    network's input stays untouched. Rician noise has another mean, and needs no fit.

    Args:
        keys: images to fit, as a rule the reference.
        reference_key: the image whose scale counts.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for an item without ``reference_key``, and for images of different shapes.
    """

    def __init__(self, keys: KeysCollection, reference_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reference_key = reference_key

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        target = _numbers(entry_of(d, self.reference_key))
        for key in self.key_iterator(d):
            image = convert_to_tensor(d[key], dtype=torch.float32, track_meta=get_track_meta())
            gain, offset = gain_and_offset(_numbers(image), target)
            d[key] = image * gain + offset
        return d


def entry_of(data: Mapping[Hashable, Any], key: str) -> Any:
    """The item's entry, or a ValueError that names it."""
    if key not in data:
        raise ValueError(f"the item has no {key!r}, it has {sorted(map(str, data))}; name another reference_key.")
    return data[key]


def _numbers(image: Any) -> np.ndarray:
    return torch.as_tensor(image).detach().cpu().float().numpy()
