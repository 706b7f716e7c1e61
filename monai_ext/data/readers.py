"""Readers for MONAI's loaders: NIfTI with its checksum verified, DICOM through SimpleITK, and pictures.

Affines are in millimetres, RAS+, as those of MONAI's own readers; that of a picture is the identity.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from monai.config import PathLike
from monai.data import ImageReader, NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary, orientation_ras_lps
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from monai_ext.data.pictures import Picture, PictureError, is_picture, read_picture
from monai_ext.data.rows import is_row, read_row

__all__ = ["DicomSeriesReader", "NiftiReader", "PictureReader", "RowReader", "is_dicom", "is_nifti"]

_NIFTI_SUFFIXES = (".nii", ".nii.gz")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


class VoxelTypeError(ValueError):
    """Voxels of a kind that no network takes."""


def is_nifti(path: PathLike) -> bool:
    """Whether the name is that of a NIfTI file; the file is not opened."""
    return f"{path}".lower().endswith(_NIFTI_SUFFIXES)


def is_dicom(path: PathLike) -> bool:
    """Whether the path is a folder (taken for a series), or a file with DICOM's name or preamble."""
    path = Path(path)
    if path.is_dir() or path.suffix.lower() in _DICOM_SUFFIXES:
        return True
    if is_nifti(path) or is_picture(path) or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == b"DICM"


class NiftiReader(NibabelReader):
    """MONAI's nibabel reader, which also notices a damaged ``.nii.gz``.

    nibabel stops reading when it has the bytes it wants, before gzip's checksum; here the whole stream is read
    once, so that a flipped bit is an error and not a wrong voxel.
    """

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        self.filenames = ensure_tuple(data)
        images = [self._read_one(name, {**self.kwargs, **kwargs}) for name in self.filenames]
        return images if len(images) > 1 else images[0]

    @staticmethod
    def _read_one(name: PathLike, kwargs: dict[str, Any]) -> Any:
        if f"{name}".lower().endswith(".gz"):
            with gzip.open(name, "rb") as file:
                content = file.read()
            sizes = {order: int.from_bytes(content[:4], order) for order in ("little", "big")}
            kind = nib.Nifti2Image if 540 in sizes.values() else nib.Nifti1Image
            image = kind.from_bytes(content)
        else:
            image = nib.load(name, **kwargs)
        stored = image.get_data_dtype()
        if stored.kind == "c":
            raise VoxelTypeError(f"the voxels of {name} are complex numbers; save their magnitude as an image.")
        if stored.kind == "V":
            raise VoxelTypeError(f"the voxels of {name} are colours in one number; save a channel for each colour.")
        return correct_nifti_header_if_necessary(image)


