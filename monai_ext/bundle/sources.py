"""Cases whose labels are no files beside the images: a folder a class, a table, a data list."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from monai_ext.bundle.pairing import Case, Pairs, images_below
from monai_ext.data.case_name import names_of, stem
from monai_ext.data.check_case import Finding, some

GROUP_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id", "group")
NAME_COLUMNS = ("image", "name", "file", "filename", "file_name", "image_name", "image_id", "path", "case", "id")
CLASS_COLUMNS = ("label", "class", "target", "diagnosis", "category", "class_name", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "fold")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def cases_of_folders(images: Path, slices: bool = False) -> Pairs:
    """The class of an image is the first folder below `images`, or the second where the first is train, val or test.

    Raises:
        ValueError: images outside of such folders, or a single class.
    """
    found, other = images_below(images, slices)
    findings = [
        Finding(f"*{kind}", "passed over", f"{number} files ({kind}) are of a kind that is not read", warning=True)
        for kind, number in sorted(other.items())
    ]
    if not found:
        raise FileNotFoundError(f"no image in {images}; put the images of each class into a folder of its own.")
    parts = {path: path.relative_to(images).parts for path in found}
    by_split = all(part[0].lower() in SPLIT_NAMES and len(part) > 2 for part in parts.values() if part)
    depth = 1 if by_split else 0
    loose = [path for path, part in parts.items() if len(part) < depth + 2]
    if loose:
        raise ValueError(
            f"{len(loose)} images lie in no folder of a class, the first is {loose[0]}; put the images of each class "
            "into a folder of its own, or give --labels-csv FILE with a name and a class in each row."
        )
    names = names_of([str(path) for path in found])
    cases = [
        Case(names[str(path)], (path,), part[depth], split=SPLIT_NAMES[part[0].lower()] if by_split else None)
        for path, part in parts.items()
    ]
    return Pairs(cases, "the folder of an image is its class", findings)


def cases_of_table(images: Path, table: Path, slices: bool = False) -> Pairs:
    """Classes from a CSV file: a column with the image's name, or path, and one with the class; perhaps a patient.

    Raises:
        FileNotFoundError: no table, no image.
        ValueError: columns that cannot be told apart, or names that no image has.
    """
    columns, rows = _rows(table)
    found, _ = images_below(images, slices)
    if not found:
        raise FileNotFoundError(f"no image in {images}; give --images the folder that holds them.")
    places: dict[str, list[Path]] = {}
    for path in found:
        below = path.relative_to(images).as_posix()
        for key in {below, path.name, stem(path.name), below[: len(below) - len(path.name)] + stem(path.name)}:
            places.setdefault(key, []).append(path)
    name = _column(columns, NAME_COLUMNS) or max(columns, key=lambda c: sum(row[c] in places for row in rows))
    label = _column([c for c in columns if c != name], CLASS_COLUMNS)
    group, split = _column(columns, GROUP_COLUMNS), _column(columns, SPLIT_COLUMNS)
    if label is None:
        rest = [column for column in columns if column not in (name, group, split)]
        if len(rest) != 1:
            raise ValueError(
                f"the table {table} has the columns {', '.join(columns)}: call that of the image 'image' "
                "and that of the class 'label'."
            )
        (label,) = rest
    findings, cases, seen = [], [], set()
    words = {row[split] for row in rows} if split else set()
    if words and not any(word.lower() in SPLIT_NAMES for word in words):  # such as the numbers of folds
        message = f"holds {some(sorted(words))}, none of {', '.join(SPLIT_NAMES)}: cases are split anew"
        findings.append(Finding(f"column {split!r}", "passed over", message, warning=True))
        split = None
    names = names_of([str(path) for path in found])
    for number, row in enumerate(rows, start=2):
        files = places.get(row[name], [])
        if len(files) != 1:
            why = "no image is called so" if not files else f"{len(files)} images are called so"
            findings.append(
                Finding(row[name] or f"row {number}", "unpaired", f"{table.name} row {number}: {why}", True)
            )
            continue
        if files[0] in seen:
            message = f"{table.name} row {number}: the image stands in two rows; keep one"
            findings.append(Finding(row[name], "duplicate name", message))
            continue
        seen.add(files[0])
        said = SPLIT_NAMES.get(row[split].lower()) if split else None
        if split and row[split] and said is None:
            message = f"{table.name} row {number}: the split {row[split]!r} is none of {', '.join(SPLIT_NAMES)}"
            findings.append(Finding(row[name], "unknown split", message))
        cases.append(Case(names[str(files[0])], (files[0],), row[label] or None, row[group] if group else None, said))
    if not cases:
        raise ValueError(
            f"no row of {table} names an image in {images}: its column {name!r} holds "
            f"{some([r[name] for r in rows], 3)}, the images are {some([path.name for path in found], 3)}."
        )
    cases += [Case(names[str(path)], (path,)) for path in found if path not in seen]
    return Pairs(sorted(cases, key=lambda case: case.name), f"{table.name}: {name!r} names the image", findings)


def cases_of_datalist(path: Path, images: Path | None) -> Pairs:
    """The cases of a data list in the Decathlon's form; its paths start at `images`, else at the list's own folder.

    An entry of a patient (`patient`, `subject`, `group`) stays with the others of that patient; where the list has
    `validation` or `test` with labels, its splits are kept.

    Raises:
        FileNotFoundError: no list, or files that are not there.
        ValueError: not in the Decathlon's form.
    """
    content = _json(path)
    root = images or path.resolve().parent
    sections = {key: SPLIT_NAMES[key.lower()] for key in content if key.lower() in SPLIT_NAMES}
    if not any(split == "train" for split in sections.values()):
        raise ValueError(f"the data list {path} has no 'training', it has {some(map(str, content))}.")
    cases, missing = [], []
    own = {split for key, split in sections.items() if any(isinstance(e, dict) and "label" in e for e in content[key])}
    for key, split in sections.items():
        for entry in content[key]:
            entry = {"image": entry} if isinstance(entry, (str, list)) else entry
            if not isinstance(entry, dict) or "image" not in entry:
                raise ValueError(f"the data list {path} has an entry without 'image' in {key!r}: {str(entry)[:80]}.")
            files = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
            found = tuple(_place(root, file) for file in files)
            label: Any = entry.get("label")
            if isinstance(label, list):
                raise ValueError(f"the data list {path} has several labels for {files[0]}; give one.")
            if isinstance(label, str) and _place(root, label).exists():
                label = _place(root, label)
            elif isinstance(label, str) and ("/" in label or Path(label).suffix in (".gz", ".nii", ".png", ".tif")):
                missing.append(str(label))
            elif isinstance(label, (int, float)):
                label = f"{label:g}"
            missing += [str(file) for file in found if not file.exists()]
            group = next((str(entry[name]) for name in GROUP_COLUMNS if name in entry), None)
            said = split if label is not None and len(own) > 1 else None
            cases.append(Case(stem(str(found[0].name)), found, label, group, said))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} files of the data list {path} are not there, the first is {missing[0]}; "
            "give --images the folder that its paths start from."
        )
    names = names_of([str(case.images[0]) for case in cases])
    cases = [Case(names[str(c.images[0])], c.images, c.label, c.group, c.split) for c in cases]
    twice = [files for files, times in Counter(case.images for case in cases).items() if times > 1]
    cases = list({case.images: case for case in reversed(cases)}.values())
    findings = [
        Finding(one[0].name, "duplicate name", f"{one[0]} stands twice in {path.name}; keep one") for one in twice
    ]
    return Pairs(sorted(cases, key=lambda case: case.name), f"the data list {path.name}", findings)


def names_from_description(folders: list[Path]) -> dict[int, str]:
    """What a `dataset.json` in one of the folders calls the classes, in the Decathlon's or nnU-Net's form."""
    for folder in folders:
        try:
            labels = _json(folder / "dataset.json").get("labels", {})
        except (OSError, ValueError):
            continue
        pairs = [(key, value) if str(key).isdigit() else (value, key) for key, value in dict(labels).items()]
        if pairs and all(str(number).isdigit() for number, _ in pairs):
            return {int(number): str(name) for number, name in pairs}
    return {}


def _place(root: Path, file: str) -> Path:
    path = Path(file).expanduser()
    return path if path.is_absolute() else root / path


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no data list {path}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not in the Decathlon's form: a JSON object with 'training'.")
    return content


def _rows(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no table {table} (--labels-csv).") from error
    except ValueError as error:
        raise ValueError(f"the table {table} is not in UTF-8; save it as CSV in UTF-8.") from error
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    rows = [
        {str(key).strip(): (value or "").strip() for key, value in row.items() if key}
        for row in csv.DictReader(text.splitlines(), delimiter=separator)
    ]
    if not rows or len(rows[0]) < 2:
        raise ValueError(f"the table {table} needs a first row with names of columns, and at least two columns.")
    return list(rows[0]), rows


def _column(columns: list[str], usual: tuple[str, ...]) -> str | None:
    by_name = {column.lower().replace(" ", "_"): column for column in columns}
    return next((by_name[name] for name in usual if name in by_name), None)
