"""Image files of a data set, read to the last byte, with the reason where that fails."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_ext.data.pictures import is_picture, read_picture


@dataclass(frozen=True)
class Volume:
    """What a file holds; `shape` is that of the voxels without the channels, which come last."""

    voxels: np.ndarray
    affine: np.ndarray
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        return self.voxels.shape[-1] if self.voxels.ndim > len(self.shape) else 1


class UnreadableError(ValueError):
    """Why a file cannot be read, as a phrase."""


def read_volume(path: Path, labels: bool = False) -> Volume:
    """A NIfTI file, a picture, a DICOM file or the folder of a DICOM series; `labels` as in `read_picture`.

    Raises:
        UnreadableError: damaged, or none of these.
    """
    if path.is_dir() or path.suffix.lower() in (".dcm", ".dicom"):
        return _read_dicom(path)
    if not is_picture(path):
        return _read_nifti(path)
    try:
        array, info = read_picture(path, labels)
    except (OSError, ValueError) as error:
        raise UnreadableError(getattr(error, "strerror", None) or str(error)) from error
    return Volume(array, np.eye(4), info.shape)


def count_slices(path: Path) -> int:
    """D of a NIfTI file [W, H, D, T]; of the file only the header is read.

    Raises:
        ValueError: damaged, or not of four dimensions.
    """
    try:
        shape = nib.load(path).shape
    except Exception as error:  # whatever nibabel stumbles over
        raise ValueError(f"{path} cannot be read ({error}); take it out of the data set or export it again.") from error
    if len(shape) != 4:
        size = " x ".join(map(str, shape))
        raise ValueError(f"{path} is {size}, expected four dimensions: width, height, slices and times.")
    return shape[2]


def _read_dicom(path: Path) -> Volume:
    """A file of one slice is a picture, a folder one series."""
    from monai_ext.data.readers import DicomSeriesReader  # imports all of MONAI: only where it is needed

    try:
        reader = DicomSeriesReader(whole_series=path.is_dir())
        array, meta = reader.get_data(reader.read(path))
    except (OSError, ValueError, RuntimeError) as error:
        # ITK tells where in its sources it stood, and the reason in the last line
        reason = f"{error}".strip().splitlines()[-1].removeprefix("ITK ERROR: ").rstrip(".")
        raise UnreadableError(reason) from error
    shape = tuple(int(size) for size in meta["spatial_shape"])
    if not path.is_dir() and shape[2:] == (1,):
        return Volume(array[:, :, 0], np.eye(4), shape[:2])
    return Volume(array, np.asarray(meta["affine"]), shape)


def _read_nifti(path: Path) -> Volume:
    """Voxels scaled as the header says, every byte of the file read.

    nibabel alone stops at the last voxel: the gzip checksum behind it would go unread.
    """
    try:
        raw = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError(getattr(error, "strerror", None) or str(error)) from error
    if not raw:
        raise UnreadableError("the file is empty")
    try:
        kind = nib.Nifti2Image if raw[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image
        header = kind.header_class.from_fileobj(io.BytesIO(raw))
        need = int(header["vox_offset"]) + math.prod(header.get_data_shape()) * int(header["bitpix"]) // 8
    except Exception as error:
        raise UnreadableError(f"not NIfTI ({error})") from error
    if len(raw) < need:
        raise UnreadableError(f"truncated: {len(raw)} of {need} bytes")
    try:
        image = kind.from_bytes(raw)
        voxels, affine = np.asanyarray(image.dataobj), np.asarray(image.affine)
    except Exception as error:
        raise UnreadableError(str(error)) from error
    if voxels.dtype.kind not in "iuf":
        raise UnreadableError(f"its voxels are {voxels.dtype}, not numbers")
    return Volume(voxels, affine, voxels.shape)