class DicomSeriesReader(ImageReader):
    """One DICOM series as one volume, read by SimpleITK.

    Args:
        series_id: the SeriesInstanceUID to read, for folders that hold several series.
        whole_series: a file stands for the series that it belongs to; else for itself alone.
        tolerance: how far the distances between slices may differ from their usual value, as a part of it.

    Raises:
        FileNotFoundError: no DICOM file in the folder.
        ValueError: several series, missing or doubled slices, slices of different size or direction.
    """

    def __init__(self, series_id: str | None = None, tolerance: float = 0.02, whole_series: bool = True) -> None:
        super().__init__()
        self.series_id = series_id
        self.whole_series = whole_series
        self.tolerance = tolerance

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return all(is_dicom(name) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """Read one or several volumes; each path is the folder of a series, or one file of it."""
        volumes = [self._read_series(Path(name)) for name in ensure_tuple(data)]
        return volumes if len(volumes) > 1 else volumes[0]

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        arrays, first = [], {}
        for image in img if isinstance(img, list) else [img]:
            channels = image.GetNumberOfComponentsPerPixel()
            array = sitk.GetArrayFromImage(image)  # [D, H, W] or [D, H, W, C]
            array = array.T if channels == 1 else np.moveaxis(array.T, 0, -1)  # [W, H, D(, C)]
            affine = _affine_ras(image)
            meta = {
                MetaKeys.AFFINE: affine,
                MetaKeys.ORIGINAL_AFFINE: affine.copy(),
                MetaKeys.SPATIAL_SHAPE: np.asarray(image.GetSize()),
                MetaKeys.SPACE: SpaceKeys.RAS,
                MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if channels == 1 else -1,
                "spacing": np.asarray(image.GetSpacing()),
            }
            if first and not (array.shape == arrays[0].shape and np.allclose(affine, first[MetaKeys.AFFINE])):
                raise ValueError("the series to be stacked as channels have different grids; register them first.")
            first = first or meta
            arrays.append(array)
        if len(arrays) == 1:
            return arrays[0], first
        return np.stack(arrays), {**first, MetaKeys.ORIGINAL_CHANNEL_DIM: 0}

    def _read_series(self, path: Path) -> sitk.Image:
        files = self._series_files(path)
        if len(files) == 1:  # a single slice, or a file with many frames
            return sitk.ReadImage(files[0])
        order = _check_slices(files, path, self.tolerance)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([files[index] for index in order])
        return reader.Execute()

    def _series_files(self, path: Path) -> Sequence[str]:
        if not self.whole_series and not path.is_dir():
            return [f"{path}"]
        folder = path if path.is_dir() else path.parent
        wanted = self.series_id if path.is_dir() else _series_of(path)
        series = {uid: sitk.ImageSeriesReader.GetGDCMSeriesFileNames(f"{folder}", uid) for uid in _series_ids(folder)}
        if not path.is_dir() and wanted not in series:
            return [f"{path}"]
        if not series:
            raise FileNotFoundError(f"no DICOM file in the folder {folder}; give the folder that holds the slices.")
        listing = "; ".join(f"{uid} ({len(files)} slices)" for uid, files in series.items())
        if wanted is not None and wanted not in series:
            raise ValueError(f"no series {wanted!r} in {folder}; it holds: {listing}.")
        if wanted is None and len(series) > 1:
            raise ValueError(
                f"{folder} holds {len(series)} DICOM series, say which one by series_id "
                f"or by the path of one of its files: {listing}."
            )
        return series[wanted if wanted is not None else next(iter(series))]


class PictureReader(ImageReader):
    """PNG, JPEG, BMP and TIFF as `monai_ext.data.pictures.read_picture` reads them.

    The first axis is the width, as with MONAI's ``PILReader``, from which this one departs where that would lose or
    turn something: EXIF's orientation is honoured, 16 bits and float stay what they are, a palette gives what it
    means, white of 1 bit is 255, and damaged files are errors. Several grey pictures are stacked as channels.

    Args:
        labels: the index of a palette of colours is the value.
    """

    def __init__(self, labels: bool = False) -> None:
        super().__init__()
        self.labels = labels

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return all(is_picture(name) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        return [(name, *read_picture(name, self.labels)) for name in ensure_tuple(data)]

    def get_data(self, img: list[tuple[PathLike, np.ndarray, Picture]]) -> tuple[np.ndarray, dict]:
        name, array, info = img[0]
        colour = array.ndim > len(info.shape)
        meta = {
            MetaKeys.AFFINE: np.eye(4),
            MetaKeys.ORIGINAL_AFFINE: np.eye(4),
            MetaKeys.SPATIAL_SHAPE: np.asarray(info.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if colour else float("nan"),
            "mode": info.mode,
            "full_scale": float(np.iinfo(info.dtype).max) if info.dtype.kind in "iu" else 1.0,
        }
        if len(img) == 1:
            return array, meta
        for other, more, _ in img:
            if colour or more.shape != array.shape:
                raise PictureError(
                    f"{name} and {other} cannot be stacked as channels: they must be grey and of one size, "
                    f"not {array.shape} and {more.shape}; give one path or grey pictures of one size."
                )
        return np.stack([more for _, more, _ in img]), {**meta, MetaKeys.ORIGINAL_CHANNEL_DIM: 0}


class RowReader(ImageReader):
    """A row of an array in a NumPy archive, by its address; see `monai_ext.data.rows`.

    A row [W, H, D] is a volume, taken for voxels of 1 mm whose axes point to the left, the back and the head, as
    DICOM's do: an archive does not say. [H, W] is a grey picture and [H, W, 3] one in colour, of which the first axis
    becomes the width, and the affine is the identity. Several volumes or grey pictures are stacked as channels.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return all(is_row(name) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        rows = [read_row(name) for name in ensure_tuple(data)]
        for name, row in zip(ensure_tuple(data), rows):
            if row.ndim not in (2, 3):
                raise ValueError(f"{name} is {row.shape}, not a volume [W, H, D] or a picture [H, W] or [H, W, 3].")
            if row.shape != rows[0].shape or (len(rows) > 1 and _is_colour(row)):
                raise ValueError(
                    f"{name} cannot be stacked as a channel: rows must be grey and of one size, "
                    f"not {rows[0].shape} and {row.shape}."
                )
        return rows

    def get_data(self, img: list[np.ndarray]) -> tuple[np.ndarray, dict]:
        rows = [row.swapaxes(0, 1) if row.ndim == 2 or _is_colour(row) else row for row in img]
        colour = _is_colour(rows[0])
        affine = np.eye(4) if colour or rows[0].ndim == 2 else np.diag([-1.0, -1.0, 1.0, 1.0])
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(rows[0].shape[:-1] if colour else rows[0].shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if colour else float("nan"),
        }
        if len(rows) == 1:
            return np.array(rows[0]), meta
        return np.stack(rows), {**meta, MetaKeys.ORIGINAL_CHANNEL_DIM: 0}


def _is_colour(row: np.ndarray) -> bool:
    return row.ndim == 3 and row.shape[-1] == 3


def _series_ids(folder: Path) -> Sequence[str]:
    quiet = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # it warns of every folder without DICOM
    try:
        return sitk.ImageSeriesReader.GetGDCMSeriesIDs(f"{folder}")
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(quiet)


def _header(path: PathLike) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(f"{path}")
    reader.ReadImageInformation()
    return reader


def _series_of(path: Path) -> str | None:
    header = _header(path)
    return header.GetMetaData("0020|000e").strip(" \0") if header.HasMetaDataKey("0020|000e") else None


def _check_slices(files: Sequence[str], path: Path, tolerance: float) -> list[int]:
    """The order of the slices along their normal; a ValueError for slices that make no regular volume."""
    headers = [_header(name) for name in files]
    size, spacing, direction = headers[0].GetSize()[:2], headers[0].GetSpacing()[:2], headers[0].GetDirection()
    for name, header in zip(files, headers):
        same = np.allclose(header.GetSpacing()[:2], spacing, rtol=1e-3) and np.allclose(
            header.GetDirection(), direction, atol=1e-3
        )
        if header.GetSize()[:2] != size or not same:
            raise ValueError(
                f"the DICOM series in {path} mixes slices of different size, pixel spacing or direction "
                f"({Path(files[0]).name}: {size}, {Path(name).name}: {header.GetSize()[:2]}); export them apart."
            )
    normal = np.asarray(direction).reshape(3, 3)[:, 2]
    origins = np.asarray([header.GetOrigin() for header in headers])  # mm, LPS
    places = origins @ normal
    order = np.argsort(places, kind="stable")
    gaps = np.diff(places[order])
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the lower median: missing slices make gaps larger
    if np.any(gaps < 1e-3):
        at = int(np.argmin(gaps))
        names = ", ".join(Path(files[order[index]]).name for index in (at, at + 1))
        raise ValueError(
            f"the DICOM series in {path} has two slices at one position ({names}); "
            "it holds several acquisitions or copies: export one of them."
        )
    off = np.abs(gaps - usual) > max(tolerance * usual, 1e-3)
    if off.any():
        at = int(np.argmax(off))
        names = " and ".join(Path(files[order[index]]).name for index in (at, at + 1))
        raise ValueError(
            f"the DICOM series in {path} misses slices or is unevenly spaced: {int(off.sum())} of {len(gaps)} "
            f"distances differ from the usual {usual:.3f} mm, the first is {gaps[at]:.3f} mm between {names}; "
            "export the whole series again."
        )
    shift = origins[order[-1]] - origins[order[0]]
    if np.linalg.norm(shift - (shift @ normal) * normal) > 0.5 * min(spacing):
        raise ValueError(f"the DICOM series in {path} has a tilted gantry; resample it to upright slices first.")
    return order.tolist()


def _affine_ras(image: sitk.Image) -> np.ndarray:
    rank = image.GetDimension()
    affine = np.eye(rank + 1)
    affine[:rank, :rank] = np.asarray(image.GetDirection()).reshape(rank, rank) @ np.diag(image.GetSpacing())
    affine[:rank, -1] = image.GetOrigin()
    return orientation_ras_lps(affine)
