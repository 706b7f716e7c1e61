"""Noise of pairs of images, one noisy and one clean, for networks that are to learn more kinds of noise than there are.

It comes after ``FitIntensityd``, so that the two images of a pair differ by noise alone::

    LoadVolumed -> FitIntensityd("label") -> ScaleTogetherd -> crop -> RandPhotonNoised

Shapes: C channels, then 2 or 3 spatial axes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type
from scipy.ndimage import gaussian_filter

from monai_ext.data.intensity import entry_of

__all__ = ["RandPhotonNoised"]


class RandPhotonNoised(RandomizableTransform, MapTransform):
    """Replace the noisy image of a pair by the clean one with made-up noise of a camera.

    noisy = dark + n / photons + r, n a Poisson variable with mean photons · (clean - dark), r Gaussian, dark the
    lowest value of the clean image; the model of Foi et al., *Practical Poissonian-Gaussian noise modeling and
    fitting for single-image raw-data* (IEEE TIP 2008). A clean image has some noise of its own, which a network
    would learn to leave in place; the clean image is therefore smoothed before, and the smooth one is the reference.

    Args:
        keys: noisy images to replace, each with noise of its own.
        reference_key: the clean image; smoothed in the item, too, where noise is made.
        photons: photons at an intensity of 1 above dark, drawn between these two, uniformly in their logarithm.
        read_noise: standard deviation of the Gaussian part, drawn uniformly between these two.
        smooth: standard deviation in pixels of the Gaussian that smooths the clean image, drawn uniformly.
        correlation: standard deviation in pixels of a Gaussian that the noise passes, drawn uniformly, so that it
            goes together in neighbouring pixels; its standard deviation stays.
        cut_prob: part of the noisy images whose lowest values, up to somewhat above dark, are cut, as in pictures
            whose contrast was stretched.
        prob: part of the items that are changed.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for ranges that are not two numbers from 0 up, the lower one first, photons of 0, and an item
            without ``reference_key``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reference_key: str = "label",
        photons: Sequence[float] = (4.0, 1000.0),
        read_noise: Sequence[float] = (0.0, 0.05),
        smooth: Sequence[float] = (0.5, 1.5),
        correlation: Sequence[float] = (0.0, 0.7),
        cut_prob: float = 0.0,
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.reference_key = reference_key
        self.photons = _interval("photons", photons)
        if not self.photons[0] > 0:
            raise ValueError(f"photons must be positive, got {list(photons)}.")
        self.read_noise = _interval("read_noise", read_noise)
        self.smooth = _interval("smooth", smooth)
        self.correlation = _interval("correlation", correlation)
        self.cut_prob = cut_prob

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return d
        clean = torch.as_tensor(entry_of(d, self.reference_key)).detach().cpu().float().numpy()
        clean = _smoothed(clean, float(self.R.uniform(*self.smooth)))
        photons = float(np.exp(self.R.uniform(*np.log(self.photons))))
        read_noise = float(self.R.uniform(*self.read_noise))
        correlation = float(self.R.uniform(*self.correlation))
        for key in self.key_iterator(d):
            noise = self._noise(clean, photons, read_noise, correlation)
            noisy = clean + noise
            if self.R.uniform() < self.cut_prob:
                noisy = np.maximum(noisy, clean.min() + self.R.uniform(0, 0.5) * noise.std())
            d[key] = convert_to_dst_type(noisy, d[key], dtype=torch.float32)[0]
        d[self.reference_key] = convert_to_dst_type(clean, d[self.reference_key], dtype=torch.float32)[0]
        return d

    def _noise(self, clean: np.ndarray, photons: float, read_noise: float, correlation: float) -> np.ndarray:
        light = clean - clean.min()
        noise = self.R.poisson(light * photons) / photons - light + read_noise * self.R.standard_normal(clean.shape)
        spread = noise.std()
        smooth = _smoothed(noise, correlation)
        return smooth * (spread / max(smooth.std(), 1e-12))


def _smoothed(image: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(image, (0, *[sigma] * (image.ndim - 1)), mode="nearest") if sigma > 0.2 else image


def _interval(name: str, values: Sequence[float]) -> tuple[float, float]:
    found = tuple(float(value) for value in values)
    if len(found) != 2 or not 0 <= found[0] <= found[1]:
        raise ValueError(f"{name} must be two numbers from 0 up, the lower one first, got {list(values)}.")
    return found[0], found[1]
