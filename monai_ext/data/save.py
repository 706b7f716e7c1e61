"""Saving what inference makes in the kind of file that it was made from.

Shapes: C channels, W, H, D width, height and depth, P pages of a TIFF.
"""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from monai_ext.data.case_name import file_of, stem
from monai_ext.data.picture_files import picture_bytes
from monai_ext.data.pictures import is_picture, picture_info
from monai_ext.data.transforms import corner_distance
from monai_ext.files import atomic_write

__all__ = ["CONTENTS", "SaveLikeInputd", "distinct_names"]

CONTENTS = ("labels", "image", "probabilities")


class SaveLikeInputd(SaveImaged):
    """Save a prediction on the grid of the file that the image came from, as the same kind of file.

    ================  ===============  =====================================  ==============================
    the image's file  labels           image                                  probabilities
    ================  ===============  =====================================  ==============================
    NIfTI, DICOM      .nii.gz, uint8   .nii.gz, float32                       .nii.gz, float32, [W, H, D, C]
    8-bit picture     .png, uint8      .png, uint8                            .tif, float32, a page a channel
    16-bit picture    .png, uint8      .png, in colour .tif, uint16           .tif, float32, a page a channel
    other TIFF        .png, uint8      .tif, float32 (integers int32)         .tif, float32, a page a channel
    ================  ===============  =====================================  ==============================

    More than 256 classes, or greater values of classes, make labels uint16; values beyond, or below 0, make them int32
    (pictures TIFF). A TIFF of several pages gives a TIFF of as many. Volumes get the file's
    affine. A picture gets the file's width and height, row by row, and the file's EXIF orientation: where a camera
    was turned, programs that heed the mark turn image and result alike, and programs that do not turn neither. One
    channel is saved in grey, three in colour. A file is written whole or not at all.

    Comes last, after ``Invertd`` where spatial transforms went before. MONAI Label leaves it out, as it does every
    ``SaveImaged``.

    Args:
        keys: keys of what is to be saved.
        output_dir: the folder to write to.
        content: what it is: a label map (one channel of whole numbers), an image, or probabilities.
        output_postfix: goes to the end of the names; may be empty.
        source: key of the image whose file is imitated; its meta data, else those of the prediction, name the file.
        inputs: all paths that inference will see, asked for when the first prediction is saved. Files that share a
            name without suffix then get longer names, whatever the order; without, the first one gets the short name.
        values: pixel value of each class where labels are saved as a picture, such as ``(0, 255)`` to see them;
            the class itself if None.
        volume_values: the same where they are saved as a volume.
        value_range: what of an image becomes black and white in 8 and 16 bits; None where the values are the file's
            own already. Floating point is saved as it is.
        print_log: tell where each file went.
        allow_missing_keys: leave out keys that the item lacks.

    Raises:
        ValueError: a prediction that is not on the file's grid, or not what ``content`` says.
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike,
        content: str = "labels",
        output_postfix: str = "seg",
        source: Hashable = "image",
        inputs: Iterable[str | os.PathLike] = (),
        values: Sequence[int] | None = None,
        volume_values: Sequence[int] | None = None,
        value_range: Sequence[float] | None = None,
        print_log: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, output_dir=Path(output_dir), print_log=False, allow_missing_keys=allow_missing_keys)
        if content not in CONTENTS:
            raise ValueError(f"content {content!r} is unknown: it can be {', '.join(CONTENTS)}.")
        if (values is not None or volume_values is not None) and content != "labels":
            raise ValueError(f"values are pixel values of classes: they go with content='labels', not {content!r}.")
        if value_range is not None and not value_range[0] < value_range[1]:
            raise ValueError(f"value_range {tuple(value_range)} must rise, from black to white.")
        self.folder = Path(output_dir)
        self.content = content
        self.postfix = f"_{output_postfix.lstrip('_')}" if output_postfix else ""
        self.source = source
        self.values, self.volume_values = (None if v is None else np.asarray(v) for v in (values, volume_values))
        self.value_range = value_range
        self.print_log = print_log
        self.inputs = inputs
        self._names: dict[Path, str] | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            path, meta = self._source(d, key)
            # several keys of one item, such as labels and probabilities, must not overwrite each other
            extra = f"_{key}" if len(self.keys) > 1 else ""
            array = self._array(d[key], f"the {key} of {path}", meta)
            if is_picture(path) and not path.is_dir():
                content, suffix = self._picture(array, path, f"the {key} of {path}")
            else:
                content, suffix = self._volume(array, meta, f"the {key} of {path}"), ".nii.gz"
            target = self.folder / f"{self._name(path)}{extra}{self.postfix}{suffix}"
            if target.exists() and path.exists() and target.samefile(path):
                raise ValueError(f"{target} is the image itself; give another output_dir or an output_postfix.")
            with atomic_write(target) as file:
                file.write(content)
            if self.print_log:
                print(f"wrote {target}")
        return d

    def _source(self, item: Mapping[Hashable, Any], key: Hashable) -> tuple[Path, dict[str, Any]]:
        for candidate in (self.source, key):
            image = item.get(candidate)
            file = file_of(image)
            if file:
                return Path(file), image.meta
        raise ValueError(f"neither {self.source!r} nor {key!r} tells its file; load {self.source!r} with LoadVolumed.")

    def _array(self, prediction: Any, name: str, meta: Mapping[str, Any]) -> np.ndarray:
        """The prediction [C, W, H(, D)], found to be on the file's grid and to be what `content` says."""
        array = torch.as_tensor(prediction).detach().cpu()
        array = array.float().numpy() if array.is_floating_point() else array.numpy()
        shape = tuple(int(size) for size in meta["spatial_shape"])
        if array.ndim == 3 and len(shape) == 3 and shape[2] == 1:  # a slice that was made a picture
            array = array[..., None]
        if array.shape[1:] != shape:
            raise ValueError(
                f"{name} has {_size(array.shape[1:])} voxels, the file {_size(shape)}; "
                "put Invertd before, so that it comes back to the file's grid."
            )
        if isinstance(prediction, MetaTensor) and "original_affine" in meta:
            affines = (np.asarray(a, dtype=float) for a in (meta["original_affine"], prediction.affine.cpu()))
            if corner_distance(*affines, shape) > 0.1:
                raise ValueError(f"{name} lies elsewhere than the file; put Invertd before, with both affines.")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are NaN or infinite; the network's weights or input are bad.")
        if self.content != "labels":
            return array
        if array.shape[0] != 1 or array.min() < 0 or (array != np.round(array)).any():
            raise ValueError(f"{name} is no label map (one channel of whole numbers); put AsDiscreted(argmax) before.")
        return array.astype(np.uint8 if array.max() < 256 else np.uint16)

    def _volume(self, array: np.ndarray, meta: Mapping[str, Any], name: str) -> bytes:
        if self.content == "labels":
            array = _valued(array, self.volume_values, name)
        array = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
        affine = np.asarray(meta["original_affine"], dtype=float)
        image = nib.Nifti1Image(array if self.content == "labels" else array.astype(np.float32), affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        return gzip.compress(image.to_bytes(), mtime=0)

    def _picture(self, array: np.ndarray, path: Path, name: str) -> tuple[bytes, str]:
        info = picture_info(path)
        if self.content == "probabilities":
            if info.pages > 1:
                raise ValueError(f"{name}: probabilities of a picture of several pages are not saved; save the labels.")
            return picture_bytes(list(array.astype(np.float32)), info.orientation, ".tif"), ".tif"
        if array.shape[0] not in (1, 3):
            raise ValueError(f"{name} has {array.shape[0]} channels, a picture has 1 (grey) or 3 (colour).")
        array = self._stored(array, info.dtype, name)
        if info.pages > 1 and array.shape[0] == 3 and array.dtype != np.uint8:
            raise ValueError(f"{name}: pages in colours of more than 8 bits are not saved; make them grey.")
        pages = list(np.moveaxis(array, -1, 0)) if info.pages > 1 else [array]  # each [C, W, H]
        pages = [page[0] if len(page) == 1 else np.moveaxis(page, 0, -1) for page in pages]
        deep = array.dtype not in (np.uint8, np.uint16) or (array.dtype == np.uint16 and array.shape[0] == 3)
        suffix = ".tif" if deep or len(pages) > 1 else ".png"
        return picture_bytes(pages, info.orientation, suffix), suffix

    def _stored(self, array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
        """The numbers that the picture is to hold."""
        if self.content == "labels":
            return _valued(array, self.values, name)
        if dtype.kind == "f":
            return array.astype(np.float32)
        limits = np.iinfo(dtype)
        if self.value_range is not None and dtype.kind == "u":
            low, high = self.value_range
            array = (array.astype(float) - low) * (limits.max / (high - low))
        return np.clip(np.round(array.astype(float)), limits.min, limits.max).astype(dtype)

    def _name(self, path: Path) -> str:
        if self._names is None:
            self._names = distinct_names([Path(entry).expanduser() for entry in self.inputs])
        if path not in self._names:
            self._names[path] = _free_name(path, self._names)
        return self._names[path]


def _valued(classes: np.ndarray, values: np.ndarray | None, name: str) -> np.ndarray:
    """The value of each class in the place of the class."""
    if values is None:
        return classes
    if classes.max() >= len(values):
        raise ValueError(f"{name} holds the class {classes.max()}, values has {len(values)} classes.")
    for dtype in (np.uint8, np.uint16, np.int32):
        if np.iinfo(dtype).min <= values.min() and values.max() <= np.iinfo(dtype).max:
            return values[classes].astype(dtype)
    raise ValueError(f"{name}: the values {values.min()} to {values.max()} of the classes do not fit into 32 bits.")


def distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each file: without its suffix where no other file has that name, else longer.

    Names that differ only by upper and lower case are taken for one, as some file systems do.
    """
    names: dict[Path, str] = {}
    candidates = {path: list(zip(range(4), _candidates(path))) for path in dict.fromkeys(paths)}
    for level in range(4):
        counts = Counter(found[level][1].lower() for path, found in candidates.items() if path not in names)
        taken = {name.lower() for name in names.values()}
        for path, found in candidates.items():
            name = found[level][1]
            if path not in names and counts[name.lower()] == 1 and name.lower() not in taken:
                names[path] = name
    for path in candidates:
        if path not in names:
            names[path] = _free_name(path, names)
    return names


def _free_name(path: Path, names: Mapping[Path, str]) -> str:
    """The shortest name of a file that no other has."""
    taken = {name.lower() for name in names.values()}
    return next(name for name in _candidates(path) if name.lower() not in taken)


def _candidates(path: Path) -> Iterator[str]:
    short = path.name if path.is_dir() else stem(path.name)
    whole = short if short == path.name else path.name.replace(".", "_")
    yield from (short, whole, f"{path.parent.name}_{short}", f"{path.parent.name}_{whole}")
    number = 2
    while True:
        yield f"{path.parent.name}_{whole}_{number}"
        number += 1


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
