"""Made-up shapes of adrenal glands: two or three folded limbs, thin in a normal gland, thick in hyperplasia.

Lengths in mm, which are voxels. How thick the limbs are and how much of a volume they fill follows the real shapes.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

SIZE = 64


def draw_gland(rng: np.random.Generator, label: int) -> np.ndarray:
    """A shape [64, 64, 64], uint8, 0 and 255, its centre in the volume's; `label` 1 is hyperplasia."""
    length, limbs = rng.uniform(22, 34), rng.integers(2, 4)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    along = np.linspace(-0.5, 0.5, 70)  # the ridge that the limbs hang on
    bend = rng.uniform(-6, 6)
    ridge = np.stack([length * along, bend * np.cos(2 * np.pi * along), 0 * along], 1)
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.uniform(0.5, 1.3, limbs))
    points = []
    for angle in angles:
        reach = rng.uniform(9, 17) * (1 - (2 * along) ** 2 * rng.uniform(0.2, 0.8))
        out = np.linspace(0, 1, 40)
        curl = angle + rng.uniform(-0.5, 0.5) * out
        sheet = reach[:, None, None] * out[:, None] * np.stack([0 * out, np.cos(curl), np.sin(curl)], 1)
        points.append((ridge[:, None] + sheet).reshape(-1, 3))
    cloud = np.concatenate(points) @ turn.T
    thickness = rng.uniform(4.6, 6.6) if label else rng.uniform(2.6, 4.0)
    shape = _thickened(rng, cloud - cloud.mean(0), thickness)
    # the real volumes have the centre of the shape in that of the volume
    shift = np.round(np.argwhere(shape).mean(0) - SIZE / 2).astype(int)
    return np.uint8(255) * np.roll(shape, -shift, (0, 1, 2)).astype(np.uint8)


def _thickened(rng: np.random.Generator, cloud: np.ndarray, thickness: float) -> np.ndarray:
    surface = np.ones((SIZE,) * 3, bool)
    voxels = np.round(cloud + SIZE / 2).astype(int)
    voxels = voxels[((voxels >= 2) & (voxels < SIZE - 2)).all(1)]
    surface[tuple(voxels.T)] = False
    uneven = gaussian_filter(rng.standard_normal((SIZE,) * 3), 4)
    return distance_transform_edt(surface) < thickness / 2 * (1 + 0.25 * uneven / uneven.std())
