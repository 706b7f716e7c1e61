"""Data sets to classify, boxes of pictures and rows of arrays: manifest, phantom, data list, and the real ones."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from monai_ext.data import case_counts, datalist, load_manifest
from monai_ext.data.check import check_dataset
from monai_ext.data.pascal_voc import read_boxes
from monai_ext.data.phantom import PHANTOMS, draw_phantom
from monai_ext.data.rows import array_lengths, read_array, read_row

CELLS, GLANDS = "bccd", "adrenalmnist3d"
SPLITS = ("train", "validation", "test")
each_dataset = pytest.mark.parametrize(("name", "fixture"), [(CELLS, "smear_phantom"), (GLANDS, "gland_phantom")])


@pytest.fixture
def smears(smear_phantom: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(smear_phantom, tmp_path / "bccd")


# manifests


def test_cells_are_what_trained_weights_were_chosen_on() -> None:
    """A changed split would leak test pictures into training, a changed order would rename the classes."""
    manifest = load_manifest(CELLS)
    assert manifest.class_names == ("red cell", "white cell", "platelet")
    assert manifest.labels == (0, 1, 2) and manifest.values == ("RBC", "WBC", "Platelets")
    assert Counter(manifest.listed.values()) == {"train": 205, "validation": 87, "test": 72}
    digest = hashlib.sha256(json.dumps(manifest.listed, sort_keys=True).encode()).hexdigest()
    assert digest == "aa9d240226a835426da1629ecbfa171b55b18b96c2118a0002a598580f95fb49"


def test_glands_are_what_trained_weights_were_chosen_on() -> None:
    manifest = load_manifest(GLANDS)
    assert manifest.class_names == ("normal", "hyperplasia") and manifest.labels == manifest.values == (0, 1)
    cases = {"train_images_0000": "train", "val_images_0120": "validation", "test_images_99999": "test"}
    assert {case: manifest.split_of(case) for case in cases} == cases
    assert manifest.split_of("train_labels_0000") is manifest.split_of("images_0000") is None
    (archive,) = manifest.archives
    assert archive.hashes == {"md5": "17721accfe9fb005146a47d33bc54b2f"} and archive.unpack == "none"


ARRAYS = {split: {"images": f"{split}_x", "labels": f"{split}_y"} for split in SPLITS}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"pairs": {"images": "a.npz", "case": "(a)", "arrays": ARRAYS}}, r"\$\.split: the rule arrays and pairs"),
        (
            {
                "pairs": {"images": "a.npz", "case": "(a)", "arrays": {**ARRAYS, "test": ARRAYS["train"]}},
                "split": {"rule": "arrays"},
            },
            r"\$\.pairs\.arrays: one array is in two splits: .*'train_x'\]",
        ),
        ({"split": {"rule": "arrays"}}, r"\$\.split: the rule arrays and pairs\.arrays belong together"),
        ({"pairs": {"images": "a/*", "case": "(a)"}}, r"\$\.pairs"),
        ({"pairs": {"images": "a/*", "labels": "b/*", "boxes": "c/*", "case": "(a)"}}, r"\$\.pairs"),
        ({"pairs": {"images": "a", "case": "(a)", "arrays": {"train": ARRAYS["train"]}}}, r"\$\.pairs"),
        ({"pairs": {"images": "a/*", "boxes": "b/*", "second_labels": "c/*", "case": "(a)"}}, r"\$\.pairs"),
        ({"task": "classification", "classes": None}, "classes"),
        ({"classes": [{"label": 0, "name": "a", "value": "x"}, {"label": 1, "name": "b", "value": "x"}]}, "twice"),
        ({"classes": [{"label": 0, "name": "a", "value": ""}, {"label": 1, "name": "b"}]}, r"\$\.classes\[0\]"),
    ],
    ids=str,
)
def test_a_wrong_manifest_names_the_field(write_manifest: Any, changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ValueError, match=where):
        load_manifest(write_manifest(**changes))


# phantoms


@each_dataset
def test_a_phantom_has_nothing_to_be_found(name: str, fixture: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    report = check_dataset(name, folder, progress=False)
    assert report.ok and report.phantom and not report.findings, report.table()
    manifest = load_manifest(name)
    for split in SPLITS:
        labels = [entry["label"] for entry in datalist(name, folder.parent, split)]
        assert set(labels) == set(manifest.labels), "every class in every split"
    counts = case_counts(name, folder)
    assert sum(counts[split] for split in SPLITS) == counts["present"] == {CELLS: 5, GLANDS: 10}[name]
    assert all(counts[split] for split in SPLITS)


def contents(name: str, folder: Path) -> dict[str, bytes]:
    if name == CELLS:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("BloodImage*")}
    return {entry["case"]: read_row(entry["image"]).tobytes() for entry in datalist(name, folder, "all")}


@each_dataset
def test_same_seed_same_data_whatever_the_number(
    name: str, fixture: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    many = contents(name, request.getfixturevalue(fixture))
    few, other = (
        contents(
            name,
            draw_phantom(name, tmp_path, cases=3, seed=seed, size=PHANTOMS[name].size and 240, progress=False),
        )
        for seed in (1, 2)
    )
    assert len(few) < len(many) and few.items() <= many.items()
    assert few.keys() == other.keys() and not any(few[path] == other[path] for path in few)


def test_smears_look_as_the_official_ones(smear_phantom: Path) -> None:
    """Cells lie in their boxes, which end where the cells end, and nothing but plasma lies outside."""
    for case in sorted({entry["group"] for entry in datalist(CELLS, smear_phantom, "all")}):
        picture = Image.open(smear_phantom / "JPEGImages" / f"{case}.jpg")
        assert picture.mode == "RGB" and picture.size == (240, 180)
        green = np.asarray(picture).astype(float)[..., 1]
        outside = np.ones(green.shape, bool)
        boxes = read_boxes(smear_phantom / "Annotations" / f"{case}.xml")
        for box in boxes:
            x0, y0, x1, y1 = box.corners
            assert 0 <= x0 < x1 <= 240 and 0 <= y0 < y1 <= 180
            outside[max(0, y0 - 4) : y1 + 4, max(0, x0 - 4) : x1 + 4] = False
        plasma = np.median(green[outside])
        assert np.percentile(green[outside], 1) > 0.9 * plasma
        stained = green < 0.93 * plasma
        for box in boxes:
            x0, y0, x1, y1 = box.corners
            inside = stained[y0:y1, x0:x1]
            assert inside.any(0).mean() > 0.8 and inside.any(1).mean() > 0.8, box
        largest = {name: max(b.corners[2] - b.corners[0] for b in boxes if b.name == name) for name in ("RBC", "WBC")}
        assert largest["WBC"] > largest["RBC"] > 25
        assert all(box.corners[2] - box.corners[0] < 25 for box in boxes if box.name == "Platelets")


def test_glands_look_as_the_official_ones(gland_phantom: Path) -> None:
    """Binary volumes with the shape in their middle; hyperplasia is thicker, not in another place."""
    (archive,) = gland_phantom.glob("*.npz")
    manifest = load_manifest(GLANDS)
    assert archive.name == manifest.content["pairs"]["images"]
    names = [name for arrays in manifest.arrays.values() for name in (arrays["images"], arrays["labels"])]
    assert sorted(array_lengths(archive)) == sorted(names)
    thickness: dict[int, list[float]] = {0: [], 1: []}
    for arrays in manifest.arrays.values():
        images, labels = read_array(archive, arrays["images"]), read_array(archive, arrays["labels"])
        assert images.shape == (len(labels), 64, 64, 64) and images.dtype == labels.dtype == np.uint8
        assert labels.shape == (len(labels), 1)
        for image, label in zip(images, labels):
            assert np.unique(image).tolist() == [0, 255]
            assert np.abs(np.argwhere(image).mean(0) - 31.5).max() <= 1.5
            assert not np.delete(image, slice(1, -1), 0).any(), "the shape is whole"
            thickness[int(label[0])].append(np.percentile(distance_transform_edt(image)[image > 0], 90))
    assert max(thickness[0]) < min(thickness[1])


def test_sizes_and_usual_numbers(tmp_path: Path) -> None:
    assert PHANTOMS[CELLS].cases == 24 and PHANTOMS[CELLS].size == 640 and PHANTOMS[GLANDS].cases == 120
    with pytest.raises(ValueError, match="--size 64: the volumes of adrenalmnist3d have their own sizes"):
        draw_phantom(GLANDS, tmp_path, size=64, progress=False)
    assert not any(tmp_path.iterdir())


# data lists


def test_every_box_is_an_entry(smears: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = datalist(CELLS, smears, "train")
    case = before[0]["group"]
    first = [entry for entry in before if entry["group"] == case]
    boxes = read_boxes(smears / "Annotations" / f"{case}.xml")
    kinds = {"RBC": 0, "WBC": 1, "Platelets": 2}
    assert first == [
        {
            "image": str(smears / "JPEGImages" / f"{case}.jpg"),
            "box": list(box.corners),
            "label": kinds[box.name],
            "case": f"{case}_{number:03d}",
            "group": case,
        }
        for number, box in enumerate(boxes, start=1)
    ]
    path = smears / "Annotations" / f"{case}.xml"
    text = path.read_text()
    path.write_text(text.replace(f"<xmax>{boxes[0].corners[2]}<", f"<xmax>{boxes[0].corners[0]}<", 1))
    with caplog.at_level(logging.WARNING):
        assert datalist(CELLS, smears, "train") == before[1:], "the others keep their names"
    assert f"{case}_001: passed over, its box" in caplog.text
    path.write_text(text.replace("<name>RBC<", "<name>Rbc<", 1))
    with pytest.raises(ValueError, match=rf"{case}\.xml: object \d+ is called 'Rbc', the classes are RBC, WBC, Pl"):
        datalist(CELLS, smears, "train")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"No label for {case}\.jpg .* same name in Annotations/\*\.xml"):
        datalist(CELLS, smears, "test")


def test_every_row_is_an_entry(gland_phantom: Path) -> None:
    archive = gland_phantom / "adrenalmnist3d_64.npz"
    assert datalist(GLANDS, gland_phantom, "validation") == [
        {"image": f"{archive}::val_images[{row}]", "label": row, "case": f"val_images_{row:04d}"} for row in (0, 1)
    ]
    parts = [entry for split in SPLITS for entry in datalist(GLANDS, gland_phantom, split)]
    assert parts == datalist(GLANDS, gland_phantom.parent, "all") and len(parts) == 10


def rewritten(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    path = folder / "adrenalmnist3d_64.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize("label", [2, -1, 0.5])
def test_a_row_of_no_class(gland_phantom: Path, tmp_path: Path, label: float) -> None:
    folder = shutil.copytree(gland_phantom, tmp_path / "glands")

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["val_labels"] = np.array([[0], [label]])

    rewritten(folder, change)
    with pytest.raises(ValueError, match=rf"npz: row 1 of val_labels is \[{label}\], the classes are 0, 1"):
        datalist(GLANDS, folder, "validation")
    assert len(datalist(GLANDS, folder, "test")) == 2


# the real ones


@pytest.mark.parametrize(
    ("name", "counts"), [(CELLS, (2804, 1137, 945)), (GLANDS, (1188, 98, 298))], ids=[CELLS, GLANDS]
)
def test_the_real_cases(real_data: Path, name: str, counts: tuple[int, ...]) -> None:
    folder = real_data / load_manifest(name).folder
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} in {real_data}")
    assert tuple(len(datalist(name, real_data, split)) for split in SPLITS) == counts
    found = case_counts(name, real_data)
    assert found["present"] == found["official"] and not found["absent"]
    official = folder / "ImageSets" / "Main"
    if name == CELLS and official.is_dir():
        for split, file in zip(SPLITS, ("train", "val", "test")):
            cases = (official / f"{file}.txt").read_text().split()
            assert cases == [case for case, own in load_manifest(name).listed.items() if own == split]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "warnings"), [(CELLS, {"empty box": 2}), (GLANDS, {})])
def test_the_real_files_are_in_order(real_data: Path, name: str, warnings: dict[str, int]) -> None:
    folder = real_data / load_manifest(name).folder
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} in {real_data}")
    report = check_dataset(name, real_data, progress=False)
    assert report.ok and not report.phantom, report.table()
    assert Counter(finding.kind for finding in report.findings) == warnings, report.table()
