"""What a check finds wrong with boxes and with archives of arrays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import load_manifest
from monai_ext.data.check import Report, check_dataset

CELLS, GLANDS = "bccd", "adrenalmnist3d"
ARCHIVE = "adrenalmnist3d_64.npz"


@pytest.fixture
def smears(smear_phantom: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(smear_phantom, tmp_path / "bccd")


@pytest.fixture
def glands(gland_phantom: Path, tmp_path: Path) -> Path:
    """Tiny shapes instead of the phantom's, to be damaged."""
    folder = tmp_path / "adrenalmnist3d"
    folder.mkdir()
    shutil.copy(gland_phantom / "dataset.json", folder)
    random = np.random.default_rng(0)
    arrays = {}
    for part, number in (("train", 3), ("val", 2), ("test", 2)):
        arrays[f"{part}_images"] = random.integers(0, 2, (number, 5, 6, 4), np.uint8)
        arrays[f"{part}_labels"] = np.arange(number, dtype=np.uint8)[:, None] % 2
    np.savez(folder / ARCHIVE, **arrays)
    return folder


def kinds(report: Report) -> list[tuple[str, str, bool]]:
    return [(finding.case, finding.kind, finding.warning) for finding in report.findings]


# boxes


def repainted(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], object]:
    return lambda image, boxes: Image.fromarray(change(np.asarray(Image.open(image)))).save(image)


def reworded(old: str, new: str) -> Callable[[Path, Path], object]:
    def change(_: Path, boxes: Path) -> None:
        text = boxes.read_text()
        assert old in text
        boxes.write_text(text.replace(old, new, 1))

    return change


DAMAGED_BOXES: dict[str, tuple[Callable[[Path, Path], object], str, bool, str]] = {
    "no boxes": (lambda image, boxes: boxes.unlink(), "missing", False, "the label is missing"),
    "no picture": (lambda image, boxes: image.unlink(), "missing", False, "the image is missing"),
    "half a file": (
        lambda image, boxes: boxes.write_text(boxes.read_text()[:300]),
        "unreadable",
        False,
        "boxes BloodImage_00001.xml",
    ),
    "another format": (
        lambda image, boxes: boxes.write_text("<html></html>"),
        "unreadable",
        False,
        "begins with <html>",
    ),
    "no corner": (reworded("<ymin>", "<ymid>"), "unreadable", False, "is no XML"),
    "nothing in it": (
        lambda image, boxes: boxes.write_text("<annotation></annotation>"),
        "empty label",
        True,
        "no box",
    ),
    "unknown name": (
        reworded("<name>WBC<", "<name>wbc<"),
        "label range",
        False,
        "box 1 is called 'wbc': the classes are called RBC, WBC, Platelets",
    ),
    "without area": (
        reworded("<xmin>", "<xmin>9"),
        "empty box",
        True,
        "has no area: it is passed over",
    ),
    "beyond the edge": (
        reworded("<xmax>", "<xmax>9"),
        "outside",
        True,
        "leaves the picture of 240 x 180 pixels",
    ),
    "before the edge": (reworded("<ymin>", "<ymin>-"), "outside", True, "leaves the picture"),
    "grey": (repainted(lambda picture: picture[..., 1]), "channels", False, "has 1 channels: expected 3"),
    "constant": (repainted(lambda picture: picture * 0), "constant", False, "every voxel of the image is 0"),
}


@pytest.mark.parametrize("damage", DAMAGED_BOXES)
def test_each_damage_of_boxes_is_the_one_thing_reported(smears: Path, damage: str) -> None:
    act, kind, warning, message = DAMAGED_BOXES[damage]
    case = "BloodImage_00001"
    act(smears / "JPEGImages" / f"{case}.jpg", smears / "Annotations" / f"{case}.xml")
    report = check_dataset(CELLS, smears, progress=False)
    assert kinds(report) == [(case, kind, warning)], report.table()
    assert message in report.findings[0].message and report.ok == warning


