"""Small made-up data as people have them: volumes, pictures, in folders of all kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image


def blob(shape: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image with a bright blob, 0 to 255, and the blob's mask."""
    rng = np.random.default_rng(seed)
    centre = [size * rng.uniform(0.35, 0.65) for size in shape]
    grid = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    radius = 0.25 * min(shape)
    mask = sum((axis - middle) ** 2 for axis, middle in zip(grid, centre)) < radius**2
    return np.clip(rng.normal(80, 15, shape) + 90 * mask, 0, 255), mask.astype(np.uint8)


def save_volume(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def save_picture(path: Path, array: np.ndarray) -> Path:
    """[W, H] or [W, H, C]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(np.swapaxes(array, 0, 1))).save(path)
    return path


def volumes(folder: Path, cases: int = 5, size: Sequence[int] = (18, 20, 16), affine: np.ndarray | None = None) -> Path:
    """imagesTr and labelsTr, in the Decathlon's layout."""
    for number in range(cases):
        image, mask = blob(size, number)
        save_volume(folder / "imagesTr" / f"case_{number:02d}.nii.gz", image.astype(np.float32), affine)
        save_volume(folder / "labelsTr" / f"case_{number:02d}.nii.gz", mask, affine)
    return folder


def pictures(folder: Path, cases: int = 5, side: int = 40, high: int = 255) -> Path:
    """Colour pictures with masks of 0 and `high` in the same folder."""
    for number in range(cases):
        image, mask = blob((side, side), number)
        colour = np.stack([image, image // 2, 255 - image], -1).astype(np.uint8)
        save_picture(folder / f"eye {number}é.png", colour)
        save_picture(folder / f"eye {number}é_mask.png", mask * np.uint8(high))
    return folder


def classes(folder: Path, cases: int = 5, side: int = 32, dims: int = 2) -> Path:
    """A folder a class, bright and dark."""
    for number in range(cases):
        for name, shift in (("bright", 60), ("dark", 0)):
            image = np.clip(blob((side,) * dims, number)[0] + shift, 0, 255).astype(np.uint8)
            if dims == 2:
                save_picture(folder / name / f"{number}.png", image)
            else:
                save_volume(folder / name / f"{number}.nii.gz", image.astype(np.float32))
    return folder


def noisy_pairs(folder: Path, cases: int = 4, side: int = 40) -> Path:
    """noisy and clean, the names alike but for a word."""
    for number in range(cases):
        image, mask = blob((side, side), number)
        save_picture(folder / "noisy" / f"cell_{number}_low.png", image.astype(np.uint8))
        save_picture(folder / "clean" / f"cell_{number}_high.png", (80 + 90 * mask).astype(np.uint8))
    return folder
