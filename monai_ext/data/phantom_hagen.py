"""Made-up fluorescence microscopy: one scene taken with much and with little light.

Each exposure counts photons (Poisson) and adds the camera's own noise (Gauss); then each file is stretched on its
own to 8 bits, as in the real pictures, so that the two of a pair differ in gain and offset. Arrays begin with the
height.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

_HUES = {"actin": (0, 1, 0), "membrane": (0, 1, 0), "mito": (1, 0, 0), "nucleus": (1, 1, 0)}  # red, green, blue


def draw_exposures(rng: np.random.Generator, case: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The low and the high exposure [H, W], uint8; the case's name says what is shown and through which lens."""
    structure = case.split("-")[0]
    fine = 0.5 if "20x" in case else 1.0  # the lens of 20x shows four times the area
    scene = _SCENES[structure](rng, size, fine)
    scene = gaussian_filter(np.clip(scene, 0, None), rng.uniform(0.8, 1.2))
    if "confocal" not in case:  # light from above and below the plane of focus
        scene = scene + 0.35 * gaussian_filter(scene, 9)
    scene = scene / np.quantile(scene, 0.999) + rng.uniform(0.02, 0.06)
    if "20x" in case or "60x" in case:
        photons = rng.uniform(9, 16) if case.endswith("noise2") else rng.uniform(18, 32)
    else:
        photons = rng.uniform(14, 40)
    return tuple(_exposed(rng, scene, level) for level in (photons, photons * rng.uniform(25, 45)))


def save_exposures(folder: Path, case: str, drawn: tuple[np.ndarray, ...], rng: np.random.Generator) -> dict[str, str]:
    """Writes a case as the official data set does, with a palette of one hue, and gives its files' names."""
    names = {
        "image": f"low_snr_images/{case}-lowsnr-sample.png",
        "label": f"high_snr_images/{case}-highsnr-sample.png",
    }
    palette = (np.arange(256)[:, None] * _HUES[case.split("-")[0]]).astype(np.uint8)
    for name, array in zip(names.values(), drawn):
        (folder / name).parent.mkdir(exist_ok=True)
        picture = Image.frombytes("P", array.shape[::-1], array.tobytes())
        picture.putpalette(palette.tobytes())
        picture.save(folder / name)
    return names


def _exposed(rng: np.random.Generator, scene: np.ndarray, photons: float) -> np.ndarray:
    """What a camera makes of `photons` at the brightest, stretched from its darkest to its brightest pixels."""
    taken = rng.poisson(scene * photons) + 1.6 * rng.standard_normal(scene.shape)
    low, high = np.quantile(taken, (0.002, 0.9995))
    return np.clip((taken - low) * (255 / max(high - low, 1e-9)), 0, 255).round().astype(np.uint8)


def _filaments(rng: np.random.Generator, size: int, fine: float) -> np.ndarray:
    """Bundles of long fibres, roughly parallel within a bundle."""
    scene = 0.05 * _cloud(rng, size, 40 * fine)
    for _ in range(rng.integers(4, 7)):
        angle, middle = rng.uniform(0, np.pi), rng.uniform(0, size, 2)
        for _ in range(round(rng.integers(14, 26) * size / 256 / fine)):
            start = middle + rng.normal(0, size / 5, 2)
            line = _walk(rng, start, angle + rng.normal(0, 0.12), rng.uniform(0.3, 1.1) * size, 0.004 / fine)
            _trace(scene, line, rng.uniform(0.6, 1.3) * fine, rng.uniform(0.25, 1.0))
    return scene


def _worms(rng: np.random.Generator, size: int, fine: float) -> np.ndarray:
    """Short crooked threads and little rings around dark nuclei: mitochondria."""
    y, x = np.indices((size, size))
    dark = np.zeros((size, size))
    for _ in range(rng.integers(1, 4)):
        at, radius = rng.uniform(0, size, 2), rng.uniform(0.09, 0.16) * size * np.sqrt(fine)
        dark = np.maximum(dark, 1 / (1 + np.exp((np.hypot(y - at[0], x - at[1]) - radius) / 2)))
    body = np.clip(_cloud(rng, size, 45 * fine) + 0.7, 0, 1.4)
    scene = 0.08 * body + 0.1 * dark
    threads = np.zeros_like(scene)
    for _ in range(round(size * size / (190 * fine**1.5))):
        start = rng.uniform(0, size, 2)
        line = _walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(4, 34) * fine, 0.2 / fine)
        _trace(threads, line, rng.uniform(1.1, 1.9) * fine, rng.uniform(0.4, 1.0))
    return scene + threads * body * (1 - dark)


