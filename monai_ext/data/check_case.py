"""Opens the files of one case and says what is missing, unreadable, misaligned or out of range."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.data.datalists import CaseFiles, label_of_row
from monai_ext.data.manifest import Manifest
from monai_ext.data.pascal_voc import read_boxes
from monai_ext.data.rows import read_row
from monai_ext.data.volume_files import UnreadableError, Volume, read_volume

# The largest shift, in voxels, between the corners of an image and of its label. In the real Task04_Hippocampus all
# pairs agree exactly; rounding an affine to float32 shifts corners by about 1e-4, and 1e-2 is still invisible.
TOLERANCE = 1e-2


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one case; a warning does not fail the check."""

    case: str
    kind: str
    message: str
    warning: bool = False


def check_case(manifest: Manifest, files: CaseFiles) -> list[Finding]:
    """Everything wrong with one case's image, its label, and the two together."""
    findings: list[Finding] = []

    def found(kind: str, message: str, warning: bool = False) -> None:
        findings.append(Finding(files.case, kind, message, warning))

    if files.row is not None:
        _check_row(manifest, files, found)
        return findings
    if manifest.tables:
        _check_verdict(manifest, files, found)
    volumes: dict[str, Volume] = {}
    kinds = {"image": files.image, "label": files.label}
    if manifest.tables or manifest.clean:
        del kinds["label"]
    if "second_labels" in manifest.content["pairs"]:
        kinds["second label"] = files.second
    for kind, path in kinds.items():
        if path is None and kind == "second label":
            found("no second observer", "the second observer's label is missing", warning=True)
        elif path is None and files.case in manifest.unpaired:
            found("unpaired", f"the {kind} is not published: the case is passed over", warning=True)
        elif path is None:
            found("missing", f"the {kind} is missing")
        elif kind == "label" and "boxes" in manifest.content["pairs"]:
            _check_boxes(manifest, path, volumes.get("image"), found)
        else:
            volume = _check_file(kind, path, manifest, found)
            if volume is not None:
                volumes[kind] = volume
    for kind in ("label", "second label"):
        if "image" in volumes and kind in volumes:
            _check_grids(volumes["image"], volumes[kind], kind, found)
    if "masks" in manifest.content["pairs"] and "label" in volumes and files.image:
        _check_masks(manifest, files.image.parent, volumes["label"], found)
    return findings


def _check_verdict(manifest: Manifest, files: CaseFiles, found: Any) -> None:
    if files.verdict is None:
        tables = " or ".join(table["file"] for table in manifest.tables)
        found("missing", f"it has no row in {tables}")
    elif files.verdict.problem:
        found("label range", f"{files.verdict.table.name}: {files.verdict.problem}")
    elif files.passed_over:
        found("passed over", files.passed_over, warning=True)


def _check_file(kind: str, path: Path, manifest: Manifest, found: Any) -> Volume | None:
    """A file's volume, None where it cannot be compared with others."""
    classes = kind != "image" and bool(manifest.labels)
    dims = manifest.content["spatial_dims"] + manifest.slices  # of an image's slices, each is an item
    try:
        volume = read_volume(path, classes)
    except UnreadableError as error:
        found("unreadable", f"{kind} {path.name}: {error}")
        return None
    if len(volume.shape) != dims or 0 in volume.shape:
        found("dimensions", f"{kind} is {_size(volume.shape)}: expected {dims} dimensions")
        return None
    channels = 1 if classes else manifest.content.get("channels", volume.channels)
    if volume.channels != channels:
        found("channels", f"{kind} has {volume.channels} channels: expected {channels}")
    elif classes:
        _check_label(volume.voxels, manifest, kind, found)
    else:
        _check_image(volume.voxels, kind, found)
    return volume


def _check_boxes(manifest: Manifest, path: Path, image: Volume | None, found: Any) -> None:
    try:
        boxes = read_boxes(path)
    except (OSError, ValueError) as error:
        found("unreadable", f"boxes {path.name}: {error}")
        return
    if not boxes:
        found("empty label", "no box", warning=True)
    for number, box in enumerate(boxes, start=1):
        if box.name not in manifest.values:
            known = some(map(str, manifest.values))
            found("label range", f"box {number} is called {box.name!r}: the classes are called {known}")
        elif box.empty:
            found("empty box", f"box {number} {box.corners} has no area: it is passed over", warning=True)
        elif image is not None and (
            min(box.corners) < 0 or box.corners[2] > image.shape[0] or box.corners[3] > image.shape[1]
        ):
            found(
                "outside", f"box {number} {box.corners} leaves the picture of {_size(image.shape)} pixels", warning=True
            )


