"""Data lists from a manifest and a folder.

Not named `datalist.py`: configs name the function `monai_ext.data.datalist`, and a module of that name would hide it.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.data.manifest import SPLITS, Manifest, load_manifest
from monai_ext.data.pascal_voc import read_boxes
from monai_ext.data.rows import Row, read_array
from monai_ext.data.tables import Verdict, read_tables

logger = logging.getLogger(__name__)

PHANTOM_MARK = "Phantom: made-up data drawn by monai_ext"


@dataclass(frozen=True)
class CaseFiles:
    """A case's files; each is None where it is missing, `second` also where there is no second observer.

    A case that is a row of an array has `row`, and the files of the arrays are its image and its label; one whose
    class stands in a table has `verdict`, and the table is its label.
    """

    case: str
    image: Path | None
    label: Path | None
    second: Path | None = None
    row: Row | None = None
    verdict: Verdict | None = None

    @property
    def whole(self) -> bool:
        """Whether it can be used: with image and label, and not passed over."""
        return self.image is not None and self.label is not None and not self.passed_over

    @property
    def passed_over(self) -> str:
        """Why a table leaves it out; empty where none does."""
        return self.verdict.passed_over if self.verdict else ""


def fetch_command(manifest: Manifest, root: Path) -> str:
    return f"python -m monai_ext data fetch {manifest.name} --root {shlex.quote(str(parent_of(manifest, root)))}"


def phantom_command(manifest: Manifest, root: Path) -> str:
    return f"python -m monai_ext data phantom {manifest.name} --root {shlex.quote(str(parent_of(manifest, root)))}"


def parent_of(manifest: Manifest, root: Path) -> Path:
    """The folder that contains the data set's folder, whichever of the two `root` is."""
    return root.parent if root.name == manifest.folder and not (root / manifest.folder).is_dir() else root


def dataset_folder(manifest: Manifest, root: str | Path) -> Path:
    """The data set's folder; `root` contains it, or is it (under any name).

    Raises:
        FileNotFoundError: neither; the message names the commands that fetch or draw the data set.
    """
    root = Path(root).expanduser()
    pattern = manifest.content["pairs"]["images"]
    images, *below = Path(pattern).parts
    by_name = not below or "*" in images  # the first folder is one of many
    for folder in (root / manifest.folder, root):
        if has_images(manifest, folder) if by_name else (folder / images).is_dir():
            return folder
    way = "fetch it with" if manifest.content["access"]["kind"] == "open" else "how to get it is told by"
    raise FileNotFoundError(
        f"{manifest.content['title']} is not in {root} (no {manifest.folder}/{images}): "
        f"{way} `{fetch_command(manifest, root)}`, "
        f"or draw made-up data in the same layout with `{phantom_command(manifest, root)}`."
    )


def is_phantom(folder: Path) -> bool:
    """Whether a folder holds a data set that `phantom` drew, by its dataset.json."""
    try:
        return json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["reference"].startswith(PHANTOM_MARK)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def has_images(manifest: Manifest, folder: Path) -> bool:
    """Whether any file is named like a case's image; none is opened."""
    return any(map(manifest.case_of, folder.glob(manifest.content["pairs"]["images"])))


def find_cases(manifest: Manifest, folder: Path) -> list[CaseFiles]:
    """Every case with an image or a label, sorted by case; foreign files are passed over.

    Raises:
        FileNotFoundError: a table with the classes is missing.
        ValueError: a table cannot be read.
    """
    pairs = manifest.content["pairs"]
    if manifest.arrays:
        return _rows(manifest, folder)
    images, labels, boxes, second = (
        {case: path for path in folder.glob(pairs[kind]) if (case := manifest.case_of(path)) is not None}
        if kind in pairs
        else {}
        for kind in ("images", "labels", "boxes", "second_labels")
    )
    if manifest.tables:
        verdicts = read_tables(manifest, folder)
        found = [(case, images[case], verdicts.get(manifest.group_of(case))) for case in sorted(images)]
        return [CaseFiles(case, image, said.table if said else None, verdict=said) for case, image, said in found]
    labels |= images if manifest.clean else boxes
    return [
        CaseFiles(case, images.get(case), labels.get(case), second.get(case))
        for case in sorted(images.keys() | labels.keys() | second.keys())
    ]


