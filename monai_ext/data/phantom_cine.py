"""Made-up cine MRI of a beating heart, in the layout of ACDC. Axes W, H, D, T."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from monai_ext.data.phantom_fields import blend, coordinates, distance, smooth_noise, soft

__all__ = ["draw_cine", "save_cine"]

_GROUPS = ("NOR", "MINF", "DCM", "HCM", "RV")
_OFFICIAL_TEST = 101  # the first patient of it


def draw_cine(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image, int16, and at every time 1 right ventricle, 2 myocardium, 3 left ventricle, uint8."""
    width, height = rng.integers(56, 73, 2)
    slices, frames = rng.integers(4, 7), rng.integers(12, 17)  # the real ones have 12 to 35 frames
    y, x = coordinates((width, height))
    still = 0.25 + 0.06 * smooth_noise((width, height), 6, rng)
    blend(still, 0.55, soft(1 - distance((y, x), (0, 0), (0.85, 0.75)), 0.05) * (0.4 + 0.1 * (np.cos(7 * x) > 0)))
    centre, radius = rng.uniform(-0.1, 0.1, 2), rng.uniform(0.26, 0.34)
    image = np.empty((width, height, slices, frames))
    label = np.zeros(image.shape, np.uint8)
    for z in range(slices):
        taper = 1 - 0.45 * z / slices  # towards the apex
        for t in range(frames):
            beat = 1 - 0.3 * np.sin(np.pi * t / frames) ** 2
            inner = distance((y, x), centre, (radius * taper * beat,) * 2)
            outer = distance((y, x), centre, (radius * taper * (0.6 + 0.4 * beat) + 0.12,) * 2)
            right = distance((y, x), centre - (0.45 * taper, 0), (0.3 * taper * beat, 0.4 * taper * beat))
            frame = still.copy()
            blend(frame, 0.9, soft(1 - right, 0.06))
            blend(frame, 0.2, soft(1 - outer, 0.05))
            blend(frame, 1.0, soft(1 - inner, 0.06))
            image[:, :, z, t] = frame
            label[:, :, z, t] = np.select([inner < 1, outer < 1, right < 1], [3, 2, 1])
    image += 0.01 * rng.standard_normal(image.shape)  # the best that a scanner gives
    return np.round(rng.uniform(250, 900) * np.clip(image, 0, None)).astype(np.int16), label


def save_cine(
    folder: Path, case: str, drawn: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> dict[str, str]:
    """Writes a patient's folder as ACDC has it and gives the name of the 4D image."""
    image, label = drawn
    number = int(case.removeprefix("patient"))
    place = Path("database", "testing" if number >= _OFFICIAL_TEST else "training", case)
    (folder / place).mkdir(parents=True)
    frames = {"ED": 1, "ES": image.shape[3] // 2 + 1}
    affine = np.diag([1.5, 1.5, 10.0, 1.0])  # mm
    _save(image, affine, folder / place / f"{case}_4d.nii.gz")
    for frame in frames.values():
        _save(image[..., frame - 1], affine, folder / place / f"{case}_frame{frame:02d}.nii.gz")
        _save(label[..., frame - 1], affine, folder / place / f"{case}_frame{frame:02d}_gt.nii.gz")
    about = {**frames, "Group": _GROUPS[number % 5], "Height": round(rng.uniform(155, 190), 1)}
    about |= {"NbFrame": image.shape[3], "Weight": round(rng.uniform(50, 100), 1)}
    text = "".join(f"{key}: {value}\n" for key, value in about.items())
    (folder / place / "Info.cfg").write_text(text, encoding="utf-8")
    (folder / place / "MANDATORY_CITATION.md").write_text("Made-up data: nobody to cite.\n", encoding="utf-8")
    name = (place / f"{case}_4d.nii.gz").as_posix()
    return {"image": name, "label": name}


def _save(array: np.ndarray, affine: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