def _check_row(manifest: Manifest, files: CaseFiles, found: Any) -> None:
    dims, channels = manifest.content["spatial_dims"], manifest.content.get("channels", 1)
    if files.label is None:
        found("missing", f"the file of its label is missing: {manifest.label_array_of(files.row)[0].name}")
        return
    try:
        voxels = read_row(str(files.row))
    except (OSError, ValueError) as error:
        found("unreadable", str(error))
        return
    try:
        label_of_row(manifest, files.row)
    except (OSError, ValueError) as error:
        found("label range", str(error))
    if voxels.dtype.kind not in "biuf":
        found("unreadable", f"its voxels are {voxels.dtype}, not numbers")
    elif voxels.ndim != dims + (channels > 1) or 0 in voxels.shape:
        found("dimensions", f"image is {_size(voxels.shape)}: expected {dims} dimensions of {channels} channels")
    elif channels > 1 and voxels.shape[-1] != channels:
        found("channels", f"image has {voxels.shape[-1]} channels: expected {channels}")
    else:
        _check_image(voxels, "image", found)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_image(voxels: np.ndarray, kind: str, found: Any) -> None:
    broken = voxels.size - np.count_nonzero(np.isfinite(voxels))
    if broken:
        found("not finite", f"{broken} of {voxels.size} voxels of the {kind} are NaN or infinite")
    elif voxels.min() == voxels.max():
        found("constant", f"every voxel of the {kind} is {voxels.flat[0]:g}")


def _check_label(voxels: np.ndarray, manifest: Manifest, kind: str, found: Any) -> None:
    values = np.unique(voxels)
    whole = values[np.isfinite(values) & (values == np.round(values))]
    if len(whole) < len(values):
        odd = [f"{value:g}" for value in values if value not in whole]
        found("not an integer", f"the {kind} holds {some(odd)}")
    strange = [f"{value:g}" for value in whole if value not in manifest.values]
    if strange:
        stored = "" if manifest.values == manifest.labels else " stored as"
        known = some(map(str, manifest.values))
        found("label range", f"the {kind} holds {some(strange)}: the classes are{stored} {known}")
    if len(values) == 1 and values[0] == manifest.values[0]:
        found("empty label", "only background", warning=True)


def _check_masks(manifest: Manifest, folder: Path, label: Volume, found: Any) -> None:
    """Whether the labels number the classes as the masks of single classes name them."""
    paths = {int(number): folder / name for number, name in manifest.content["pairs"]["masks"].items()}
    absent = [path.name for path in paths.values() if not path.exists()]
    if absent:
        found("no mask", f"the order of the classes goes unchecked for {some(absent)}, not there", warning=True)
    for number, path in paths.items():
        mask = _check_mask(path, found) if path.exists() else None
        if mask is None or not mask.any():
            continue
        if mask.shape != label.voxels.shape:
            found("grids differ", f"mask {path.name} {_size(mask.shape)} voxels, label {_size(label.voxels.shape)}")
            continue
        values, times = np.unique(label.voxels[mask], return_counts=True)
        expected = manifest.values[manifest.labels.index(number)]
        if values[times.argmax()] != expected:
            found("label order", f"most of {path.name} is labelled {values[times.argmax()]:g}, not {expected}")


def _check_mask(path: Path, found: Any) -> np.ndarray | None:
    try:
        return read_volume(path, labels=True).voxels > 0
    except UnreadableError as error:
        found("unreadable", f"mask {path.name}: {error}")
        return None


def _check_grids(image: Volume, label: Volume, name: str, found: Any) -> None:
    if image.shape != label.shape:
        found("grids differ", f"image {_size(image.shape)} voxels, {name} {_size(label.shape)} voxels")
        return
    for kind, affine in (("image", image.affine), (name, label.affine)):
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
            found("affine", f"the {kind}'s affine cannot be inverted")
            return
    # corners in world coordinates, and the label's corners in voxels of the image
    corners = np.array(list(np.ndindex(*(2,) * len(image.shape))) * np.array([n - 1 for n in image.shape]), dtype=float)
    corners = np.pad(corners, ((0, 0), (0, 3 - len(image.shape))))
    shift = np.linalg.solve(image.affine, label.affine) - np.eye(4)
    distance = np.abs(np.pad(corners, ((0, 0), (0, 1)), constant_values=1) @ shift.T).max()
    if distance > TOLERANCE:
        found("grids differ", f"image and {name} are up to {distance:.3g} voxels apart (affines differ)")


def some(items: Iterable[str], most: int = 5) -> str:
    """The first few of them, and how many more there are."""
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