def _rows(manifest: Manifest, folder: Path) -> list[CaseFiles]:
    """The rows of the archive, or of those files that are there, in the order of the splits."""
    archives = [path for path in folder.glob(manifest.content["pairs"]["images"]) if manifest.case_of(path) is not None]
    rows = []
    for split in SPLITS:
        entry = manifest.arrays[split]
        for path in archives:
            if entry.get("images_file", path.name) != path.name:
                continue
            first = Row(path, entry["images"], 0)
            labels, name = manifest.label_array_of(first)
            # without labels nothing tells the rows but the images
            number = len(read_array(labels, name)) if labels.exists() else 1
            rows += [
                CaseFiles(row.case, path, labels if labels.exists() else None, row=row)
                for row in (Row(path, entry["images"], index) for index in range(number))
            ]
    return rows


def case_counts(name: str | Path, root: str | Path) -> dict[str, int]:
    """Numbers of cases, or of groups where cases have such: `official`, `present` (image and label), `absent`, and
    present ones by split; `passed_over`, where a table leaves out some that are there.
    """
    manifest = load_manifest(name)
    return count_cases(manifest, find_cases(manifest, dataset_folder(manifest, root)))


def count_cases(manifest: Manifest, cases: list[CaseFiles]) -> dict[str, int]:
    """As `case_counts`, of cases that were found."""
    splits = {manifest.group_of(files.case): manifest.split_of(files.case) for files in cases if files.whole}
    passed_over = len({manifest.group_of(files.case) for files in cases if files.passed_over})
    absent = max(0, manifest.cases - len(splits) - passed_over)
    counts = {"official": manifest.cases, "present": len(splits), "absent": absent}
    counts |= {"passed_over": passed_over} if passed_over else {}
    by_split = Counter(splits.values())
    return counts | {split: by_split[split] for split in SPLITS}


def datalist(name: str | Path, root: str | Path, split: str) -> list[dict[str, Any]]:
    """`{"image", "label", "case"}` of every present case of a split (or of "all"), sorted by case.

    `"second_label"` is a second observer's, where there is one. To classify, the label is the number of the class, or
    a list of 0 and 1 where several classes may hold at once; of a picture with boxes every box is an entry, with its
    corners in `"box"` and the picture's case in `"group"`, which else is a case's patient where the manifest knows
    such. Where images are their own references, both paths are the same; of slices over time every one is an entry,
    with its number in `"slice"` (see `TakeTimeSliced`). Cases that the official data set has and `root` has not are
    counted in a warning, and so are those that the official data set has only half of or that a table leaves out.

    Raises:
        ValueError: unknown data set or split; a split without any present case; a table that cannot be understood.
        FileNotFoundError: no such folder; an image without its label; no table.
    """
    manifest = load_manifest(name)
    if split not in (*SPLITS, "all"):
        raise ValueError(f"Unknown split {split!r}: known are {', '.join(SPLITS)} and all.")
    folder = dataset_folder(manifest, root)
    cases = find_cases(manifest, folder)
    half = [files for files in cases if not (files.image and files.label)]
    unlabelled = [files.image.name for files in half if files.image and files.case not in manifest.unpaired]
    if unlabelled:
        shown = ", ".join(unlabelled[:3]) + (f" and {len(unlabelled) - 3} more" if len(unlabelled) > 3 else "")
        raise FileNotFoundError(
            f"No label for {shown} in {folder}: expected {_labels_of(manifest)}; "
            f"see `python -m monai_ext data check {manifest.name} --root {shlex.quote(str(root))}`."
        )
    counts = count_cases(manifest, cases)
    if is_phantom(folder):
        logger.warning("%s holds made-up data: a phantom of %d cases.", folder, counts["present"])
    elif counts["absent"]:
        logger.warning(
            "%s: %d of the %d official cases of %s are absent; %d are present (%s).",
            *(folder, counts["absent"], counts["official"], manifest.name, counts["present"]),
            ", ".join(f"{part} {counts[part]}" for part in SPLITS),
        )
    unpaired = [files.case for files in half if files.case in manifest.unpaired]
    if unpaired:
        logger.warning("%s: passed over, the other half of the pair is not published: %s.", folder, ", ".join(unpaired))
    for reason, number in Counter(files.passed_over for files in cases if files.passed_over).items():
        logger.warning("%s: %d cases passed over: %s.", folder, number, reason)
    entries = [
        entry
        for files in cases
        if files.whole and split in ("all", manifest.split_of(files.case))
        for entry in _entries(manifest, files)
    ]
    if not entries:
        raise ValueError(
            f"No case of the split {split!r} of {manifest.name} in {folder} ({counts['present']} cases are present): "
            f"add cases, for example with `{fetch_command(manifest, Path(root))}`."
        )
    return entries


