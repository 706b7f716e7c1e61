"""Made-up CT angiograms of the lungs: contrast in branching vessels, with clots in them or without. Axes D, H, W."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.data.phantom_fields import blend, coordinates, distance, smooth_noise, soft
from monai_ext.data.phantom_files import append_rows, save_series

__all__ = ["draw_angiogram", "save_angiogram"]

_SHAPE = (16, 64, 64)
_SPACING = (5.0, 5.0, 12.0)  # mm, along W, H, D
_COLUMNS = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "pe_present_on_image", "negative_exam_for_pe"),
    *("qa_motion", "qa_contrast", "flow_artifact", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1", "leftsided_pe"),
    *("chronic_pe", "true_filling_defect_not_pe", "rightsided_pe", "acute_and_chronic_pe", "central_pe"),
    "indeterminate",
)


def draw_angiogram(rng: np.random.Generator, label: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The label, a volume in HU, int16, and the slices that show a clot."""
    grids = coordinates(_SHAPE)
    volume = np.full(_SHAPE, -1000.0)
    blend(volume, 30, soft(1 - distance(grids[1:], (0, 0), (0.7, 0.92)), 0.03))
    for side in (-1, 1):
        lung = distance(grids, (0, -0.02, side * 0.45), (1.1, 0.5, 0.32))
        blend(volume, -850, soft(1 - lung, 0.04))
    clots = np.zeros(_SHAPE, bool)
    trunk = np.array([rng.uniform(-0.1, 0.1), -0.05, 0.0])
    for side in (-1, 1):
        for height in rng.uniform(-0.6, 0.6, 2):
            end = np.array([height, rng.uniform(-0.2, 0.2), side * rng.uniform(0.45, 0.6)])
            vessel, along = _tube(grids, trunk, end)
            radius = 0.16 - 0.08 * along
            blend(volume, rng.uniform(280, 380), soft(radius - vessel, 0.02))
            if label and (side > 0 or rng.random() < 0.5):  # a filling defect
                clot = (vessel < 0.75 * radius) & (np.abs(along - rng.uniform(0.3, 0.5)) < 0.25)
                volume[clot] = 50
                clots |= clot
    volume += 12 * smooth_noise(_SHAPE, 16, rng) + 15 * rng.standard_normal(_SHAPE)
    return label, np.clip(np.round(volume), -1024, 3000).astype(np.int16), clots.any((1, 2))


def _tube(grids: list[np.ndarray], start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance from a line between two points, and the place along it, 0 to 1."""
    way = end - start
    along = np.clip(sum((grid - s) * w for grid, s, w in zip(grids, start, way)) / (way @ way), 0, 1)
    return np.sqrt(sum((grid - s - along * w) ** 2 for grid, s, w in zip(grids, start, way))), along


def save_angiogram(
    folder: Path, case: str, drawn: tuple[int, np.ndarray, np.ndarray], _rng: np.random.Generator
) -> dict[str, str]:
    """Writes the slices of a study and a row of train.csv for each, and gives the names of series and table."""
    label, volume, shown = drawn
    series = f"{case}.1"
    names = {"image": f"train/{case}/{series}", "label": "train.csv"}
    slices = save_series(folder / names["image"], volume, _SPACING, {"study": case, "series": series}, "CT")
    exam = {"negative_exam_for_pe": 1 - label, "rv_lv_ratio_lt_1": label, "leftsided_pe": label}
    rows = [
        (case, series, name, int(clot), *(exam.get(column, 0) for column in _COLUMNS[4:]))
        for name, clot in zip(slices, shown)
    ]
    append_rows(folder / names["label"], [_COLUMNS], rows)
    return names
