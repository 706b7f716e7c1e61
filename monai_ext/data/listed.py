"""Data lists that a bundle carries: the cases of someone's own data, with their split.

The file has the form of the Medical Segmentation Decathlon's `dataset.json`, with the keys `training`, `validation`,
`test` and `unlabelled`; paths are relative to `folder`, where the data were when the list was made.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from monai_ext.data.image_list import images_in

__all__ = ["SECTIONS", "ImagesOfList", "channel_groups", "folder_of", "listed"]

# what a split is called in the file
SECTIONS = {"train": "training", "validation": "validation", "test": "test", "unlabelled": "unlabelled"}

_CHANNEL = re.compile(r"(.+)_(\d{4})((?:\.\w+)+)")


def folder_of(path: str | os.PathLike) -> str:
    """The folder that the paths of a list start from.

    Raises:
        FileNotFoundError, ValueError: no such list, or a broken one.
    """
    return _read(path)["folder"]


def listed(path: str | os.PathLike, root: str | os.PathLike, split: str) -> list[dict[str, Any]]:
    """The entries of a split ("all" for the labelled ones together), with whole paths below ``root``.

    Args:
        path: the list.
        root: the folder that holds the data now.
        split: train, validation, test, unlabelled or all.

    Raises:
        FileNotFoundError: no such list.
        ValueError: an unknown split, or one without cases.
    """
    content = _read(path)
    if split not in (*SECTIONS, "all"):
        raise ValueError(f"unknown split {split!r}: known are {', '.join(SECTIONS)} and all.")
    names = [name for name in SECTIONS if name != "unlabelled"] if split == "all" else [split]
    entries = [_placed(entry, Path(root).expanduser()) for name in names for entry in content.get(SECTIONS[name], [])]
    if not entries:
        counts = ", ".join(f"{name} {len(content.get(section, []))}" for name, section in SECTIONS.items())
        raise ValueError(f"{path} has no case in the split {split!r} ({counts}); choose another one with --split.")
    return entries


class ImagesOfList(Sequence[Any]):
    """What to run inference on: a folder of images, or, where that is a list's own folder, the list's images.

    Those of the list are the unlabelled and the test images, and all where it has none of them. Nothing is looked at
    before it is asked for.

    Args:
        path: the list.
        root: a file or folder as in ``images_in``; the list's own folder means the list.
        spatial_dims: as in ``images_in``.
        channel_files: files of one image that have its channels, ``<case>_0000`` and so on; then an entry is a list.
    """

    def __init__(
        self, path: str | os.PathLike, root: str | os.PathLike, spatial_dims: int = 3, channel_files: int = 1
    ) -> None:
        self.path = path
        self.root = Path(root).expanduser()
        self.spatial_dims = spatial_dims
        self.channel_files = channel_files

    @cached_property
    def _found(self) -> list[Any]:
        if self.root.is_dir() and self.root.resolve() == Path(folder_of(self.path)).resolve():
            content = _read(self.path)
            sections = [content.get(SECTIONS[name], []) for name in ("unlabelled", "test", "validation", "train")]
            chosen = sections[0] + sections[1] or sections[2] + sections[3]
            return [_placed({"image": entry["image"]}, self.root)["image"] for entry in chosen]
        found = images_in(self.root, self.spatial_dims)
        if self.channel_files == 1:
            return found
        groups = channel_groups(found)
        wrong = next((name for name, files in groups.items() if len(files) != self.channel_files), None)
        if wrong is not None:
            raise ValueError(
                f"{wrong} has {len(groups[wrong])} file(s), an image needs {self.channel_files}, one a channel: "
                "<case>_0000, <case>_0001 and so on."
            )
        return list(groups.values())

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._found[index]


def channel_groups(files: Sequence[str]) -> dict[str, list[str]]:
    """Files by what stands before the channel's number, ``_0000`` and so on; a file without one is a group itself."""
    groups: dict[str, list[str]] = {}
    for file in sorted(files):
        match = _CHANNEL.fullmatch(Path(file).name)
        key = str(Path(file).with_name(match.group(1))) if match else file
        groups.setdefault(key, []).append(file)
    return groups


def _placed(entry: dict[str, Any], root: Path) -> dict[str, Any]:
    whole = dict(entry)
    for key in ("image", "label"):
        value = entry.get(key)
        if isinstance(value, str):
            whole[key] = str(root / value)
        elif isinstance(value, list) and value and isinstance(value[0], str):
            whole[key] = [str(root / part) for part in value]
    return whole


def _read(path: str | os.PathLike) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no data list {path}; the bundle is not whole, make it again.") from error
    except ValueError as error:
        raise ValueError(f"the data list {path} is not JSON: {error}.") from error
    if not isinstance(content, dict) or "folder" not in content:
        raise ValueError(f"the data list {path} has no 'folder', where its paths start; make it again.")
    return content
