"""Outlined shapes as a network wants them: in the middle of a cube, and how thick they are."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from scipy.ndimage import distance_transform_edt

from monai_ext.data.case_name import name_of

__all__ = ["CutShaped", "ShapeDistanced"]


class CutShaped(MapTransform):
    """Cut the cube around the centre of mass of a shape; what lies outside of the image is empty.

    Whatever is above 0 is the shape; the result is 0 and 1. Comes after loading with the channels first.

    Args:
        keys: keys of the masks, [1, ...].
        size: edges of the cube, in voxels.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: an empty mask.
    """

    def __init__(self, keys: KeysCollection, size: Sequence[int] | int = 64, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._cut(d[key], name_of(key, d[key]))
        return d

    def _cut(self, mask: torch.Tensor, name: str) -> torch.Tensor:
        shape = torch.as_tensor(mask) > 0
        if not bool(shape.any()):
            raise ValueError(f"{name} is empty, no voxel of it is above 0; it must hold the outline of the organ.")
        centre = shape.nonzero()[:, 1:].double().mean(0)
        size = ensure_tuple_rep(self.size, shape.ndim - 1)
        first = [round(float(middle) + 0.5 - edge / 2) for middle, edge in zip(centre, size)]
        inside = shape[(slice(None), *(slice(max(0, low), low + edge) for low, edge in zip(first, size)))]
        # the last axis comes first
        pad = [
            amount
            for low, edge, length in reversed(list(zip(first, size, shape.shape[1:])))
            for amount in (max(0, -low), max(0, low + edge - length))
        ]
        cut = F.pad(inside, pad).float()
        return MetaTensor(cut, meta=mask.meta) if isinstance(mask, MetaTensor) else cut


class ShapeDistanced(MapTransform):
    """Put behind the channel of a shape the distance of its voxels to what lies around it, in voxels over `unit`.

    The middle of a sheet is at half its thickness, 0 is outside: with this channel a linear patch embedding sees how
    thick a shape is. Euclidean distances by ``scipy.ndimage.distance_transform_edt``.

    Args:
        keys: keys of the shapes, [1, ...], 0 and 1.
        unit: the distance that becomes 1.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: a shape that fills the whole image.
    """

    def __init__(self, keys: KeysCollection, unit: float = 4.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if not unit > 0:
            raise ValueError(f"unit must be positive, got {unit}.")
        self.unit = unit

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            inside = torch.as_tensor(d[key])[0].cpu().numpy() > 0
            if inside.all():
                raise ValueError(f"{name_of(key, d[key])} fills the whole image, nothing lies around it.")
            distance = torch.from_numpy(distance_transform_edt(inside)).to(d[key])[None] / self.unit
            both = torch.cat([torch.as_tensor(d[key]), torch.as_tensor(distance)])
            d[key] = MetaTensor(both, meta=d[key].meta) if isinstance(d[key], MetaTensor) else both
        return d
