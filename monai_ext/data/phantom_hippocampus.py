"""Made-up T1 volumes of a hippocampus-like body: random in shape and contrast, learnable, not thresholdable.

Sizes, tissue fractions, grey values and intensity scales follow what the real Task04_Hippocampus volumes show. The
axes are x (left-right), y (posterior-anterior) and z (inferior-superior), in voxels of 1 mm.
"""

from __future__ import annotations

import numpy as np
from numpy import fft  # here, not at first use: its import can swallow a Ctrl-C

Field = np.ndarray


def draw_hippocampus(rng: np.random.Generator) -> tuple[Field, Field]:
    """An image (x, y, z), float32 or uint8, and its label map, uint8: 1 anterior, 2 posterior."""
    shape = tuple(round(rng.triangular(*limits)) for limits in ((31, 35, 43), (40, 50, 59), (24, 35, 47)))
    body, amygdala, horn, anterior = _geometry(shape, rng)

    # tissues: cortex between cerebrospinal fluid and white matter, by the level of one random landscape
    white, grey, fluid = rng.uniform(0.78, 0.92), rng.uniform(0.38, 0.48), rng.uniform(0.08, 0.18)
    landscape = _smooth_noise(shape, 2.6, rng) + 0.25 * _smooth_noise(shape, 1.3, rng)
    ribbon, sulcus = _soft(0.05 - landscape, 0.3), _soft(-0.95 - landscape, 0.3)
    # white matter wraps the body, as in the real images, thinner in some places than in others
    shell = _soft(body + 2.2 + 1.2 * _smooth_noise(shape, 4.0, rng), 1.0)
    scene = white + ribbon * (grey - white)
    scene += sulcus * (fluid - scene)
    scene += 0.8 * shell * (white - scene)
    scene += _soft(horn, 0.8) * (fluid - scene)
    scene += _soft(amygdala, 0.8) * (grey + rng.uniform(-0.03, 0.05) - scene)
    scene += _soft(body, 0.8) * (grey + rng.uniform(-0.04, 0.04) - scene)
    scene += 0.035 * _smooth_noise(shape, 0.9, rng)

    scene = _blur(scene, rng.uniform(0.4, 0.7))
    scene *= np.exp(rng.uniform(0.05, 0.15) * _smooth_noise(shape, 14.0, rng))
    noise = rng.uniform(0.025, 0.06)
    scene = np.hypot(scene + noise * rng.standard_normal(shape), noise * rng.standard_normal(shape))

    label = np.where(body > 0, np.where(anterior, 1, 2), 0).astype(np.uint8)
    return _rescale(scene, rng), label


def _geometry(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Field, Field, Field, Field]:
    """Signed depths in mm (positive inside) of body, amygdala and temporal horn, and the mask of the anterior part."""
    size = np.array(shape)
    centre = size * (np.array([0.42, 0.5, 0.43]) + rng.uniform(-0.05, 0.05, 3))
    x, y, z = (np.indices(shape).reshape(3, -1).T - centre).T.reshape(3, *shape)
    angle = np.deg2rad(rng.uniform(-9, 9))
    x, y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y

    # the body is a graph over y: a bent centre line and a half width and height that grow towards the head
    half = 0.38 * shape[1] * rng.uniform(0.93, 1.07)
    along = np.clip(y / half, -1, 1)  # -1 the tail's end, 1 the head's
    slope = 0.08 + 0.026 * (shape[2] - 24) + rng.uniform(-0.07, 0.07)  # flat volumes hold flat bodies
    bend_x, bend_z = rng.uniform(3, 8), rng.uniform(-3, 1)
    middle_x = bend_x * (0.35 - along**2) + rng.uniform(0, 2.5) * along
    middle_z = -slope * y + bend_z * (0.35 - along**2)
    cap = np.sqrt(np.clip(1 - np.abs(along) ** rng.uniform(4, 7), 1e-3, None))
    plump = rng.uniform(0.9, 1.12)
    width = plump * cap * (6.4 + rng.uniform(1.5, 3.2) * along)
    height = plump * cap * (4.6 + rng.uniform(0.3, 1.1) * along)
    radius = np.hypot((x - middle_x) / width, (z - middle_z) / height) + 0.1 * _smooth_noise(shape, 2.5, rng)
    body = np.minimum((1 - radius) * np.minimum(width, height), half - np.abs(y))

    # same grey as the body, in touch with its head: only the form tells them apart
    spot = np.array([rng.uniform(-1, 3), half * rng.uniform(0.75, 0.95), rng.uniform(6.5, 8.5) - slope * half])
    axes = rng.uniform(4.5, 6.5, 3)
    reach = np.sqrt(sum(((axis - at) / length) ** 2 for axis, at, length in zip((x, y, z), spot, axes, strict=True)))
    amygdala = np.minimum((1 - reach) * axes.min(), -body)

    horn_x, horn_z = middle_x - rng.uniform(0.6, 1.0) * width, middle_z + rng.uniform(0.7, 1.1) * height
    horn_radius = rng.uniform(1.2, 2.4) * (1 + 0.5 * _smooth_noise((1, shape[1], 1), 4.0, rng))
    horn = np.minimum(horn_radius - np.hypot(x - horn_x, z - horn_z), -body)

    anterior = np.indices(shape)[1] > centre[1] + half * rng.uniform(0.1, 0.18)  # a coronal plane, as raters cut
    return body, amygdala, horn, anterior


def _rescale(scene: Field, rng: np.random.Generator) -> Field:
    """To one of the scales found among the real volumes: 8 bit (21 %), scanner units (66 %) or far above (13 %)."""
    scene = scene / scene.max()
    kind = rng.random()
    if kind < 0.21:
        return np.round(scene * rng.uniform(110, 255)).astype(np.uint8)
    log_maximum = rng.uniform(2.8, 3.8) if kind < 0.87 else rng.uniform(5.5, 6.2)
    return (scene * 10**log_maximum).astype(np.float32)


def _soft(depth: Field, width: float) -> Field:
    """Share of a voxel that lies inside, from the signed depth: partial volume."""
    return np.clip(0.5 + depth / (2 * width), 0, 1)


def _blur(field: Field, sigma: float) -> Field:
    """Gaussian blur of standard deviation `sigma` voxels, by FFT with mirrored edges."""
    pads = [(min(8, n - 1),) * 2 if n > 1 else (0, 0) for n in field.shape]
    padded = np.pad(field, pads, mode="reflect")
    frequencies = np.meshgrid(*(fft.fftfreq(n) for n in padded.shape), indexing="ij", sparse=True)
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * sum(f**2 for f in frequencies))
    blurred = fft.ifftn(fft.fftn(padded) * gain).real
    return blurred[tuple(slice(low, n - high) for (low, high), n in zip(pads, padded.shape, strict=True))]


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Field:
    """Gaussian random field of correlation length `sigma` voxels, mean 0, standard deviation 1."""
    noise = _blur(rng.standard_normal(shape), sigma)
    return (noise - noise.mean()) / noise.std()
