"""What image files hold: their headers, and their voxels, as MONAI's loaders of this package give them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_ext.data.pictures import is_picture, picture_info
from monai_ext.data.readers import is_nifti
from monai_ext.data.volume_files import UnreadableError, Volume, read_volume

_COLOUR = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "P", "PA")
_ALPHA = ("LA", "PA", "RGBA", "La", "RGBa")

# values of a label map; more are taken for something else
MOST_CLASSES = 64
MOST_IN_JPEG = 8


@dataclass(frozen=True)
class Header:
    """A file without its voxels.

    Args:
        dims: 2 or 3.
        shape: voxels along each axis; of a volume in the order right, anterior, superior.
        spacing: in mm along the same axes; 1 where the file does not say.
        channels: of the image; those of a palette, and of grey saved as colour, are known from the pixels only.
        dtype: of the stored numbers.
        affine: as stored, for comparing a label with its image.
        stored: the shape in the file's own order of axes.
        kind: nifti, picture or dicom.
        oblique: the angle between the grid and the body's axes, in degrees.
    """

    dims: int
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int
    dtype: str
    affine: np.ndarray
    stored: tuple[int, ...]
    kind: str
    oblique: float = 0.0


def read_header(path: Path) -> Header:
    """The header of a NIfTI file or a picture; of a DICOM series everything is read.

    Raises:
        UnreadableError: why it cannot be read, as a phrase.
    """
    if is_picture(path):
        try:
            info = picture_info(path)
        except (OSError, ValueError) as error:
            raise UnreadableError(getattr(error, "strerror", None) or str(error)) from error
        channels = 3 if info.mode in _COLOUR else 1
        ones = (1.0,) * len(info.shape)
        return Header(len(info.shape), info.shape, ones, channels, str(info.dtype), np.eye(4), info.shape, "picture")
    if not is_nifti(path):
        volume = read_volume(path)
        return _of_grid(volume.shape, volume.channels, str(volume.voxels.dtype), volume.affine, "dicom")
    try:
        image = nib.load(path)
        shape, affine, dtype = image.shape, np.asarray(image.affine), str(image.get_data_dtype())
    except Exception as error:  # whatever nibabel stumbles over
        raise UnreadableError(f"not NIfTI ({error})") from error
    channels = 1
    if len(shape) == 5 and shape[3] == 1:  # a vector a voxel
        shape = (*shape[:3], shape[4])
    if len(shape) == 4:
        channels, shape = shape[3], shape[:3]
    if len(shape) not in (2, 3) or 0 in shape:
        raise UnreadableError(f"it has the shape {' x '.join(map(str, shape))}, neither picture nor volume")
    return _of_grid(tuple(int(size) for size in shape), int(channels), dtype, affine, "nifti")


def _of_grid(shape: tuple[int, ...], channels: int, dtype: str, affine: np.ndarray, kind: str) -> Header:
    dims = 2 if len(shape) == 2 or shape[2] == 1 else 3
    if dims == 2:
        spacing = tuple(float(size) for size in np.linalg.norm(affine[:3, :2], axis=0))
        return Header(2, shape[:2], spacing, channels, dtype, affine, shape, kind)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UnreadableError("its affine cannot be inverted, so nobody knows where its voxels lie; export it again")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    axes = nib.io_orientation(affine)[:, 0].astype(int)  # the body's axis of each of the file's
    order = np.argsort(axes)
    cosines = np.abs(affine[:3, :3] / sizes).max(axis=0)
    oblique = float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))
    return Header(
        3,
        tuple(int(shape[axis]) for axis in order),
        tuple(round(float(sizes[axis]), 6) for axis in order),
        channels,
        dtype,
        affine,
        shape,
        kind,
        oblique,
    )


def read_image(path: Path) -> tuple[np.ndarray, bool]:
    """The numbers of an image, channels last [..., C], alpha dropped; and whether its colours differ.

    Raises:
        UnreadableError: as `read_volume`.
    """
    volume = read_volume(path)
    array, rank = volume.voxels, len(volume.shape)
    if rank == 4:  # NIfTI holds its channels as a fourth axis
        rank = 3
    array = array if array.ndim > rank else array[..., None]
    if is_picture(path) and array.shape[-1] in (2, 4) and picture_info(path).mode in _ALPHA:
        array = array[..., :-1]
    colour = array.shape[-1] == 3 and bool((array != array[..., :1]).any())
    return array, colour


@dataclass(frozen=True)
class Label:
    """A label map's values with their frequency; `classes` is the map itself, `problem` what is wrong with it."""

    values: Counter[int]
    classes: np.ndarray | None
    one_hot: int = 0
    background: bool = True
    problem: str = ""


def read_label(path: Path) -> Label:
    """A label map: whole numbers, or one channel a class.

    Raises:
        UnreadableError: as `read_volume`.
    """
    volume: Volume = read_volume(path, labels=True)
    array, rank = volume.voxels, 3 if len(volume.shape) == 4 else len(volume.shape)
    if array.ndim > rank and is_picture(path) and array.shape[-1] in (2, 4) and picture_info(path).mode in _ALPHA:
        array = array[..., :-1]
    if array.ndim > rank and (array == array[..., :1]).all():
        array = array[..., 0]
    if not np.isfinite(array).all():
        return Label(Counter(), None, problem="holds NaN or infinity; save it as whole numbers")
    if array.ndim > rank:
        return _one_hot(array)
    if array.dtype.kind == "f" and (array != np.round(array)).any():
        odd = array[array != np.round(array)].flat[0]
        return Label(
            Counter(), None, problem=f"holds {odd:g}: labels are whole numbers, resampled by nearest neighbour"
        )
    values, times = np.unique(array.astype(np.int64), return_counts=True)
    found = Counter(dict(zip(values.tolist(), times.tolist())))
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    if len(found) > (MOST_IN_JPEG if jpeg else MOST_CLASSES):
        way = "save masks as PNG, since JPEG changes values" if jpeg else "is it an image, or one number an object?"
        return Label(found, None, problem=f"holds {len(found)} different values, which is no map of classes; {way}")
    return Label(found, array)


def _one_hot(array: np.ndarray) -> Label:
    """One channel a class, with the background's or without."""
    number = array.shape[-1]
    mask = array > 0
    if len(np.unique(array)) > 2:
        return Label(Counter(), None, problem=f"has {number} different channels: save one value a class, in grey")
    at_once = mask.sum(-1)
    if at_once.max(initial=0) > 1:
        return Label(
            Counter(), None, problem=f"has {number} channels that overlap: a voxel can have one class; merge them"
        )
    background = bool(at_once.min(initial=1) == 1)
    classes = mask.argmax(-1) if background else np.where(at_once > 0, mask.argmax(-1) + 1, 0)
    values, times = np.unique(classes, return_counts=True)
    return Label(Counter(dict(zip(values.tolist(), times.tolist()))), classes, number, background)
