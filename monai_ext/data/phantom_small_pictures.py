"""Made-up colour pictures [H, W, 3] of one class each: graded fundi, lesions of the skin, tiles of lymph nodes."""

from __future__ import annotations

import numpy as np

from monai_ext.data.phantom_chase import draw_fundus
from monai_ext.data.phantom_fields import blend, coordinates, distance, smooth_noise, soft

__all__ = ["draw_graded_fundus", "draw_lesion", "draw_tile"]

# colour, how large, how uneven its edge and its pigment are; in the order of DermaMNIST's classes
_LESIONS = (
    ((196, 120, 104), 0.55, 0.10, 0.5),
    ((214, 150, 140), 0.40, 0.05, 0.2),
    ((150, 110, 84), 0.50, 0.03, 0.9),
    ((170, 106, 96), 0.28, 0.02, 0.1),
    ((58, 40, 40), 0.60, 0.20, 1.0),
    ((120, 74, 54), 0.40, 0.03, 0.2),
    ((160, 30, 52), 0.35, 0.06, 0.3),
)


def draw_graded_fundus(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """A photograph of the fundus, uint8, with the more spots of blood and fat the higher the grade."""
    photograph = draw_fundus(rng, "Image_01L" if rng.random() < 0.5 else "Image_01R", size)[0]
    picture = np.zeros((size, size, 3))
    top = (size - photograph.shape[0]) // 2
    picture[top : top + photograph.shape[0]] = photograph
    grids = coordinates((size, size))
    for kind, number in (((70, 12, 8), 7 * label), ((236, 214, 120), 5 * max(0, label - 1))):
        for _ in range(number):
            angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.75)
            centre, radius = (reach * np.sin(angle), reach * np.cos(angle)), rng.uniform(0.025, 0.045)
            blend(picture, kind, 0.85 * soft(1 - distance(grids, centre, (radius, radius)), 0.2))
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def draw_lesion(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """A lesion on skin, uint8."""
    colour, extent, uneven, pigment = _LESIONS[label]
    shape = (size, size)
    picture = np.array([228.0, 178, 160]) + 6 * smooth_noise(shape, 12, rng)[..., None]
    extent *= rng.uniform(0.85, 1.15)
    radii = extent * rng.uniform(0.85, 1.15, 2)
    edge = distance(coordinates(shape), rng.uniform(-0.12, 0.12, 2), radii) + 1.5 * uneven * smooth_noise(shape, 6, rng)
    tone = np.array(colour) * rng.uniform(0.92, 1.08)
    inside = soft(1 - edge, 0.05)
    blend(picture, tone, 0.9 * inside)
    picture *= 1 - 0.25 * pigment * (inside * soft(smooth_noise(shape, 14, rng), 0.3))[..., None]
    picture += 3 * rng.standard_normal((*shape, 1))
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def draw_tile(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """A stained tile, uint8: small nuclei, and with tumour large pale ones in its middle."""
    shape = (size, size)
    y, x = coordinates(shape)
    picture = np.array([222.0, 172, 206]) + 10 * smooth_noise(shape, 8, rng)[..., None]
    for _ in range(70):
        centre, radius = rng.uniform(-1, 1, 2), rng.uniform(0.05, 0.07)
        _nucleus(picture, (y, x), centre, radius, (84, 50, 130))
    if label:
        blend(picture, (226, 180, 208), soft(0.6 - np.hypot(y, x), 0.05))
        for _ in range(14):
            angle, reach = rng.uniform(0, 2 * np.pi), 0.5 * np.sqrt(rng.uniform())
            centre, radius = (reach * np.sin(angle), reach * np.cos(angle)), rng.uniform(0.12, 0.16)
            _nucleus(picture, (y, x), centre, radius, (136, 84, 160))
    picture += 4 * rng.standard_normal((*shape, 1))
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def _nucleus(picture, grids, centre, radius, colour) -> None:
    blend(picture, colour, 0.85 * soft(1 - distance(grids, centre, (radius, radius)), 0.15))