def _membranes(rng: np.random.Generator, size: int, fine: float) -> np.ndarray:
    """Cells with a bright ragged edge and thin feet, over a dark ground with specks."""
    y, x = np.indices((size, size))
    scene = np.zeros((size, size))
    for _ in range(rng.integers(2, 4)):
        at, radius = rng.uniform(-0.1, 1.1, 2) * size, rng.uniform(0.2, 0.36) * size
        edge = np.hypot(y - at[0], x - at[1]) - radius + 0.05 * size * _cloud(rng, size, 9 * fine)
        inside = 1 / (1 + np.exp(np.clip(edge / 2.0, -30, 30)))
        scene += 0.3 * inside * (1.2 + 0.4 * _cloud(rng, size, 4)) + 0.5 * np.exp(-((edge / 2.2) ** 2))
        for _ in range(rng.integers(2, 6)):
            angle = rng.uniform(0, 2 * np.pi)
            foot = at + radius * np.array([np.cos(angle), np.sin(angle)])
            line = _walk(rng, foot, angle, rng.uniform(0.1, 0.6) * size, 0.01)
            _trace(scene, line, rng.uniform(0.8, 1.4), rng.uniform(0.2, 0.5))
    for _ in range(rng.integers(10, 30)):
        _trace(scene, rng.uniform(0, size, (1, 2)), rng.uniform(1, 2.5), rng.uniform(0.1, 0.5))
    return scene


def _nuclei(rng: np.random.Generator, size: int, fine: float) -> np.ndarray:
    """Large ovals with dark holes and bright spots."""
    y, x = np.indices((size, size))
    scene = 0.02 * np.ones((size, size))
    for _ in range(rng.integers(1, 4)):
        at, axes = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0.1, 0.2, 2) * size
        turn = rng.uniform(0, np.pi)
        u = np.cos(turn) * (y - at[0]) + np.sin(turn) * (x - at[1])
        v = np.cos(turn) * (x - at[1]) - np.sin(turn) * (y - at[0])
        depth = 1 - np.hypot(u / axes[0], v / axes[1]) + 0.03 * _cloud(rng, size, 8)
        grain = 0.75 + 0.17 * _cloud(rng, size, 3) + 0.2 * _cloud(rng, size, 8)
        scene = np.maximum(scene, np.clip(depth * 14, 0, 1) * np.clip(grain, 0.25, 1.4))
    return scene


_SCENES: dict[str, Callable[[np.random.Generator, int, float], np.ndarray]] = {
    "actin": _filaments,
    "mito": _worms,
    "membrane": _membranes,
    "nucleus": _nuclei,
}


def _walk(rng: np.random.Generator, start: np.ndarray, angle: float, length: float, bend: float) -> np.ndarray:
    """Points (y, x) one pixel apart, the heading wandering by `bend` radians a step."""
    headings = angle + np.cumsum(rng.normal(0, bend, max(1, round(length))))
    return start + np.cumsum(np.stack([np.cos(headings), np.sin(headings)], -1), 0)


def _trace(scene: np.ndarray, points: np.ndarray, radius: float, bright: float) -> None:
    """Draws a thread of Gaussian cross-section; where threads cross, the brighter one is seen."""
    reach = int(np.ceil(2.5 * radius))
    offsets = np.indices((2 * reach + 1,) * 2).reshape(2, -1).T - reach
    pixels = np.floor(points).astype(int)[:, None] + offsets
    distances = np.square(pixels + 0.5 - points[:, None]).sum(-1)
    kept = ((pixels >= 0) & (pixels < scene.shape)).all(-1)
    values = bright * np.exp(-distances / (2 * radius**2))
    np.maximum.at(scene, tuple(pixels[kept].T), values[kept])


def _cloud(rng: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """Gaussian random field of correlation length `sigma` pixels, mean 0, standard deviation 1."""
    field = gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
    return (field - field.mean()) / max(field.std(), 1e-9)
