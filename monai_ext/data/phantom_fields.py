"""What made-up pictures and volumes are composed of: smooth randomness, soft edges, ellipsoids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import zoom

__all__ = ["blend", "coordinates", "distance", "smooth_noise", "soft"]


def coordinates(shape: Sequence[int]) -> list[np.ndarray]:
    """The coordinates of every pixel or voxel, -1 to 1 along each axis, one array an axis."""
    return [2 * (grid + 0.5) / size - 1 for grid, size in zip(np.indices(shape), shape)]


def distance(grids: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Distance from the centre of an ellipsoid, 1 at its surface."""
    return np.sqrt(sum(((grid - c) / r) ** 2 for grid, c, r in zip(grids, centre, radii)))


def soft(depth: np.ndarray, width: float) -> np.ndarray:
    """1 where `depth` is positive, 0 where it is negative, with an edge of this width."""
    return 1 / (1 + np.exp(-np.clip(depth / width, -30, 30)))


def smooth_noise(shape: Sequence[int], bumps: float, rng: np.random.Generator) -> np.ndarray:
    """A random landscape of mean 0 and deviation 1, with about so many bumps along the longest axis."""
    step = max(shape) / bumps
    coarse = rng.standard_normal([int(np.ceil(size / step)) + 3 for size in shape])
    fine = zoom(coarse, [min(step, size) for size in shape], order=3)
    fine = fine[tuple(slice((have - size) // 2, (have - size) // 2 + size) for have, size in zip(fine.shape, shape))]
    return (fine - fine.mean()) / fine.std()


def blend(image: np.ndarray, value: float | Sequence[float], share: np.ndarray) -> None:
    """Moves the image, in place, towards a grey value or a colour (last axis) by a share between 0 and 1."""
    share = share[..., None] if np.ndim(value) else share
    image += share * (np.asarray(value) - image)
