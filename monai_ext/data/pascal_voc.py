"""Boxes around the objects of a picture, from files of Pascal VOC (XML)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CORNERS", "Box", "read_boxes"]

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class Box:
    """An object's name and corners in pixels: xmin, ymin, xmax, ymax."""

    name: str
    corners: tuple[int, int, int, int]

    @property
    def empty(self) -> bool:
        x0, y0, x1, y1 = self.corners
        return x1 <= x0 or y1 <= y0


def read_boxes(path: str | Path) -> list[Box]:
    """The objects of a file of Pascal VOC, in its order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or not of this format.
    """
    try:
        root = ElementTree.fromstring(Path(path).read_bytes())
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: an unknown encoding
        raise ValueError(f"{path} is no XML ({error}); fetch it again.") from error
    if root.tag != "annotation":
        raise ValueError(f"{path} is no file of Pascal VOC: it begins with <{root.tag}>, not with <annotation>.")
    boxes = []
    for number, found in enumerate(root.findall("object"), start=1):
        name = (found.findtext("name") or "").strip()
        try:
            corners = tuple(round(float(found.findtext(f"bndbox/{corner}") or "")) for corner in CORNERS)
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{path}: object {number} ({name or 'without a name'}) has no {', '.join(CORNERS)}."
            ) from error
        boxes.append(Box(name, corners))  # type: ignore[arg-type]
    return boxes
