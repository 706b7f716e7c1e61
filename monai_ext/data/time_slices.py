"""Slices of cine images: 4D files [W, H, D, T], of which each slice over time is an item [W, H, T]."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.data.case_name import name_of

__all__ = ["TakeTimeSliced"]


class TakeTimeSliced(MapTransform):
    """Of a 4D image keep one slice over time: [T, W, H, D] becomes [1, W, H, T]; comes after loading, channels first.

    MONAI takes the times of a 4D file for its channels. The affine becomes that of the slice; its third axis is
    time, a frame as one millimetre along the slices' normal.

    Args:
        keys: keys of the images.
        slice_key: entry with the number of the slice, from 0.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: the item has no such entry, or the image no such slice or no times.
    """

    def __init__(self, keys: KeysCollection, slice_key: str = "slice", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.slice_key = slice_key

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        if self.slice_key not in d:
            raise ValueError(
                f"the item has no {self.slice_key!r}, the number of its slice; it has {sorted(map(str, d))}."
            )
        number = int(d[self.slice_key])
        for key in self.key_iterator(d):
            d[key] = _take(d[key], number, name_of(key, d[key]))
        return d


def _take(image: torch.Tensor, number: int, name: str) -> torch.Tensor:
    if image.ndim != 4:
        raise ValueError(f"{name} has {image.ndim - 1} spatial dimensions after loading, expected 3 with times before.")
    if not 0 <= number < image.shape[3]:
        raise ValueError(f"{name} has {image.shape[3]} slices, there is no slice {number}.")
    taken = torch.as_tensor(image)[..., number].permute(1, 2, 0)[None].contiguous()
    if not isinstance(image, MetaTensor):
        return taken
    affine = np.array(image.affine, dtype=float)
    affine[:3, 3] += number * affine[:3, 2]
    affine[:3, 2] /= max(np.linalg.norm(affine[:3, 2]), 1e-9)
    taken = MetaTensor(taken, affine=torch.as_tensor(affine), meta=dict(image.meta))
    taken.meta["spatial_shape"] = np.asarray(taken.shape[1:])
    return taken