def _labels_of(manifest: Manifest) -> str:
    """Where a missing label was looked for."""
    pairs = manifest.content["pairs"]
    if manifest.tables:
        return f"a row in {' or '.join(table['file'] for table in manifest.tables)}"
    if manifest.arrays:
        return f"its array in {', '.join(sorted({entry.get('labels_file', '') for entry in manifest.arrays.values()}))}"
    return f"under the same name in {pairs.get('labels') or pairs.get('boxes')}"


def _entries(manifest: Manifest, files: CaseFiles) -> list[dict[str, Any]]:
    """What a whole case contributes to a data list."""
    if files.row is not None:
        return [{"image": str(files.row), "label": label_of_row(manifest, files.row), "case": files.case}]
    if "boxes" in manifest.content["pairs"]:
        return _boxes(manifest, files)
    if manifest.slices:
        return _slices(manifest, files)
    entry = {"image": str(files.image), "label": str(files.label), "case": files.case}
    if files.verdict is not None:
        if files.verdict.problem:
            raise ValueError(f"{files.verdict.table}, case {files.case}: {files.verdict.problem}.")
        entry |= {"label": files.verdict.label}
    group = {"group": manifest.group_of(files.case)} if "group" in manifest.content["pairs"] else {}
    return [entry | group | ({"second_label": str(files.second)} if files.second else {})]


def _slices(manifest: Manifest, files: CaseFiles) -> list[dict[str, Any]]:
    from monai_ext.data.volume_files import count_slices  # readers of all kinds: only where they are needed

    image = str(files.image)
    return [
        {"image": image, "label": image, "slice": index, "case": f"{files.case}_{index:02d}", "group": files.case}
        for index in range(count_slices(Path(image)))
    ]


def label_of_row(manifest: Manifest, row: Row) -> int:
    """The class of a row.

    Raises:
        ValueError: a value that is no class of the manifest, or no label for this row.
    """
    path, name = manifest.label_array_of(row)
    array = read_array(path, name)
    if row.row >= len(array):
        raise ValueError(f"{path} has no row {row.row} in {name}: it holds {len(array)}.")
    values = array[row.row].ravel().tolist()
    if len(values) != 1 or values[0] not in manifest.values:
        known = ", ".join(map(str, manifest.values))
        raise ValueError(f"{path}: row {row.row} of {name} is {values}, the classes are {known}.")
    return manifest.labels[manifest.values.index(values[0])]


def _boxes(manifest: Manifest, files: CaseFiles) -> list[dict[str, Any]]:
    names = dict(zip(manifest.values, manifest.labels))
    entries = []
    for number, box in enumerate(read_boxes(str(files.label)), start=1):
        if box.name not in names:
            known = ", ".join(map(str, names))
            raise ValueError(f"{files.label}: object {number} is called {box.name!r}, the classes are {known}.")
        case = f"{files.case}_{number:03d}"
        if box.empty:
            logger.warning("%s: passed over, its box %s has no area.", case, box.corners)
            continue
        entries.append(
            {
                "image": str(files.image),
                "box": list(box.corners),
                "label": names[box.name],
                "case": case,
                "group": files.case,
            }
        )
    return entries
