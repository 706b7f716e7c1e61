"""Transforms that MONAI lacks: loading and checking volumes and pictures with errors that say what to do.

Every error is one sentence that names the file, the bad value and the way out.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import DtypeLike, KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImaged, MapTransform, Spacingd
from monai.utils import ensure_tuple

from monai_ext.data.case_name import name_of
from monai_ext.data.pictures import PictureError, is_picture
from monai_ext.data.readers import (
    DicomSeriesReader,
    NiftiReader,
    PictureReader,
    RowReader,
    VoxelTypeError,
    is_dicom,
    is_nifti,
)
from monai_ext.data.rows import file_behind, is_row

__all__ = ["CheckVolumed", "LoadVolumed", "VolumeSpacingd", "check_datalist"]


class LoadVolumed(LoadImaged):
    """MONAI's ``LoadImaged`` for NIfTI files, DICOM series and pictures, with errors of one sentence.

    ``.nii`` and ``.nii.gz`` are read by nibabel, a folder or a DICOM file by SimpleITK, PNG, JPEG, BMP and TIFF as
    ``PictureReader`` says, anything else (``.npy``, ``.nrrd``) by MONAI's reader for its suffix. Several paths under
    one key are stacked as channels. ``ChannelsOfd`` makes grey or colour what the network wants, ``ClassesOfd``
    turns the pixels of a mask into classes.

    Args:
        keys: keys that hold the paths.
        dtype: type of the loaded voxels.
        ensure_channel_first: put the channels first, adding one where the file has none.
        series_id: the DICOM series to read where a folder holds several.
        spatial_dims: with 2, a volume of one slice becomes a picture, and a DICOM file stands for itself and not for
            its series; needs ``ensure_channel_first``.
        label_keys: those of ``keys`` that hold labels: a palette's index is the class.
        simple_keys: keep only the meta data that MONAI needs.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        FileNotFoundError: nothing at the path.
        ValueError: the file is truncated, damaged or no image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dtype: DtypeLike = np.float32,
        ensure_channel_first: bool = False,
        series_id: str | None = None,
        spatial_dims: int = 3,
        label_keys: KeysCollection = ("label", "second_label"),
        simple_keys: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        with _no_talk_of_codecs():
            super().__init__(
                keys,
                dtype=dtype,
                ensure_channel_first=ensure_channel_first,
                simple_keys=simple_keys,
                allow_missing_keys=allow_missing_keys,
            )
        if spatial_dims == 2 and not ensure_channel_first:
            raise ValueError("spatial_dims=2 needs ensure_channel_first=True, to tell a slice from a channel.")
        self.spatial_dims = spatial_dims
        self.label_keys = ensure_tuple(label_keys)
        self.nifti_reader = NiftiReader()
        self.dicom_reader = DicomSeriesReader(series_id, whole_series=spatial_dims != 2)
        self.row_reader = RowReader()
        self.picture_readers = {labels: PictureReader(labels) for labels in (False, True)}

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            paths = _paths(key, d[key])
            chosen = reader
            if reader is None and all(map(is_nifti, paths)) and not any(path.is_dir() for path in paths):
                chosen = self.nifti_reader
            elif reader is None and all(map(is_dicom, paths)):
                chosen = self.dicom_reader
            elif reader is None and all(map(is_row, paths)):
                chosen = self.row_reader
            elif reader is None and all(map(is_picture, paths)):
                chosen = self.picture_readers[key in self.label_keys]
            names = ", ".join(map(str, paths))
            try:
                loaded = self._loader(d[key], chosen)
            except (MemoryError, PermissionError, PictureError, VoxelTypeError):
                raise
            except (ValueError, FileNotFoundError) as error:
                if chosen in (self.dicom_reader, self.row_reader):  # their own sentences
                    raise
                raise ValueError(_unreadable(key, names, error)) from error
            except Exception as error:
                raise ValueError(_unreadable(key, names, error)) from error
            if self._loader.image_only:
                d[key] = loaded
            else:  # so MONAI Label sets the loader of every LoadImaged
                d[key], d[f"{key}_{self.meta_key_postfix[0]}"] = loaded
            if self.spatial_dims == 2 and d[key].ndim == 4 and d[key].shape[-1] == 1:
                d[key] = d[key][..., 0]
        return d


