"""Made-up breast MRI before and after contrast, with a cancer in one breast, in the layout of Duke. Axes D, H, W."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_ext.data.phantom_fields import blend, coordinates, distance, smooth_noise, soft
from monai_ext.data.phantom_files import append_rows, save_series

__all__ = ["draw_breasts", "save_breasts"]

_SHAPE = (12, 48, 72)
_SPACING = (5.0, 5.0, 12.0)  # mm, along W, H, D
_TABLE = "Clinical_and_Other_Features.csv"
_COLUMNS = ("Patient ID", "Tumor Location", "Bilateral Information")


def draw_breasts(rng: np.random.Generator, label: int) -> tuple[int, list[np.ndarray]]:
    """The label, 0 left and 1 right, and a volume before and two after contrast, int16."""
    grids = coordinates(_SHAPE)
    y = grids[1]
    still = np.full(_SHAPE, 0.03)
    blend(still, 0.35, soft(y - 0.45, 0.04))  # the chest's wall, at the back
    glands = np.zeros(_SHAPE)
    for side in (-1, 1):
        breast = distance(grids, (0, 0.5, side * 0.48), (0.85, rng.uniform(0.85, 1.05), 0.42))
        blend(still, 0.8, soft(1 - breast, 0.04) * (y < 0.5))
        texture = smooth_noise(_SHAPE, 10, rng)
        glands += soft(texture - 0.2, 0.3) * soft(0.75 - breast, 0.08) * (y < 0.4)
    blend(still, 0.4, np.clip(glands, 0, 1))
    # slices run along x from the patient's right to the left: the left breast has the larger x
    place = (rng.uniform(-0.4, 0.4), rng.uniform(-0.1, 0.25), (-0.48 if label else 0.48) + rng.uniform(-0.12, 0.12))
    radius = rng.uniform(0.14, 0.2)
    tumour = soft(1 - distance(grids, place, (1.6 * radius, 1.4 * radius, radius)), 0.1)
    volumes = []
    for uptake in (0.0, rng.uniform(0.8, 1.0), rng.uniform(0.6, 0.8)):
        volume = still + uptake * (0.15 * np.clip(glands, 0, 1) + 0.9 * tumour)
        volume = volume + 0.02 * rng.standard_normal(_SHAPE)
        volumes.append(np.round(600 * np.clip(volume, 0, None)).astype(np.int16))
    return label, volumes


def save_breasts(
    folder: Path, case: str, drawn: tuple[int, list[np.ndarray]], _rng: np.random.Generator
) -> dict[str, str]:
    """Writes a patient's series and row of the clinical table, and gives the names of the last series and the table."""
    label, volumes = drawn
    study = f"1.3.6.1.4.1.14519.5.2.1.{int(case[-3:])}"
    for number, volume in enumerate(volumes, start=1):
        uids = {"study": study, "series": f"{study}.{number}"}
        save_series(folder / case / study / uids["series"], volume, _SPACING, uids, "MR")
    # three rows of a head, as in the official sheet: what the columns are about, their names, their codes
    header = [("Phantom", "", ""), _COLUMNS, ("", "L = left, R = right", "0 = no, 1 = yes")]
    append_rows(folder / _TABLE, header, [(case, "LR"[label], 0)])
    return {"image": f"{case}/{study}/{study}.{len(volumes)}", "label": _TABLE}
