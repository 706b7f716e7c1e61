"""Boxes from files of others, and the squares that are cut around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.data.boxes import CutBoxd
from monai_ext.data.pascal_voc import Box, read_boxes


def voc(*objects: str, start: str = "") -> str:
    return f"{start}<annotation><size><width>9</width></size>{''.join(objects)}</annotation>"


def described(corners: str, name: str = "<name>RBC</name>") -> str:
    found = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners.split(","))
    )
    return f"<object>{name}<bndbox>{found}</bndbox></object>"


@pytest.mark.parametrize(
    ("content", "boxes"),
    [
        (voc(), []),
        (voc(described("1,2,30,40"), described("0,0,5,5", "<name> WBC\n</name>")), ["RBC", "WBC"]),
        (voc(described(" 1.4 ,2, 29.6,40.0")), ["RBC"]),
        (voc(described("1,2,30,40", "<part><name>head</name></part><name>RBC</name>")), ["RBC"]),
        (voc(described("1,2,30,40", "")), [""]),
        (voc(described("1,2,30,40", "<name>Größe &lt;1&gt;</name>")), ["Größe <1>"]),
        (voc(described("1,2,30,40"), start='\ufeff<?xml version="1.0" encoding="UTF-8"?><!-- by hand -->'), ["RBC"]),
    ],
)
def test_files_of_pascal_voc(tmp_path: Path, content: str, boxes: list[str]) -> None:
    path = tmp_path / "a.xml"
    path.write_text(content, encoding="utf-8")
    found = read_boxes(path)
    assert [box.name for box in found] == boxes
    assert found[:1] == [Box(name, (1, 2, 30, 40)) for name in boxes[:1]] and not any(box.empty for box in found)


def test_order_of_the_corners_and_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    corners = "<ymax>4</ymax><xmax>3</xmax><ymin>2</ymin><xmin>1</xmin>"
    declared = '<?xml version="1.0" encoding="{}"?>'
    for encoding in ("iso-8859-1", "utf-16"):
        text = voc(f"<object><name>Zölle</name><bndbox>{corners}</bndbox></object>", start=declared.format(encoding))
        path.write_bytes(text.encode(encoding))
        assert read_boxes(path) == [Box("Zölle", (1, 2, 3, 4))]


@pytest.mark.parametrize(("corners", "empty"), [((1, 1, 2, 2), False), ((3, 1, 3, 5), True), ((1, 5, 4, 2), True)])
def test_boxes_without_area(corners: tuple[int, ...], empty: bool) -> None:
    assert Box("x", corners).empty == empty


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no XML"),
        ("no xml", "is no XML"),
        (voc(described("1,2,3,4"))[:-9], "is no XML"),
        (voc(start='<?xml version="1.0" encoding="klingon"?>'), "is no XML"),
        (voc(start='<?xml version="1.0" encoding="utf-32"?>'), "is no XML"),
        ("<html><object/></html>", "no file of Pascal VOC: it begins with <html>"),
        (voc(described("1,2,3,4"), described("1,2,3")), r"object 2 \(RBC\) has no xmin, ymin, xmax, ymax"),
        (voc("<object><name>RBC</name></object>"), r"object 1 \(RBC\) has no xmin"),
        (voc(described("1,2,x,4", "")), r"object 1 \(without a name\) has no xmin"),
        (voc(described("1,2,,4")), "has no xmin"),
        (voc(described("1,2,inf,4")), "has no xmin"),
        (voc(described("1,2,nan,4")), "has no xmin"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"a\.xml.*{words}"):
        read_boxes(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_boxes(path)


# cutting


def plain(image: np.ndarray, box: tuple[int, ...], margin: float) -> np.ndarray:
    """The picture with a wide border that repeats its edge, then the square out of that."""
    side = round(max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin))
    border = 99
    wide = np.pad(image, ((0, 0), (border, border), (border, border)), mode="edge")
    first = [border + round((low + high - side) / 2) for low, high in zip(box[:2], box[2:])]
    return wide[:, first[0] : first[0] + side, first[1] : first[1] + side]


def picture(width: int = 11, height: int = 7, channels: int = 3) -> torch.Tensor:
    return torch.rand(channels, width, height, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.37, 1.0])
@pytest.mark.parametrize(
    "box",
    [
        (2, 1, 5, 4),  # a square inside
        (1, 2, 9, 5),
        (3, 0, 4, 7),
        (4, 2, 9, 4),
        (0, 0, 11, 7),
        (10, 6, 11, 7),  # a pixel
        (-3, -2, 4, 5),
        (8, 3, 15, 9),
        (-5, 2, 20, 3),
        (-30, -30, 1, 1),
    ],
    ids=str,
)
def test_squares(box: tuple[int, ...], margin: float) -> None:
    image = picture()
    found = CutBoxd("image", margin=margin)({"image": image, "box": list(box)})["image"]
    np.testing.assert_array_equal(found.numpy(), plain(image.numpy(), box, margin))
    x0, y0, x1, y1 = (max(0, value) for value in box)
    whole = image[:, x0:x1, y0:y1]
    assert found.shape[1] == found.shape[2] and torch.isin(whole, found).all(), "the whole box is in it"


@pytest.mark.parametrize("size", [(11, 7), (7, 11), (5, 5), (1, 6)], ids=str)
def test_a_whole_picture_becomes_a_square(size: tuple[int, int]) -> None:
    image = picture(*size)
    found = CutBoxd("image")({"image": image})["image"]
    np.testing.assert_array_equal(found.numpy(), plain(image.numpy(), (0, 0, *size), 0))
    assert found.shape == (3, max(size), max(size))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float64])
def test_values_and_meta_data_are_kept(dtype: torch.dtype) -> None:
    values = (picture() * 2**30).to(dtype) if dtype != torch.uint8 else (picture() * 255).to(dtype)
    image = MetaTensor(values, meta={"filename_or_obj": "a.png", "full_scale": 255.0})
    for box in ((2, 1, 5, 4), (-3, -2, 4, 5)):
        found = CutBoxd("image")({"image": image, "box": box, "label": 1})
        assert found["label"] == 1 and found["box"] == box
        assert isinstance(found["image"], MetaTensor) and found["image"].dtype == dtype
        assert found["image"].meta["filename_or_obj"] == "a.png" and found["image"].meta["full_scale"] == 255
        np.testing.assert_array_equal(found["image"].numpy(), plain(values.numpy(), box, 0))


@pytest.mark.parametrize("size", [4, (4, 2), (24, 30)])
def test_resampling(size: int | tuple[int, int]) -> None:
    """What is even stays even up to the edge; a smaller picture has the means of the larger one's parts."""
    even = MetaTensor(torch.full((3, 11, 7), 200.0), meta={"filename_or_obj": "a.png"})
    cut = CutBoxd("image", size=size)
    found = cut({"image": even, "box": (-2, 1, 10, 5)})["image"]
    assert found.shape == (3, *((size, size) if isinstance(size, int) else size))
    torch.testing.assert_close(found.as_tensor(), torch.full(found.shape, 200.0))
    assert found.meta["filename_or_obj"] == "a.png"
    halves = torch.zeros(1, 8, 8)
    halves[:, 4:] = 1
    found = cut({"image": halves})["image"]
    torch.testing.assert_close(found, found.flip(1).neg() + 1)
    assert found[0, 0].max() < 0.1 and (found.diff(dim=1) >= -1e-6).all()
    assert found.mean() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("image", "box", "words"),
    [
        (picture(), (3, 2, 3, 6), r"the box \(3, 2, 3, 6\) has no area; leave it out"),
        (picture(), (5, 2, 3, 6), "has no area"),
        (picture(), (11, 2, 13, 6), "lies outside of 11 x 7 pixels"),
        (picture(), (2, -9, 5, 0), "lies outside of 11 x 7 pixels"),
        (picture(), (2, 9, 5), r"a box is xmin, ymin, xmax, ymax, got \(2, 9, 5\)"),
        (torch.zeros(1, 4, 4, 4), None, "3 spatial dimensions, boxes are cut out of pictures"),
    ],
)
def test_boxes_that_cannot_be_cut(image: torch.Tensor, box: tuple[int, ...] | None, words: str) -> None:
    named = MetaTensor(image, meta={"filename_or_obj": "b.png"})
    with pytest.raises(ValueError, match=rf"the image b\.png.*{words}"):
        CutBoxd("image")({"image": named, "box": box})
    with pytest.raises(ValueError, match=r"margin must not be negative, got -0\.1"):
        CutBoxd("image", margin=-0.1)


def test_a_missing_key() -> None:
    assert CutBoxd("image", allow_missing_keys=True)({"box": (0, 0, 1, 1)}) == {"box": (0, 0, 1, 1)}
    with pytest.raises(KeyError):
        CutBoxd("image")({})