def _paths(key: Hashable, value: Any) -> list[Path]:
    paths = []
    for entry in ensure_tuple(value):
        if not isinstance(entry, (str, Path)):
            raise ValueError(f"the item's {key!r} must be a path, got {type(entry).__name__}.")
        path = Path(entry).expanduser()
        if not file_behind(path).exists():
            raise FileNotFoundError(f"no file {path} (the item's {key!r}); check dataset_dir and the data list.")
        paths.append(path)
    if not paths:
        raise ValueError(f"the item's {key!r} is an empty list of paths.")
    return paths


@contextlib.contextmanager
def _no_talk_of_codecs() -> Iterator[None]:
    """MONAI tells at every loader that a codec for DICOM on a GPU is absent."""
    logger = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodec")
            yield
    finally:
        logger.disabled = disabled


def _unreadable(key: Hashable, names: str, error: Exception) -> str:
    lines = f"{error}".strip().splitlines() or [type(error).__name__]
    line = lines[-1] if "SimpleITK" in lines[0] else lines[0]
    reason = line.removeprefix("sitk::ERROR: ")[:160]
    if "cannot find a suitable reader" in reason:
        reason = "no reader for this kind of file"
    return (
        f"{names} (the item's {key!r}) cannot be read as an image: it is truncated, damaged or no image "
        f"({reason.rstrip('.')}); fetch it again or take it out of the data list."
    )