def test_foreign_files_and_cases_in_no_split(smears: Path) -> None:
    shutil.copy(smears / "Annotations/BloodImage_00001.xml", smears / "Annotations/BloodImage_1.xml")
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        shutil.copy(smears / folder / f"BloodImage_00001.{suffix}", smears / folder / f"BloodImage_99999.{suffix}")
    assert kinds(check_dataset(CELLS, smears, progress=False)) == [
        ("BloodImage_1.xml", "foreign", True),
        ("BloodImage_99999", "no split", True),
    ]


# rows


def with_row(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda arrays: arrays.update({name: change(arrays[name])})


def spoilt(array: np.ndarray, row: int, value: float) -> np.ndarray:
    array = array.astype(float)
    array[row] = value
    return array


TRAIN = [f"train_images_{row:04d}" for row in range(3)]
DAMAGED_ROWS: dict[str, tuple[Callable[[dict[str, np.ndarray]], object], list[str], str, str]] = {
    "label out of range": (
        with_row("train_labels", lambda a: spoilt(a, 1, 7)),
        TRAIN[1:2],
        "label range",
        "row 1 of train_labels is [7.0], the classes are 0, 1",
    ),
    "one-hot labels": (
        with_row("train_labels", lambda a: np.eye(2)[a[:, 0]]),
        TRAIN,
        "label range",
        "the classes are 0, 1",
    ),
    "pictures": (
        with_row("train_images", lambda a: a[..., 0]),
        TRAIN,
        "dimensions",
        "image is 5 x 6: expected 3 dimensions",
    ),
    "colour": (with_row("train_images", lambda a: np.stack([a] * 3, -1)), TRAIN, "dimensions", "5 x 6 x 4 x 3"),
    "constant": (with_row("train_images", lambda a: spoilt(a, 2, 1)), TRAIN[2:], "constant", "is 1"),
    "NaN": (with_row("train_images", lambda a: spoilt(a, 0, np.nan)), TRAIN[:1], "not finite", "120 of 120 voxels"),
    "text": (with_row("train_images", lambda a: a.astype(str)), TRAIN, "unreadable", "not numbers"),
    "too few images": (with_row("train_images", lambda a: a[:2]), TRAIN[2:], "unreadable", "has no row 2"),
    "too few labels": (
        with_row("train_labels", lambda a: a[:1]),
        ["train_images"],
        "missing",
        "2 of 3 images have no label",
    ),
    "no images": (
        lambda arrays: arrays.pop("train_images"),
        TRAIN,
        "unreadable",
        "there is no array 'train_images' in it",
    ),
    "no labels": (
        lambda arrays: arrays.pop("val_labels"),
        [ARCHIVE],
        "unreadable",
        "there is no array 'val_labels' in it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED_ROWS)
def test_each_damage_of_rows_is_the_one_thing_reported(glands: Path, damage: str) -> None:
    act, cases, kind, message = DAMAGED_ROWS[damage]
    with np.load(glands / ARCHIVE) as archive:
        arrays = {name: archive[name] for name in archive.files}
    act(arrays)
    np.savez(glands / ARCHIVE, **arrays)
    report = check_dataset(GLANDS, glands, progress=False)
    assert kinds(report) == [(case, kind, False) for case in cases], report.table()
    assert all(message in finding.message for finding in report.findings) and not report.ok


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 99], ids=["empty", "text"])
def test_a_damaged_archive_is_reported(glands: Path, content: bytes) -> None:
    assert not check_dataset(GLANDS, glands, progress=False).findings
    (glands / ARCHIVE).write_bytes(content)
    report = check_dataset(GLANDS, glands, progress=False)
    assert kinds(report) == [(ARCHIVE, "unreadable", False)] and report.counts["present"] == 0
    assert report.counts["absent"] == report.counts["official"] == load_manifest(GLANDS).cases
    (glands / ARCHIVE).unlink()
    with pytest.raises(FileNotFoundError, match=r"is not in .*no adrenalmnist3d/adrenalmnist3d_64\.npz"):
        check_dataset(GLANDS, glands, progress=False)
