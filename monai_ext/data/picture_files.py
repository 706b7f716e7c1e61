"""Pictures as bytes: PNG and TIFF, written as `monai_ext.data.pictures` reads them."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from PIL import Image

__all__ = ["picture_bytes"]

_ORIENTATION = 0x0112  # of TIFF and EXIF


def picture_bytes(pages: list[np.ndarray], orientation: int = 1, suffix: str = ".png") -> bytes:
    """A picture file of upright pages, each [W, H] or [W, H, 3], turned back to the rows that `orientation` means.

    One page in colours of more than 8 bits is left upright: nothing reads it turned.

    Args:
        pages: one page, or several for `.tif`, all uint8, uint16, int32 or float32.
        orientation: EXIF's number, which goes into the file.
        suffix: `.png` or `.tif`.
    """
    rows = [np.ascontiguousarray(np.swapaxes(page, 0, 1)) for page in pages]
    if rows[0].ndim == 3 and rows[0].dtype != np.uint8:
        assert len(rows) == 1
        return _by_itk(rows[0], suffix)
    rows = [np.ascontiguousarray(_turned(page, orientation)) for page in rows]
    options: dict[str, Any] = {}
    if orientation != 1:
        options["exif"] = Image.Exif()
        options["exif"][_ORIENTATION] = orientation
    first, *others = map(Image.fromarray, rows)
    if suffix == ".tif":
        options["compression"] = "tiff_deflate"
        if others:
            options |= {"save_all": True, "append_images": others}
    buffer = io.BytesIO()
    first.save(buffer, format={".png": "PNG", ".tif": "TIFF"}[suffix], **options)
    return buffer.getvalue()


def _turned(rows: np.ndarray, orientation: int) -> np.ndarray:
    """From upright rows [H, W] to those of a camera that was turned."""
    if orientation in (2, 3):
        rows = rows[:, ::-1]
    if orientation in (3, 4):
        rows = rows[::-1]
    if orientation == 5:
        rows = np.swapaxes(rows, 0, 1)
    if orientation == 6:
        rows = np.rot90(rows)
    if orientation == 7:
        rows = np.swapaxes(rows[::-1, ::-1], 0, 1)
    if orientation == 8:
        rows = np.rot90(rows, -1)
    return rows


def _by_itk(rows: np.ndarray, suffix: str) -> bytes:
    """Colours of more than 8 bits, which Pillow cannot write."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(rows, isVector=True), f"{path}")
        return path.read_bytes()
