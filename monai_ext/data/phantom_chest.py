"""Made-up chest X-rays: one with or without a pneumothorax, one with any of VinDr-CXR's findings.

Arrays begin with the height. The patient's right is at the left, as radiologists look at it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.data.phantom_fields import blend, coordinates, distance, smooth_noise, soft
from monai_ext.data.phantom_files import append_rows, save_dicom

__all__ = ["draw_findings", "draw_pneumothorax", "save_findings", "save_pneumothorax"]

_FINDINGS = 27  # and one class more: no finding


def draw_pneumothorax(rng: np.random.Generator, label: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A radiograph, uint8, and the mask of the air around a lung, empty without pneumothorax."""
    picture, lungs, (y, x) = _chest(rng, size)
    lung = lungs[rng.integers(2)]
    # the lung has sunk away from the chest's wall: beyond a thin line there is air and no texture
    shift = rng.uniform(0.1, 0.2)
    sunken = lung(y - 1.3 * shift, x - shift * np.sign(lung.centre))
    rim = np.minimum(1 - lung(y, x), sunken - 1)  # positive in the air
    if not label:
        return _exposed(rng, picture, 255).astype(np.uint8), np.zeros(picture.shape, bool)
    blend(picture, 0.1, 0.85 * soft(rim, 0.01))
    picture += 0.25 * np.exp(-(((sunken - 1) / 0.02) ** 2)) * (lung(y, x) < 1)
    return _exposed(rng, picture, 255).astype(np.uint8), rim > 0


def draw_findings(rng: np.random.Generator, labels: list[int], size: int) -> tuple[list[int], np.ndarray]:
    """The labels, and a radiograph, uint16 of 12 bits, with a spot for each: its place tells which."""
    picture, _, grids = _chest(rng, size)
    for number in range(_FINDINGS):
        if labels[number]:
            row, column = divmod(number, 6)
            place = (-0.6 + 0.3 * row, (-0.72, -0.5, -0.28, 0.28, 0.5, 0.72)[column])
            centre = np.array(place) + rng.uniform(-0.02, 0.02, 2)
            radius = rng.uniform(0.07, 0.09)
            blend(picture, 0.95, rng.uniform(0.7, 0.9) * soft(1 - distance(grids, centre, (radius, radius)), 0.15))
    return labels, _exposed(rng, picture, 4095).astype(np.uint16)


class _Lung:
    """Distance from the middle of one lung, 1 at its edge."""

    def __init__(self, rng: np.random.Generator, side: int) -> None:
        self.centre = side * rng.uniform(0.42, 0.47)
        self.radii = rng.uniform(0.62, 0.7), rng.uniform(0.28, 0.33)

    def __call__(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return distance((y, x), (-0.05, self.centre), self.radii)


def _chest(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[_Lung], list[np.ndarray]]:
    """Brightness 0 to 1, the lungs, and the coordinates."""
    y, x = coordinates((size, size))
    picture = 0.05 + 0.65 * soft(1 - distance((y, x), (0.35, 0), (1.35, 0.9)), 0.03)
    lungs = [_Lung(rng, side) for side in (-1, 1)]
    texture = smooth_noise((size, size), 24, rng)
    for lung in lungs:
        blend(picture, 0.3, soft(1 - lung(y, x), 0.03))
        picture += 0.03 * texture * (lung(y, x) < 1)
    ribs = np.cos(2 * np.pi * (y - 0.35 * np.abs(x) ** 1.5 + rng.uniform(0, 0.2)) / 0.2)
    picture += 0.05 * soft(ribs - 0.4, 0.1) * (np.abs(x) < 0.8)
    heart = distance((y, x), (0.35, 0.14), (rng.uniform(0.3, 0.36), rng.uniform(0.26, 0.32)))
    blend(picture, 0.78, soft(1 - heart, 0.05))
    blend(picture, 0.8, 0.8 * soft(0.14 - np.abs(x), 0.03))
    return picture, lungs, [y, x]


def _exposed(rng: np.random.Generator, picture: np.ndarray, most: int) -> np.ndarray:
    picture = rng.uniform(0.9, 1.1) * picture + rng.uniform(-0.03, 0.03) + 0.015 * rng.standard_normal(picture.shape)
    return np.clip(np.round(most * picture), 0, most)


def save_pneumothorax(
    folder: Path, case: str, drawn: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> dict[str, str]:
    """Writes an image and its rows of train-rle.csv, one row a part of the mask, and gives their names."""
    picture, mask = drawn
    uids = {kind: case.replace(".1.4.", f".1.{place}.", 1) for kind, place in (("study", 2), ("series", 3))}
    names = {"image": f"dicom-images-train/{uids['study']}/{uids['series']}/{case}.dcm", "label": "train-rle.csv"}
    save_dicom(folder / names["image"], picture, {**uids, "image": case}, "CR")
    half = mask.shape[0] // 2
    upper, lower = np.arange(mask.shape[0])[:, None] < half, np.arange(mask.shape[0])[:, None] >= half
    parts = [part for part in ((mask & upper, mask & lower) if rng.random() < 0.5 else (mask,)) if part.any()]
    rows = [(case, _run_lengths(part)) for part in parts] or [(case, " -1")]
    append_rows(folder / names["label"], [("ImageId", " EncodedPixels")], rows)
    return names


def _run_lengths(mask: np.ndarray) -> str:
    """Column by column, each run as the distance from the end of the one before, and its length."""
    steps = np.flatnonzero(np.diff(mask.T.ravel().astype(np.int8), prepend=0, append=0))
    starts, ends = steps[::2], steps[1::2]
    distances = starts - np.concatenate([[0], ends[:-1]])
    return " ".join(f"{gap} {length}" for gap, length in zip(distances, ends - starts))


_COLUMNS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
    *("Other diseases", "No finding"),
)


def save_findings(
    folder: Path, case: str, drawn: tuple[list[int], np.ndarray], rng: np.random.Generator
) -> dict[str, str]:
    """Writes an image and what three readers (of the test: their consensus) say of it, and gives their names."""
    labels, picture = drawn
    part, name = case.split("/")
    names = {"image": f"{case}.dicom", "label": f"annotations/image_labels_{part}.csv"}
    uid = f"1.2.826.0.1.3680043.8.498.{1 + (part == 'test')}.{int(name[1:], 16)}"
    save_dicom(folder / names["image"], picture, {"study": f"{uid}.1", "series": f"{uid}.2", "image": f"{uid}.3"}, "DX")
    if part == "test":
        columns = [column.replace("Other diseases", "Other disease") for column in _COLUMNS]
        append_rows(folder / names["label"], [("image_id", *columns)], [(name, *labels)])
        return names
    said = np.tile(labels, (3, 1))
    dissenter = rng.integers(3, size=len(labels))  # at most one reader of three errs
    said[dissenter, np.arange(len(labels))] ^= rng.random(len(labels)) < 0.1
    rows = [(name, f"R{reader + 1}", *values) for reader, values in enumerate(said.tolist())]
    append_rows(folder / names["label"], [("image_id", "rad_id", *_COLUMNS)], rows)
    return names
