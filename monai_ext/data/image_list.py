"""The images below a folder, for inference on a user's own scans and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from monai_ext.data.manifest import Manifest, load_manifest
from monai_ext.data.pascal_voc import read_boxes
from monai_ext.data.pictures import is_picture
from monai_ext.data.readers import is_dicom, is_nifti
from monai_ext.data.rows import Row, array_lengths, file_behind


def images_in(path: str | Path, spatial_dims: int = 3, dataset: str | Path | None = None) -> list[str]:
    """What to run inference on: NIfTI files, DICOM series, pictures.

    ``path`` may be one file, the address of a row of an archive, a folder of NIfTI files, the folder of one DICOM
    series, a folder of pictures, a folder of such folders, or a data set in the Decathlon's layout (its ``imagesTs``,
    else its ``imagesTr``). Hidden files are passed over.

    Args:
        path: the file or folder.
        spatial_dims: with 3, a folder of DICOM files is one series, and where kinds are mixed NIfTI goes before
            DICOM and DICOM before pictures: a scan often has a screenshot beside it. With 2, every NIfTI file, DICOM
            file and picture is an image of its own.
        dataset: name of a manifest; files that are that data set's labels are passed over.

    Returns:
        paths of files, and of folders with a DICOM series, sorted

    Raises:
        FileNotFoundError: nothing there, or no image in it.
    """
    root = Path(path).expanduser()
    if file_behind(root).is_file():
        return [str(root)]
    if not root.is_dir():
        raise FileNotFoundError(f"no file or folder {root}; give dataset_dir the path of a scan or a folder of scans.")
    labels = _labels(root, dataset)
    scans = _slices if spatial_dims == 2 else _scans
    for folder in (root / "imagesTs", root / "imagesTr", root):
        found = [str(scan) for scan in scans(folder) if scan not in labels] if folder.is_dir() else []
        if found:
            return found
    raise FileNotFoundError(
        f"no image in {root}; give dataset_dir a NIfTI file (.nii, .nii.gz) or a picture (.png, .jpg, .bmp, .tif), "
        "a folder of them, or a folder with a DICOM series."
    )


class ImagesIn(Sequence[str]):
    """What ``images_in`` finds, looked for when it is first asked.

    A program that takes only some parts of a bundle, such as a server's, needs no folder of images then.

    Args:
        path: as in ``images_in``, like the others.
        spatial_dims: likewise.
        dataset: likewise.

    Raises:
        FileNotFoundError: when asked, as ``images_in``.
    """

    def __init__(self, path: str | Path, spatial_dims: int = 3, dataset: str | Path | None = None) -> None:
        self.path = path
        self.spatial_dims = spatial_dims
        self.dataset = dataset

    @cached_property
    def _found(self) -> list[str]:
        return images_in(self.path, self.spatial_dims, self.dataset)

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._found[index]


def items_in(path: str | Path, spatial_dims: int = 3, dataset: str | Path | None = None) -> list[dict[str, Any]]:
    """What to classify, as entries of a data list: the images that ``images_in`` finds, or parts of them.

    With a ``dataset`` whose pictures have boxes, every box is an entry where a picture's boxes lie beside it (under
    its name, with the suffix .xml) or in the data set's own folder for them; what the boxes are called does not
    count. With a ``dataset`` of arrays, every row is an entry where ``path`` is such an archive or a folder with one.

    Raises:
        FileNotFoundError: nothing there, or no image in it.
        ValueError: a damaged archive or file of boxes; no row or box at all.
    """
    manifest = load_manifest(dataset) if dataset is not None else None
    if manifest is not None and manifest.arrays:
        rows = _rows_in(Path(path).expanduser(), manifest)
        if rows:
            return [{"image": str(row), "case": row.case} for row in rows]
    images = images_in(path, spatial_dims, dataset)
    if manifest is None or "boxes" not in manifest.content["pairs"]:
        return [{"image": image} for image in images]
    folder = Path(manifest.content["pairs"]["boxes"]).parent
    entries = [entry for image in images for entry in _boxes_in(Path(image), folder)]
    if not entries:
        raise ValueError(
            f"no picture in {path} has a box with an area; take the files of boxes away to classify whole pictures."
        )
    return entries


def _rows_in(path: Path, manifest: Manifest) -> list[Row]:
    name = manifest.content["pairs"]["images"]
    archives = [path] if path.suffix.lower() == ".npz" else [path / name, path / manifest.folder / name]
    for archive in archives:
        if archive.is_file():
            lengths = array_lengths(archive)
            arrays = [entry["images"] for entry in manifest.arrays.values()]
            rows = [Row(archive, array, row) for array in arrays for row in range(lengths.get(array, 0))]
            if not rows:
                held = ", ".join(lengths) or "nothing"
                raise ValueError(f"{archive} has no row in any of {', '.join(arrays)}; it holds {held}.")
            return rows
    return []


def _boxes_in(image: Path, folder: Path) -> list[dict[str, Any]]:
    """The boxes of a picture, else the picture itself."""
    for path in (image.with_suffix(".xml"), image.parent.parent / folder / f"{image.stem}.xml"):
        if path.is_file():
            boxes = list(enumerate(read_boxes(path), start=1))
            return [
                {
                    "image": str(image),
                    "box": list(box.corners),
                    "case": f"{image.stem}_{number:03d}",
                    "group": image.stem,
                }
                for number, box in boxes
                if not box.empty
            ]
    return [{"image": str(image)}]


def _labels(root: Path, dataset: str | Path | None) -> set[Path]:
    """The labels among the files, wherever in the data set's folder `root` is."""
    if dataset is None:
        return set()
    manifest = load_manifest(dataset)
    pairs = manifest.content["pairs"]
    patterns = {Path(pairs[kind]) for kind in ("labels", "second_labels") if kind in pairs}
    # told apart by their names, they may lie anywhere; told apart by their folder, they must lie in it
    named = {Path(pattern.name) for pattern in patterns if pattern.name != Path(pairs["images"]).name}
    globs = {str(start / pattern) for pattern in patterns | named for start in (Path(), Path("*"))}
    return {path for pattern in globs for path in root.glob(pattern) if manifest.case_of(path) is not None}


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _scans(folder: Path) -> list[Path]:
    entries = _entries(folder)
    files, folders = [e for e in entries if e.is_file()], [e for e in entries if e.is_dir()]
    niftis = [entry for entry in files if is_nifti(entry)]
    if niftis:
        return niftis
    if _holds_dicom(folder):
        return [folder]
    series = [entry for entry in folders if _holds_dicom(entry)]
    if series:
        return series
    pictures = [entry for entry in files if is_picture(entry)]
    return pictures or [entry for below in folders for entry in _entries(below) if is_picture(entry)]


def _slices(folder: Path) -> list[Path]:
    """Every file that is an image, else those one folder below."""
    entries = _entries(folder)
    found = [entry for entry in entries if _is_slice(entry)]
    below = [entry for entry in entries if entry.is_dir()]
    return found or [entry for inner in below for entry in _entries(inner) if _is_slice(entry)]


def _is_slice(path: Path) -> bool:
    # a DICOMDIR is a table of contents in DICOM's own format
    return path.is_file() and (is_nifti(path) or is_picture(path) or (is_dicom(path) and path.stem != "DICOMDIR"))


def _holds_dicom(folder: Path) -> bool:
    return any(is_dicom(entry) for entry in sorted(folder.iterdir()) if entry.is_file())
