"""Noise of magnitude MR images, for networks that are to remove it.

Noise belongs before the normalisation, and the normalisation on the noisy image, so that nothing of the clean one
reaches the network::

    LoadVolumed("image") -> CopyItemsd("image", names="label") -> RandRicianLeveld("image")
        -> ScaleTogetherd(["image", "label"])

In evaluation ``FixedRicianNoised`` takes the place of ``RandRicianLeveld``, and ``at_levels`` lists every case once a
level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform, RandRicianNoise
from monai.utils import convert_to_tensor

from monai_ext.data.case_name import case_name, file_of, name_of

__all__ = ["FixedRicianNoised", "RandRicianLeveld", "at_levels"]


def at_levels(items: Sequence[Mapping[str, Any]], levels: Sequence[float]) -> list[dict[str, Any]]:
    """Every item once for each level: its ``image``, its ``case`` where it has one, and ``level``.

    Nothing else goes along: what a data set holds as ``label`` is no reference of a restored image.

    Raises:
        ValueError: for no levels.
    """
    if not levels:
        raise ValueError("levels is empty; give at least one, such as [0.05].")
    kept = [{key: item[key] for key in ("image", "case") if key in item} for item in items]
    return [{**item, "level": float(level)} for item in kept for level in levels]


class RandRicianLeveld(RandomizableTransform, MapTransform):
    """Rician noise of a random level, relative to each image's own intensities.

    m = sqrt((x + n1)² + n2²), n1 and n2 Gaussian with standard deviation level · p, p a high percentile of the clean
    image; Gudbjartsson and Patz, *The Rician distribution of noisy MRI data* (1995). The noise is that of MONAI's
    ``RandRicianNoise``; that class draws its level from 0 up to one number, and relates it to the standard deviation
    of the image, which grows with the empty space around a head.

    Args:
        keys: images that get noise, each its own, at one level an item.
        levels: the level is drawn uniformly between these two, parts of the percentile.
        prob: part of the items that get noise.
        percentile: of the clean image, that stands for its brightest tissue.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for levels that are not two numbers from 0 up, the lower one first, a percentile outside 0 to
            100, and images with negative values: noise comes before normalising.
    """

    def __init__(
        self,
        keys: KeysCollection,
        levels: Sequence[float] = (0.02, 0.15),
        prob: float = 1.0,
        percentile: float = 99.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.levels = tuple(float(level) for level in levels)
        if len(self.levels) != 2 or not 0 <= self.levels[0] <= self.levels[1]:
            raise ValueError(f"levels must be two numbers from 0 up, the lower one first, got {list(levels)}.")
        self.percentile = _checked_percentile(percentile)
        self.level = 0.0

    def randomize(self, data: None = None) -> None:
        super().randomize(None)
        self.level = float(self.R.uniform(*self.levels))

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        self.randomize()
        for key in self.key_iterator(d):
            if self._do_transform:
                d[key] = _with_noise(d[key], self.level, self.percentile, self.R, key)
            else:
                d[key] = convert_to_tensor(d[key], dtype=torch.float32, track_meta=get_track_meta())
        return d


class FixedRicianNoised(MapTransform):
    """The Rician noise of ``RandRicianLeveld`` at one level, the same for a case in every run and any order.

    The noise is seeded by ``seed`` and the name of the image's file without folder and suffix. Two files of one name
    and size therefore get the same pattern.

    Args:
        keys: images that get noise.
        level: standard deviation of the noise as a part of the percentile.
        seed: another number is another noise.
        percentile: of the clean image, that stands for its brightest tissue.
        level_key: entry of the item that holds its level, in place of ``level``; a case has the same pattern of
            noise at every level.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: for a negative level, an item without ``level_key``, a percentile outside 0 to 100, images with
            negative values, and images that do not know the file they are from.
    """

    def __init__(
        self,
        keys: KeysCollection,
        level: float = 0.08,
        seed: int = 0,
        percentile: float = 99.0,
        level_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.level = _checked_level(level)
        self.seed = seed
        self.percentile = _checked_percentile(percentile)
        self.level_key = level_key

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        level = self.level
        if self.level_key is not None:
            if self.level_key not in d:
                raise ValueError(f"the item has no {self.level_key!r}, its level; list the cases by at_levels.")
            level = _checked_level(float(d[self.level_key]))
        for key in self.key_iterator(d):
            if file_of(d[key]) is None:
                raise ValueError(
                    f"the {key} does not know its file, by whose name the noise is seeded; load it with LoadVolumed, "
                    "or set its meta data's 'filename_or_obj'."
                )
            text = f"{self.seed} {case_name(d[key])}".encode()
            random = np.random.RandomState(int.from_bytes(hashlib.sha256(text).digest()[:4], "big"))
            d[key] = _with_noise(d[key], level, self.percentile, random, key)
        return d


def _checked_level(level: float) -> float:
    if not level >= 0:
        raise ValueError(f"level must be 0 or more, got {level}.")
    return float(level)


def _checked_percentile(percentile: float) -> float:
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must lie above 0 and up to 100, got {percentile}.")
    return float(percentile)


def _with_noise(
    image: torch.Tensor, level: float, percentile: float, random: np.random.RandomState, key: Hashable
) -> torch.Tensor:
    image = convert_to_tensor(image, dtype=torch.float32, track_meta=get_track_meta())
    numbers = torch.as_tensor(image).detach().cpu().numpy()
    scale, low = float(np.percentile(numbers, percentile)), float(numbers.min(initial=0))
    if low < -0.01 * abs(scale):  # less is what interpolation leaves
        raise ValueError(
            f"{name_of(key, image)} goes down to {low:g}, a magnitude image has no negative values; "
            "add Rician noise before normalising."
        )
    noise = RandRicianNoise(prob=1.0, std=level * scale, sample_std=False)
    noise.R = random
    return noise(image)