class CheckVolumed(MapTransform):
    """Stop bad volumes and pictures before they reach the network; comes after loading with the channels first.

    Images: number of channels and of spatial dimensions, no NaN or infinity, not constant. Labels: one channel,
    whole numbers from 0 to ``num_classes - 1``. All keys of an item: the same grid (shape and affine).

    Args:
        keys: keys to check; the first present one sets the grid.
        label_keys: those of ``keys`` that hold labels.
        num_classes: classes with the background; None leaves the label values unchecked.
        num_channels: channels of the images.
        spatial_dims: spatial dimensions, 2 or 3.
        grid_tolerance: how far a corner of the grid may lie from the first key's, in voxels.
        constant_is_error: whether a constant image is an error.
        warn_empty_label: warn of labels without foreground.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: one sentence that names the file, the bad value and the way out.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_keys: KeysCollection = ("label",),
        num_classes: int | None = None,
        num_channels: int = 1,
        spatial_dims: int = 3,
        grid_tolerance: float = 0.1,
        constant_is_error: bool = True,
        warn_empty_label: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys = ensure_tuple(label_keys)
        self.num_classes = num_classes
        self.num_channels = num_channels
        self.spatial_dims = spatial_dims
        self.grid_tolerance = grid_tolerance
        self.constant_is_error = constant_is_error
        self.warn_empty_label = warn_empty_label

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        reference: Hashable | None = None
        for key in self.key_iterator(d):
            name = name_of(key, d[key])
            self._check_shape(key, d[key], name)
            self._check_values(key, torch.as_tensor(d[key]).detach(), name)
            if reference is None:
                reference = key
            else:
                self._check_grid(d[reference], d[key], name_of(reference, d[reference]), name)
        return d

    def _check_shape(self, key: Hashable, volume: torch.Tensor, name: str) -> None:
        dims, channels = volume.ndim - 1, volume.shape[0]
        shape = tuple(volume.shape[1:])
        if dims != self.spatial_dims:
            raise ValueError(
                f"{name} has {dims} spatial dimensions (shape {shape}), this bundle takes {self.spatial_dims}; "
                "convert the file or take it out of the data list."
            )
        expected = 1 if key in self.label_keys else self.num_channels
        if channels != expected:
            raise ValueError(f"{name} has {channels} channels, this bundle takes {expected}; {self._way_out(key)}.")
        if 0 in shape:
            raise ValueError(f"{name} has no voxels (shape {shape}); export it again.")

    def _way_out(self, key: Hashable) -> str:
        if self.spatial_dims == 2:
            return (
                "put ClassesOfd before" if key in self.label_keys else "put ChannelsOfd before, or keep the wanted ones"
            )
        return "keep the wanted ones (a 4D file often holds a time series) or give one path a channel"

    def _check_values(self, key: Hashable, volume: torch.Tensor, name: str) -> None:
        if volume.is_floating_point():
            bad = volume.numel() - int(torch.isfinite(volume).sum())
            if bad:
                raise ValueError(
                    f"{name} has {bad} voxels that are NaN or infinite; repair or mask them before, "
                    "or take the file out of the data list."
                )
        low, high = float(volume.min()), float(volume.max())
        if key not in self.label_keys:
            if low == high and self.constant_is_error:
                raise ValueError(
                    f"{name} is constant (every voxel is {low:g}); it holds no image: export it again "
                    "or take it out of the data list."
                )
            return
        if volume.is_floating_point() and bool((volume != volume.round()).any()):
            value = float(volume[volume != volume.round()].reshape(-1)[0])
            raise ValueError(
                f"{name} has the label value {value:g}, labels must be whole numbers; "
                "resample labels by nearest neighbour and save them as integers."
            )
        if self.num_classes is not None and (low < 0 or high >= self.num_classes):
            value = low if low < 0 else high
            raise ValueError(
                f"{name} has the label value {value:g}, the classes are 0 to {self.num_classes - 1}; "
                "map the labels (ClassesOfd) or give the right number of classes."
            )
        if high == 0 and low == 0 and self.warn_empty_label:
            warnings.warn(f"{name} has no foreground voxel.", stacklevel=3)

    def _check_grid(self, first: torch.Tensor, second: torch.Tensor, first_name: str, second_name: str) -> None:
        shapes = tuple(first.shape[1:]), tuple(second.shape[1:])
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{first_name} and {second_name} have different grids: {shapes[0]} and {shapes[1]} voxels; "
                "resample the label to its image by nearest neighbour."
            )
        if not (isinstance(first, MetaTensor) and isinstance(second, MetaTensor)):
            return
        distance = corner_distance(np.asarray(first.affine), np.asarray(second.affine), shapes[0])
        if distance > self.grid_tolerance:
            raise ValueError(
                f"{first_name} and {second_name} lie at different places: their grids' corners are up to "
                f"{distance:.2f} voxels apart by their affines; save the label with its image's affine "
                "or resample it by nearest neighbour."
            )


def corner_distance(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """The largest distance between the corners of two grids, in voxels of the finer axis."""
    rank = min(first.shape[0] - 1, len(shape))
    corners = np.asarray(list(itertools.product(*[(0, size - 1) for size in shape[:rank]])), dtype=float)
    corners = np.pad(corners, ((0, 0), (0, first.shape[0] - 1 - rank)))
    corners = np.pad(corners, ((0, 0), (0, 1)), constant_values=1.0)
    spacing = np.linalg.norm(first[:-1, :rank], axis=0)
    offset = (corners @ (first - second).T)[:, :-1]
    return float(np.linalg.norm(offset, axis=1).max() / max(float(spacing.min()), 1e-9))


class VolumeSpacingd(Spacingd):
    """MONAI's ``Spacingd`` that touches its keys and nothing else.

    MONAI 1.6 updates every entry whose key begins with ``<key>_``, and fails where that is a string, as MONAI
    Label's ``image_path`` is.
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        own = {key: data[key] for key in self.key_iterator(data)}
        return {**data, **super().__call__(own, lazy)}


def check_datalist(
    items: Sequence[Mapping[str, Any]], keys: KeysCollection = ("image", "label"), allow_missing_keys: bool = False
) -> Sequence[Mapping[str, Any]]:
    """Look whether the files of a data list exist, without opening them, and give the list back.

    Raises:
        ValueError: for an empty list, or an item that lacks a key.
        FileNotFoundError: names the first missing file and how many are missing.
    """
    if not items:
        raise ValueError(
            "the data list is empty; check dataset_dir and the split, in MONAI Label submit a label first."
        )
    missing, total = [], 0
    for number, item in enumerate(items):
        for key in ensure_tuple(keys):
            if key not in item:
                if allow_missing_keys:
                    continue
                raise ValueError(f"item {number} of the data list has no {key!r}; it has {sorted(map(str, item))}.")
            for path in ensure_tuple(item[key]):
                total += 1
                if not file_behind(path).exists():
                    missing.append(path)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {total} files of the data list are missing, the first is {missing[0]}; "
            "check dataset_dir, or fetch the data again."
        )
    return items
