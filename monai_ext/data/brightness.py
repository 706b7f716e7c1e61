"""Brightness and contrast, drawn once for images that belong together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

__all__ = ["RandBrightnessContrastd"]


class RandBrightnessContrastd(RandomizableTransform, MapTransform):
    """``a x + b mean(a x)`` with a drawn from ``1 ± contrast`` and b from ``± brightness``.

    The augmentation of Hooper and Xue (PMLR 259, 2024), who took it from Albumentations and have 0.3 for both. Images
    of one item (a noisy one and its reference) get the same a, b and mean, that of the first key, so that their
    difference is only multiplied; in the study each has its own mean.

    Args:
        keys: images to change.
        brightness: greatest part of the mean that is added or taken away.
        contrast: greatest part by which intensities grow or shrink.
        prob: part of the items that are changed.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for a negative ``brightness``, or a ``contrast`` that is not from 0 up to below 1.
    """

    def __init__(
        self,
        keys: KeysCollection,
        brightness: float = 0.3,
        contrast: float = 0.3,
        prob: float = 0.9,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if not brightness >= 0:
            raise ValueError(f"brightness must be 0 or more, got {brightness}.")
        if not 0 <= contrast < 1:
            raise ValueError(f"contrast must lie from 0 up to below 1, got {contrast}.")
        self.brightness, self.contrast = float(brightness), float(contrast)
        self.gain, self.offset = 1.0, 0.0

    def randomize(self, data: None = None) -> None:
        super().randomize(None)
        self.gain = 1 + float(self.R.uniform(-self.contrast, self.contrast))
        self.offset = float(self.R.uniform(-self.brightness, self.brightness))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        self.randomize()
        added = None
        for key in self.key_iterator(d):
            image = convert_to_tensor(d[key], dtype=torch.float32, track_meta=get_track_meta())
            if self._do_transform:
                if added is None:
                    added = self.offset * self.gain * float(image.mean())
                image = self.gain * image + added
            d[key] = image
        return d
