"""What a case is called: the name of the file its image came from, in results and in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from monai_ext.data.pictures import PICTURE_SUFFIXES
from monai_ext.data.rows import parse_row

__all__ = ["case_name", "file_of", "group_name", "name_of", "names_of", "stem"]

_SUFFIXES = (".nii.gz", ".nii", ".dcm", ".dicom", ".ima", ".mha", ".nrrd", ".npy", *PICTURE_SUFFIXES)


def case_name(image: Any, default: str = "case") -> str:
    """The name of the file an image was loaded from, without its suffix."""
    file = file_of(image)
    return stem(file) if file else default


def file_of(image: Any) -> str | None:
    """The file an image was loaded from, as far as the image knows."""
    return image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None


def name_of(key: Hashable, image: Any) -> str:
    """The key and the file that it was loaded from, for messages."""
    file = file_of(image)
    return f"the {key} {file}" if file else f"the {key}"


def stem(file: str) -> str:
    """The last part of a path, without the suffix of an image, in upper or lower case; array and row of a row."""
    row = parse_row(file)
    if row is not None:
        return row.case
    name = Path(file).name
    suffix = next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def names_of(files: Sequence[str]) -> dict[str, str]:
    """What each of different files is called in a table: its stem, and more of its path where others share that."""
    names = {file: stem(file) for file in files}
    # slice.nii.gz beside slice.dcm; image.nii.gz in a folder for each case
    for longer in (lambda file: Path(file).name, lambda file: f"{Path(file).parent.name}/{stem(file)}", str):
        counts = Counter(names.values())
        names |= {file: longer(file) for file, name in names.items() if counts[name] > 1}
    return names


def group_name(item: Mapping[Hashable, Any], key: Hashable | None) -> str:
    """An entry of an item as text, numbers as short as can be; empty without a key.

    Raises:
        ValueError: the item has no such entry.
    """
    if key is None:
        return ""
    if key not in item:
        raise ValueError(f"the item has no {key!r}, named by group_key; it has {sorted(map(str, item))}.")
    value = item[key]
    return value if isinstance(value, str) else f"{float(value):g}"
