"""How images lie in a picture: upright, at the planes shown, in pixels of the right shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

__all__ = ["PANEL_WIDTH", "View", "on_grid_of", "panel_height", "upright", "views"]

PANEL_WIDTH = 3.2  # inches
PLANES = ("sagittal", "coronal", "axial")

# name of a plane, the function that cuts it from [W, H(, D)] arrays, height of its pixels over their width
View = tuple[str, Callable[[np.ndarray], np.ndarray], float]


def upright(arrays: Sequence[np.ndarray], affine: np.ndarray | None) -> tuple[list[np.ndarray], np.ndarray]:
    """The arrays with their axes right, anterior, superior, and the spacing of these axes; 2D stays as it is."""
    dims = arrays[0].ndim
    if dims != 3 or affine is None:
        return list(arrays), np.ones(dims)
    orientation = nib.orientations.io_orientation(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
    return [nib.orientations.apply_orientation(array, orientation) for array in arrays], spacing


def views(dims: int, indices: Sequence[int], spacing: np.ndarray) -> list[View]:
    """What is shown: a 2D image itself, a volume by the three slices at ``indices``, one for each axis."""
    if dims == 2:
        return [("", lambda value: value, float(spacing[1] / spacing[0]))]
    found: list[View] = []
    for axis, plane in enumerate(PLANES):
        others = [other for other in range(3) if other != axis]

        def cut(value: np.ndarray, axis: int = axis, index: int = indices[axis]) -> np.ndarray:
            return np.take(value, index, axis)

        found.append((plane, cut, float(spacing[others[1]] / spacing[others[0]])))
    return found


def panel_height(shape: tuple[int, ...], aspect: float) -> float:
    """Height in inches of a panel of ``PANEL_WIDTH``, at most 1.2 times as high as wide; [W, H, ...] voxels."""
    return min(PANEL_WIDTH * shape[1] * aspect / shape[0], 1.2 * PANEL_WIDTH)


def on_grid_of(image: Any, target: Any) -> Any:
    """The image on the voxels of the target, or None where that cannot be had."""
    if image is None or target is None:
        return image
    same_shape = image.shape[1:] == target.shape[1:]
    if not (isinstance(image, MetaTensor) and isinstance(target, MetaTensor)):
        return image if same_shape else None
    if same_shape and torch.allclose(image.affine, target.affine.to(image.affine), atol=1e-3):
        return image
    # a plain copy: resampling notes itself in the image's history, which Invertd reads
    copy = MetaTensor(image.as_tensor().detach().float(), affine=image.affine, meta=dict(image.meta))
    return ResampleToMatch(mode="bilinear", padding_mode="border")(copy, target)
