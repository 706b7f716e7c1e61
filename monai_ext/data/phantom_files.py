"""Files of phantoms: DICOM, written by SimpleITK, and tables that grow by a case at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

__all__ = ["append_rows", "save_dicom", "save_series"]

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def save_dicom(path: Path, pixels: np.ndarray, uids: Mapping[str, str], modality: str) -> None:
    """Writes one picture [H, W] of whole numbers as DICOM; `uids` are its study, series and image."""
    image = sitk.GetImageFromArray(pixels)
    _write(image, path, uids, modality, {"0008|0016": _SECONDARY_CAPTURE})


def save_series(
    folder: Path, volume: np.ndarray, spacing: Sequence[float], uids: Mapping[str, str], modality: str
) -> list[str]:
    """Writes a volume [D, H, W], from the feet up, as a series of axial slices and gives the slices' UIDs.

    Args:
        spacing: in mm, along W, H, D.
        uids: of the study and the series; a slice's is the series' and a number more.
    """
    names = []
    for number, pixels in enumerate(volume):
        image = sitk.GetImageFromArray(pixels)
        image.SetSpacing(tuple(spacing[:2]))
        name = f"{uids['series']}.{number + 1}"
        tags = {
            "0018|0050": f"{spacing[2]:g}",
            "0020|0013": f"{number + 1}",
            "0020|0032": "\\".join(f"{value:g}" for value in (0, 0, number * spacing[2])),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        _write(image, folder / f"{name}.dcm", {**uids, "image": name}, modality, tags)
        names.append(name)
    return names


def _write(image: sitk.Image, path: Path, uids: Mapping[str, str], modality: str, tags: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {"study": "0020|000d", "series": "0020|000e", "image": "0008|0018"}
    tags = {**tags, **{known[kind]: uid for kind, uid in uids.items()}, "0008|0060": modality}
    for tag, value in tags.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")  # whatever the file's name ends in
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(f"{path}")
    writer.Execute(image)


def append_rows(path: Path, header: Iterable[Sequence[str]], rows: Iterable[Sequence[object]]) -> None:
    """Adds rows to a table, which begins with `header`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([*header, *rows] if fresh else rows)
