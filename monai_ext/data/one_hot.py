"""Label maps from labels that have one channel a class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.data.case_name import name_of
from monai_ext.data.picture_transforms import without_alpha

__all__ = ["ClassesOfChannelsd"]


class ClassesOfChannelsd(MapTransform):
    """One channel of classes 0, 1, 2, ... from one channel a class; comes after loading with the channels first.

    Whatever is above 0 belongs to a channel's class. A label of one channel passes as it is, so that label maps, such
    as those that an annotation tool writes, can stand among the others.

    Args:
        keys: keys of the labels.
        background: whether the first channel is the background; else the background is where no channel is.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: channels that overlap.
    """

    def __init__(self, keys: KeysCollection, background: bool = False, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.background = background

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            label = without_alpha(d[key])
            if label.shape[0] == 1:
                continue
            inside = torch.as_tensor(label) > 0
            if int(inside.sum(0).max()) > 1:
                raise ValueError(
                    f"{name_of(key, d[key])} has channels that overlap, a voxel can have one class; merge the channels."
                )
            first = inside.to(torch.uint8).argmax(0, keepdim=True)
            classes = first if self.background else torch.where(inside.any(0, keepdim=True), first + 1, 0)
            classes = classes.to(torch.float32)
            d[key] = MetaTensor(classes, meta=label.meta) if isinstance(label, MetaTensor) else classes
        return d
