"""Made-up stained blood smears: red cells, white cells and platelets with their boxes, in the layout of BCCD.

Sizes, colours and frequencies follow what the real pictures show. Lengths are in pixels of a picture 640 wide,
whatever the width that is drawn. Arrays begin with the height.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from monai_ext.data.pascal_voc import CORNERS, Box

WIDTH, HEIGHT = 640, 480
# red, green, blue
_PLASMA, _RED, _PALE = (226, 219, 212), (205, 150, 145), (222, 196, 190)
_CYTOPLASM, _NUCLEUS, _GRANULE = (190, 165, 195), (108, 66, 140), (138, 92, 156)


def draw_smear(rng: np.random.Generator, _case: str, size: int) -> tuple[np.ndarray, list[Box]]:
    """A picture [H, W, 3], uint8, and the boxes of its cells; `size` is the width."""
    scale = size / WIDTH
    shape = (max(1, round(HEIGHT * scale)), size)
    y, x = (np.indices(shape) + 0.5) / scale
    picture = np.array(_PLASMA) + 6 * gaussian_filter(rng.standard_normal(shape), 40 * scale)[..., None]
    kinds = ["WBC"] * rng.choice([1, 1, 1, 2]) + ["Platelets"] * rng.integers(1, 3) + ["RBC"] * rng.integers(7, 15)
    placed: list[tuple[float, float, float]] = []
    boxes = []
    for kind in kinds:
        radius = {"WBC": rng.uniform(75, 110), "RBC": rng.uniform(46, 58), "Platelets": rng.uniform(15, 24)}[kind]
        centre = _free_place(rng, placed, radius)
        if centre is None:
            continue
        placed.append((*centre, radius))
        outline = _outline(rng, x - centre[0], y - centre[1], radius)
        _DRAWN[kind](rng, picture, x - centre[0], y - centre[1], outline, radius)
        inside = np.argwhere(outline < 1)
        if len(inside):
            (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
            jitter = np.round(rng.uniform(-3, 3, 4) * scale).astype(int)  # nobody draws a box exactly
            corners = np.clip([left, top, right, bottom] + jitter, 0, [size, shape[0], size, shape[0]])
            boxes.append(Box(kind, tuple(int(value) for value in corners)))
    picture = gaussian_filter(picture, (1.2 * scale, 1.2 * scale, 0)) * rng.uniform(0.92, 1.05, 3)
    picture = picture + rng.normal(0, 3, (*shape, 1))
    return np.clip(picture, 0, 255).round().astype(np.uint8), [box for box in boxes if not box.empty]


def save_smear(folder: Path, case: str, drawn: tuple[np.ndarray, list[Box]], _rng: np.random.Generator) -> dict:
    """Writes a picture and its boxes as the official data set does, and gives the files' names."""
    picture, boxes = drawn
    names = {"image": f"JPEGImages/{case}.jpg", "label": f"Annotations/{case}.xml"}
    for name in names.values():
        (folder / name).parent.mkdir(exist_ok=True)
    Image.fromarray(picture).save(folder / names["image"], quality=92, subsampling=0)
    height, width = picture.shape[:2]
    objects = "".join(
        f"  <object>\n    <name>{escape(box.name)}</name>\n    <bndbox>\n"
        + "".join(f"      <{corner}>{value}</{corner}>\n" for corner, value in zip(CORNERS, box.corners))
        + "    </bndbox>\n  </object>\n"
        for box in boxes
    )
    (folder / names["label"]).write_text(
        f"<annotation>\n  <filename>{case}.jpg</filename>\n  <size>\n    <width>{width}</width>\n"
        f"    <height>{height}</height>\n    <depth>3</depth>\n  </size>\n{objects}</annotation>\n",
        encoding="utf-8",
    )
    return names


def _free_place(rng: np.random.Generator, placed: list[tuple[float, float, float]], radius: float) -> np.ndarray | None:
    """Where a cell touches others but a little, and leaves the picture by a third of its width at most."""
    for _ in range(40):
        centre = rng.uniform([radius / 3, radius / 3], [WIDTH - radius / 3, HEIGHT - radius / 3])
        if all(np.hypot(*(centre - other[:2])) > 0.85 * (radius + other[2]) for other in placed):
            return centre
    return None


def _outline(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance from the centre over that of the cell's edge, which waves a little."""
    angle = np.arctan2(y, x)
    edge = 1 + sum(rng.uniform(0, 0.05) * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 5))
    return np.hypot(x, y) / (radius * edge)


def _blend(picture: np.ndarray, colour: tuple[int, ...], share: np.ndarray) -> None:
    picture += share[..., None] * (np.array(colour) - picture)


def _soft(outline: np.ndarray, width: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip((outline - 1) / width, -30, 30)))


def _red_cell(rng, picture, x, y, outline, radius) -> None:
    _blend(picture, _RED, 0.9 * _soft(outline, 0.03))
    pallor = np.exp(-((outline / rng.uniform(0.35, 0.5)) ** 2))  # a disc that is thin in its middle
    _blend(picture, _PALE, rng.uniform(0.3, 0.8) * pallor * (outline < 1))


def _white_cell(rng, picture, x, y, outline, radius) -> None:
    _blend(picture, _CYTOPLASM, 0.85 * _soft(outline, 0.04))
    for _ in range(rng.integers(2, 5)):  # the lobes of the nucleus
        shift, turn = rng.uniform(0, 0.4) * radius, rng.uniform(0, 2 * np.pi)
        lobe = np.hypot(x - shift * np.cos(turn), y - shift * np.sin(turn)) / (radius * rng.uniform(0.3, 0.5))
        _blend(picture, _NUCLEUS, 0.9 * _soft(lobe, 0.06) * (outline < 1))


def _platelet(rng, picture, x, y, outline, radius) -> None:
    _blend(picture, _GRANULE, 0.8 * _soft(outline, 0.15))


_DRAWN = {"RBC": _red_cell, "WBC": _white_cell, "Platelets": _platelet}
