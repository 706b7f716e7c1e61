"""Pictures cut out of a larger one by boxes around its objects."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep

from monai_ext.data.case_name import name_of
from monai_ext.data.pascal_voc import CORNERS

__all__ = ["CutBoxd"]


class CutBoxd(MapTransform):
    """Cut the square around a box out of a picture; comes after loading with the channels first.

    The square has the box's centre and its longer side, so that nothing is stretched; what lies outside of the
    picture repeats its edge. An item without a box is cut as if the whole picture were its box.

    Args:
        keys: keys of the pictures, [C, W, H].
        box_key: entry with xmin, ymin, xmax, ymax in pixels.
        margin: what to add on each side, as a share of the longer side.
        size: width and height to resample the square to, linearly; a smaller one averages, so that nothing aliases.
            MONAI's ``Resize`` darkens the edges where it does that. None leaves the pixels as they are.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: a box without area or outside of the picture, or an image that is no picture.
    """

    def __init__(
        self,
        keys: KeysCollection,
        box_key: str = "box",
        margin: float = 0.0,
        size: Sequence[int] | int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if margin < 0:
            raise ValueError(f"margin must not be negative, got {margin}.")
        self.box_key = box_key
        self.margin = margin
        self.size = None if size is None else ensure_tuple_rep(size, 2)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._cut(d[key], d.get(self.box_key), name_of(key, d[key]))
        return d

    def _cut(self, image: torch.Tensor, box: Iterable[float] | None, name: str) -> torch.Tensor:
        if image.ndim != 3:
            raise ValueError(f"{name} has {image.ndim - 1} spatial dimensions, boxes are cut out of pictures (2).")
        width, height = image.shape[1:]
        x0, y0, x1, y1 = (0, 0, width, height) if box is None else _corners(box, name)
        if x1 <= x0 or y1 <= y0:
            raise ValueError(f"{name}: the box {(x0, y0, x1, y1)} has no area; leave it out of the data list.")
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise ValueError(f"{name}: the box {(x0, y0, x1, y1)} lies outside of {width} x {height} pixels.")
        side = max(1, round(max(x1 - x0, y1 - y0) * (1 + 2 * self.margin)))
        left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
        columns, rows = (
            torch.arange(start, start + side, device=image.device).clamp(0, length - 1)
            for start, length in ((left, width), (top, height))
        )
        square = torch.as_tensor(image)[:, columns][:, :, rows]
        if self.size is not None:
            square = F.interpolate(square[None].float(), self.size, mode="bilinear", antialias=True)[0]
        return MetaTensor(square, meta=image.meta) if isinstance(image, MetaTensor) else square


def _corners(box: Iterable[float], name: str) -> tuple[int, ...]:
    corners = tuple(int(value) for value in box)
    if len(corners) != len(CORNERS):
        raise ValueError(f"{name}: a box is {', '.join(CORNERS)}, got {corners}.")
    return corners
