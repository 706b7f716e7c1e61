"""Opens every file of a data set and reports what is missing, unreadable, misaligned or out of range."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_ext.data.datalists import CaseFiles, count_cases, dataset_folder, find_cases, is_phantom, label_of_row
from monai_ext.data.manifest import SPLITS, Manifest, load_manifest
from monai_ext.data.pascal_voc import read_boxes
from monai_ext.data.rows import array_lengths, read_row
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


@dataclass(frozen=True)
class Report:
    """What `check_dataset` found; `counts` as from `case_counts`."""

    name: str
    folder: str
    phantom: bool
    counts: dict[str, int]
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(not finding.warning for finding in self.findings)

    def dumps(self) -> str:
        return json.dumps(asdict(self) | {"ok": self.ok}, indent=2) + "\n"

    def table(self) -> str:
        """The findings, one a line, then how many of each kind, then the cases counted."""
        lines = []
        if self.findings:
            wide = max(len(finding.case) for finding in self.findings)
            kinds = max(len(finding.kind) for finding in self.findings)
            for finding in self.findings:
                level = "warning" if finding.warning else "problem"
                lines.append(f"{level}  {finding.case:{wide}}  {finding.kind:{kinds}}  {finding.message}")
            lines.append("")
            for (kind, warning), number in sorted(Counter((f.kind, f.warning) for f in self.findings).items()):
                lines.append(f"{number:5d}  {kind}{' (warning)' if warning else ''}")
            lines.append("")
        counts = self.counts
        lines.append(f"{self.folder}{' (a phantom: made-up data)' if self.phantom else ''}")
        lines.append(
            f"{counts['present']} of {counts['official']} official cases present, {counts['absent']} absent; "
            + ", ".join(f"{split} {counts[split]}" for split in SPLITS)
        )
        problems = sum(not finding.warning for finding in self.findings)
        warnings = len(self.findings) - problems
        lines.append(f"problems: {problems}, warnings: {warnings}")
        return "\n".join(lines)


def check_dataset(name: str | Path, root: str | Path, progress: bool = True) -> Report:
    """Reads every voxel of every case below `root`.

    Raises:
        FileNotFoundError: no such folder, or no case in it; everything else is in the report.
    """
    manifest = load_manifest(name)
    folder = dataset_folder(manifest, root)
    images, damaged = manifest.content["pairs"]["images"], []
    try:
        cases = find_cases(manifest, folder)
    except ValueError as error:  # an archive of arrays
        cases, damaged = [], [Finding(images, "unreadable", str(error))]
    if not cases and not damaged:
        raise FileNotFoundError(f"{folder} holds no case of {manifest.name} ({images}).")
    report = Report(manifest.name, str(folder), is_phantom(folder), count_cases(manifest, cases), damaged)
    report.findings.extend(_unlabelled_rows(manifest, cases))
    report.findings.extend(_listed_but_absent(manifest, folder, {files.case for files in cases}))
    report.findings.extend(_foreign(manifest, folder))
    report.findings.extend(_in_no_split(manifest, [files.case for files in cases]))
    for files in tqdm(cases, desc=f"checking {folder.name}", unit="case", disable=not progress):
        report.findings.extend(check_case(manifest, files))
    return report


def _listed_but_absent(manifest: Manifest, folder: Path, present: set[str]) -> list[Finding]:
    """Cases that the folder's own dataset.json lists, of which neither file is there."""
    if manifest.arrays:  # the cases are no files
        return []
    try:
        listed = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["training"]
        cases = {case for entry in listed if (case := manifest.case_of(Path(entry["image"]))) is not None}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Finding("dataset.json", "unreadable", f"not a data set's description: {type(error).__name__} {error}")]
    return [
        Finding(case, "missing", "listed in dataset.json, but image and label are missing")
        for case in sorted(cases - present)
    ]


def _unlabelled_rows(manifest: Manifest, cases: list[CaseFiles]) -> list[Finding]:
    """Arrays with more images than labels; a label without an image is found with its case."""
    lengths = array_lengths(cases[0].row.path) if cases and cases[0].row is not None else {}
    return [
        Finding(names["images"], "missing", f"{more} of {lengths[names['images']]} images have no label")
        for names in manifest.arrays.values()
        if (more := lengths.get(names["images"], 0) - lengths.get(names["labels"], 0)) > 0
    ]


def _foreign(manifest: Manifest, folder: Path) -> list[Finding]:
    """Files among the images and labels that belong to no case, macOS debris aside: a misspelt case goes unused."""
    pairs = manifest.content["pairs"]
    kinds = [kind for kind in ("images", "labels", "boxes", "second_labels") if kind in pairs]
    paths = sorted(path for kind in kinds for path in folder.glob(pairs[kind]))
    return [
        Finding(path.name, "foreign", f"{path.relative_to(folder)} is not named like a case ({pairs['case']})", True)
        for path in paths
        if manifest.case_of(path) is None and not path.name.startswith("._")
    ]


def _in_no_split(manifest: Manifest, cases: list[str]) -> list[Finding]:
    return [
        Finding(case, "no split", "in none of the manifest's lists, so neither trained nor tested on", True)
        for case in cases
        if manifest.split_of(case) is None and case not in manifest.unpaired
    ]


def check_case(manifest: Manifest, files: CaseFiles) -> list[Finding]:
    """Everything wrong with one case's image, its label, and the two together."""
    findings: list[Finding] = []

    def found(kind: str, message: str, warning: bool = False) -> None:
        findings.append(Finding(files.case, kind, message, warning))

    if files.row is not None:
        _check_row(manifest, files, found)
        return findings
    volumes: dict[str, Volume] = {}
    kinds = {"image": files.image, "label": files.label}
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
    return findings


def _check_file(kind: str, path: Path, manifest: Manifest, found: Any) -> Volume | None:
    """A file's volume, None where it cannot be compared with others."""
    classes = kind != "image" and bool(manifest.labels)
    dims = manifest.content["spatial_dims"]
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
            known = _some(map(str, manifest.values))
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
    try:
        voxels = read_row(str(files.row))
    except (OSError, ValueError) as error:
        found("unreadable", str(error))
        return
    try:
        label_of_row(manifest, files.row)
    except ValueError as error:
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
        found("not an integer", f"the {kind} holds {_some(odd)}")
    strange = [f"{value:g}" for value in whole if value not in manifest.values]
    if strange:
        stored = "" if manifest.values == manifest.labels else " stored as"
        known = _some(map(str, manifest.values))
        found("label range", f"the {kind} holds {_some(strange)}: the classes are{stored} {known}")
    if len(values) == 1 and values[0] == manifest.values[0]:
        found("empty label", "only background", warning=True)


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


def _some(items: Any, most: int = 5) -> str:
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
