"""The images below a folder, for inference on a user's own scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.data.folder_layout import default_name_formatter

from monai_ext.data.readers import is_dicom, is_nifti


def images_in(path: str | Path) -> list[str]:
    """What to run inference on: NIfTI files and DICOM series.

    ``path`` may be one NIfTI file, a folder of NIfTI files, the folder of one DICOM series, a folder of such folders,
    or a data set in the Decathlon's layout (its ``imagesTs``, else its ``imagesTr``). Hidden files are passed over.

    Returns:
        paths of files, and of folders with a DICOM series, sorted

    Raises:
        FileNotFoundError: nothing there, or no image in it.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [str(root)]
    if not root.is_dir():
        raise FileNotFoundError(f"no file or folder {root}; give dataset_dir the path of a scan or a folder of scans.")
    for images in ("imagesTs", "imagesTr"):
        found = _scans(root / images) if (root / images).is_dir() else []
        if found:
            return found
    found = _scans(root)
    if not found:
        raise FileNotFoundError(
            f"no image in {root}; give dataset_dir a NIfTI file (.nii, .nii.gz), a folder of them, "
            "or a folder with a DICOM series."
        )
    return found


def output_name(meta: dict[str, Any], saver: Any) -> dict[str, Any]:
    """For ``SaveImage``: what its output is named after.

    MONAI cuts a name at its last dot, and so gives the folders ``1.2.840.1`` and ``1.2.840.2`` of two series one name.
    """
    names = default_name_formatter(meta, saver)
    if Path(names["subject"]).is_dir():
        names["subject"] += ".nii"
    return names


def _scans(folder: Path) -> list[str]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    niftis = [str(entry) for entry in entries if entry.is_file() and is_nifti(entry)]
    if niftis:
        return niftis
    if _holds_dicom(folder):
        return [str(folder)]
    return [str(entry) for entry in entries if entry.is_dir() and _holds_dicom(entry)]


def _holds_dicom(folder: Path) -> bool:
    return any(is_dicom(entry) for entry in sorted(folder.iterdir()) if entry.is_file())
