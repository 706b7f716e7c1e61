"""Made-up abdominal CT with its organs, in the layouts of AbdomenAtlas and FLARE22. Axes W, H, D, RAS+."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_ext.data.phantom_fields import blend, coordinates, distance, smooth_noise, soft

__all__ = ["ATLAS", "FLARE", "draw_abdomen", "save_atlas", "save_flare"]

# structure: HU, centre and radii along left-right (the patient's right is positive here), front-back, feet-head
_ORGANS: dict[str, tuple[float, tuple[float, float, float], tuple[float, float, float]]] = {
    "liver": (110, (0.42, 0.15, 0.45), (0.38, 0.45, 0.42)),
    "spleen": (120, (-0.6, -0.25, 0.5), (0.17, 0.26, 0.3)),
    "stomach": (45, (-0.32, 0.32, 0.4), (0.24, 0.22, 0.28)),
    "pancreas": (90, (-0.08, 0.1, 0.08), (0.3, 0.1, 0.12)),
    "gall_bladder": (12, (0.32, 0.38, -0.02), (0.1, 0.12, 0.14)),
    "kidney_left": (160, (-0.42, -0.3, -0.2), (0.14, 0.17, 0.32)),
    "kidney_right": (160, (0.42, -0.3, -0.25), (0.14, 0.17, 0.32)),
    "aorta": (220, (-0.08, -0.22, 0.0), (0.09, 0.11, 3.0)),
    "postcava": (140, (0.12, -0.2, 0.0), (0.1, 0.1, 3.0)),
    "duodenum": (55, (0.16, 0.14, -0.25), (0.12, 0.12, 0.22)),
    "oesophagus": (40, (-0.1, -0.05, 0.8), (0.08, 0.09, 0.3)),
    "adrenal_right": (70, (0.27, -0.2, 0.16), (0.07, 0.1, 0.1)),
    "adrenal_left": (70, (-0.27, -0.2, 0.18), (0.07, 0.1, 0.1)),
}
# in the order of their numbers, from 1
ATLAS = (
    *("aorta", "gall_bladder", "kidney_left", "kidney_right", "liver", "pancreas", "postcava", "spleen", "stomach"),
)
FLARE = (
    *("liver", "kidney_right", "spleen", "pancreas", "aorta", "postcava", "adrenal_right", "adrenal_left"),
    *("gall_bladder", "oesophagus", "stomach", "duodenum", "kidney_left"),
)
_AFFINE = np.diag([-5.0, 5.0, 6.0, 1.0])  # mm; the first axis runs from the patient's left to the right


def draw_abdomen(rng: np.random.Generator, structures: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """A volume in HU, int16, and its label map, uint8, in which the structures are numbered from 1."""
    shape = (64, 48, int(rng.integers(32, 41)))
    grids = coordinates(shape)
    body = distance(grids[:2], (0, 0), (0.92, 0.85))
    volume = np.full(shape, -1000.0)
    blend(volume, -100, soft(1 - body, 0.03))
    blend(volume, 40, soft(0.86 - body, 0.03))
    spine = distance(grids[:2], (0, -0.5), (0.16, 0.2))
    blend(volume, 300, soft(1 - spine, 0.1))
    label = np.zeros(shape, np.uint8)
    bumps = 0.06 * smooth_noise(shape, 5, rng)
    moved = rng.uniform(-0.04, 0.04, 3)
    for name in _ORGANS:
        if name not in structures:
            continue
        grey, centre, radii = _ORGANS[name]
        shift, scale = moved + rng.uniform(-0.02, 0.02, 3), rng.uniform(0.9, 1.1)
        depth = 1 - distance(grids, np.array(centre) + shift, scale * np.array(radii)) + bumps
        blend(volume, grey + rng.uniform(-12, 12), soft(depth, 0.06))
        label[depth > 0] = structures.index(name) + 1
    volume += 8 * smooth_noise(shape, 20, rng) + 12 * rng.standard_normal(shape)
    return np.clip(np.round(volume), -1024, 3000).astype(np.int16), label


def save_atlas(
    folder: Path, case: str, drawn: tuple[np.ndarray, np.ndarray], _rng: np.random.Generator
) -> dict[str, str]:
    """Writes image, label map and a mask of each structure as AbdomenAtlas does, and gives the first two's names."""
    label = drawn[1]
    (folder / case / "segmentations").mkdir(parents=True)
    names = {"image": f"{case}/ct.nii.gz", "label": f"{case}/combined_labels.nii.gz"}
    for name, array in zip(names.values(), drawn):
        nib.save(nib.Nifti1Image(array, _AFFINE), folder / name)
    for number, name in enumerate(ATLAS, start=1):
        mask = (label == number).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, _AFFINE), folder / case / "segmentations" / f"{name}.nii.gz")
    return names


def save_flare(
    folder: Path, case: str, drawn: tuple[np.ndarray, np.ndarray], _rng: np.random.Generator
) -> dict[str, str]:
    """Writes image and label map as FLARE22 does, and gives their names."""
    names = {"image": f"images/{case}_0000.nii.gz", "label": f"labels/{case}.nii.gz"}
    for name, array in zip(names.values(), drawn):
        (folder / name).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, _AFFINE), folder / name)
    return names
