"""The data sets of the two papers: manifest, phantom, data list, check, and the labels that stand in tables."""

from __future__ import annotations

import csv
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.data import case_counts, datalist, load_manifest
from monai_ext.data.check import check_dataset
from monai_ext.data.download import FetchError, fetch
from monai_ext.data.manifest import Manifest
from monai_ext.data.phantom import draw_phantom
from monai_ext.data.tables import read_tables
from monai_ext.data.time_slices import TakeTimeSliced
from monai_ext.data.transforms import LoadVolumed
from monai_ext.data.volume_files import count_slices

SPLITS = ("train", "validation", "test")
# name: cases and width of the phantom, and how many of these cases each split gets
PHANTOMS: dict[str, tuple[int, int | None, tuple[int, int, int]]] = {
    "abdomenatlas_mini": (3, None, (1, 1, 1)),
    "acdc": (3, None, (1, 1, 1)),
    "dermamnist": (35, 32, (21, 7, 7)),
    "duke_breast_mri": (20, None, (16, 2, 2)),
    "flare22": (3, None, (1, 1, 1)),
    "patchcamelyon": (10, 32, (6, 2, 2)),
    "retinamnist": (25, 32, (15, 5, 5)),
    "rsna_pulmonary_embolism": (20, None, (16, 2, 2)),
    "siim_acr_pneumothorax": (20, 64, (16, 2, 2)),
    "vindr_cxr": (25, 64, (15, 5, 5)),
}
REQUEST = ("abdomenatlas_mini", "rsna_pulmonary_embolism", "siim_acr_pneumothorax", "vindr_cxr")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small phantom, drawn once; read it, never write to it."""
    root = tmp_path_factory.mktemp("papers")

    def draw(name: str) -> Path:
        if name == "patchcamelyon":
            pytest.importorskip("h5py")
        folder = root / load_manifest(name).folder
        cases, size, _ = PHANTOMS[name]
        return folder if folder.exists() else draw_phantom(name, root, cases, seed=1, size=size, progress=False)

    return draw


@pytest.fixture
def copied(drawn: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of such a phantom, to be damaged."""
    return lambda name: Path(shutil.copytree(drawn(name), tmp_path / load_manifest(name).folder))


def load(entry: dict[str, Any], manifest: Manifest, key: str = "image") -> torch.Tensor:
    dims = manifest.content["spatial_dims"]
    return LoadVolumed(key, ensure_channel_first=True, spatial_dims=dims)(entry)[key]


# every one of them


@pytest.mark.parametrize("name", PHANTOMS)
def test_phantom_list_and_check_agree(drawn: Callable[[str], Path], name: str) -> None:
    folder, manifest = drawn(name), load_manifest(name)
    report = check_dataset(name, folder, progress=False)
    assert report.phantom and not report.findings, report.table()
    counts = case_counts(name, folder)
    assert tuple(counts[split] for split in SPLITS) == PHANTOMS[name][2]
    seen: set[str] = set()
    for split in SPLITS:
        entries = datalist(name, folder.parent, split)
        groups = {entry.get("group", entry["case"]) for entry in entries}
        assert groups and not groups & seen, "no case, and no patient, stands in two splits"
        seen |= groups
        if manifest.multi_label:
            assert np.array([entry["label"] for entry in entries]).max(0).tolist() == [1] * len(manifest.labels)
        elif manifest.content["task"] == "classification":
            assert {entry["label"] for entry in entries} == set(manifest.labels)
    cases = [entry["case"] for entry in datalist(name, folder, "all")]
    assert len(set(cases)) == len(cases)


@pytest.mark.parametrize("name", PHANTOMS)
def test_the_first_entry_loads(drawn: Callable[[str], Path], name: str) -> None:
    manifest = load_manifest(name)
    (entry, *_) = datalist(name, drawn(name), "train")
    image = load(entry, manifest)
    if manifest.slices:
        image = TakeTimeSliced("image")({**entry, "image": image})["image"]
    assert image.shape[0] == manifest.content["channels"]
    assert image.ndim - 1 == manifest.content["spatial_dims"]
    assert float(image.max()) > float(image.min())
    if manifest.content["task"] == "segmentation":
        label = load(entry, manifest, "label")
        assert label.shape == image.shape and set(label.unique().int().tolist()) == set(manifest.labels)


@pytest.mark.parametrize("name", REQUEST)
def test_fetch_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(FetchError, match="by request only") as error:
        fetch(name, tmp_path, progress=False)
    manifest, said = load_manifest(name), str(error.value)
    assert manifest.content["access"]["how"] in said and f"data check {name} --root {tmp_path}" in said
    assert str(tmp_path / manifest.folder / manifest.content["pairs"]["images"]) in said


def test_fetch_has_nothing_to_do_where_all_is_there(copied: Callable[[str], Path]) -> None:
    folder = copied("siim_acr_pneumothorax")
    (folder / "dataset.json").unlink()
    assert fetch("siim_acr_pneumothorax", folder.parent, progress=False) == folder


def test_the_descriptions_say_what_is_not_known() -> None:
    for name in ("abdomenatlas_mini", "duke_breast_mri", "retinamnist", "dermamnist", "patchcamelyon"):
        text = load_manifest(name).content["description"]
        assert "does not name" in text or "not known" in text or "not named" in text


# labels in tables

NONE, SOME, AIR = "1.2.3", "1.2.4", "12 3 40 5"
Row = tuple[str, ...]


@pytest.fixture
def write_table(tmp_path: Path) -> Callable[..., tuple[Manifest, Path]]:
    """A manifest of two classes and its table, as it is changed by keywords."""

    def write(written: list[Row], header: Row = ("ImageId", " EncodedPixels"), **changes: Any) -> tuple[Manifest, Path]:
        content = dict(load_manifest("siim_acr_pneumothorax").content)
        table = {**content["pairs"]["tables"][0], **changes}
        content["pairs"] = {**content["pairs"], "tables": [table]}
        with (tmp_path / "train-rle.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *written])
        return Manifest(content), tmp_path

    return write


@pytest.mark.parametrize("column", [" EncodedPixels", "EncodedPixels", "EncodedPixels "])
def test_blanks_do_not_count(write_table: Callable[..., Any], column: str) -> None:
    found = read_tables(*write_table([(NONE, " -1"), (SOME, AIR)], header=("ImageId", column)))
    assert {name: verdict.label for name, verdict in found.items()} == {NONE: 0, SOME: 1}


@pytest.mark.parametrize(
    ("rule", "cells", "label", "problem"),
    [
        ("any", ("-1", AIR, "-1"), 1, ""),
        ("majority", ("-1", AIR, "-1"), 0, ""),
        ("majority", (AIR, AIR, "-1"), 1, ""),
        ("majority", (AIR, "-1"), None, r"its rows do not agree on EncodedPixels: 0 \(1 times\), 1 \(1 times\)"),
        ("agree", (AIR, "1 2"), 1, ""),
        ("agree", (AIR, "-1"), None, "its rows do not agree"),
        ("any", ("-1", "yes"), None, "EncodedPixels is 'yes': known are -1, "),
        ("any", ("",), None, "EncodedPixels is ''"),
    ],
)
def test_rows_of_one_case(
    write_table: Callable[..., Any], rule: str, cells: Row, label: int | None, problem: str
) -> None:
    (verdict,) = read_tables(*write_table([(SOME, cell) for cell in cells], rows=rule)).values()
    assert verdict.label == label and bool(verdict.problem) == bool(problem)
    assert re.search(problem, verdict.problem)


def test_a_case_is_passed_over_for_a_reason(write_table: Callable[..., Any]) -> None:
    keep = [{"column": "sure", "pattern": "1", "reason": "nobody is sure"}]
    rows = [(NONE, "-1", "1"), (SOME, "what", "0"), (SOME, "-1", "1")]
    found = read_tables(*write_table(rows, header=("ImageId", "EncodedPixels", "sure"), keep=keep))
    assert found[NONE].label == 0 and not found[NONE].passed_over
    assert found[SOME].label is None and found[SOME].passed_over == "nobody is sure"


def test_a_head_of_several_rows(write_table: Callable[..., Any]) -> None:
    rows = [("ImageId", "EncodedPixels"), ("", "-1 = none"), (NONE, "-1")]
    found = read_tables(*write_table(rows, header=("about", "images"), names=2, first=4))
    assert {name: verdict.label for name, verdict in found.items()} == {NONE: 0}


def test_a_table_that_cannot_be_read(write_table: Callable[..., Any]) -> None:
    manifest, folder = write_table([(NONE, "-1")], header=("ImageId", "Pixels"))
    with pytest.raises(ValueError, match=r"train-rle\.csv cannot be read \(no column 'EncodedPixels' in row 1, which"):
        read_tables(manifest, folder)
    (folder / "train-rle.csv").write_bytes(b"ImageId,EncodedPixels\n\xff\xfe,-1\n")
    with pytest.raises(ValueError, match=r"cannot be read .*utf-8"):
        read_tables(manifest, folder)
    (folder / "train-rle.csv").write_text("")
    with pytest.raises(ValueError, match="has no row 1"):
        read_tables(manifest, folder)
    (folder / "train-rle.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no table .*train-rle\.csv"):
        read_tables(manifest, folder)


# what check and the data list say of damage


def findings(name: str, folder: Path) -> list[tuple[str, str, bool]]:
    return [(f.case, f.kind, f.warning) for f in check_dataset(name, folder, progress=False).findings]


def edit(path: Path, change: Callable[[list[Row]], list[Row]]) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(change(rows))


def test_a_case_without_a_row_and_a_row_without_a_case(copied: Callable[[str], Path]) -> None:
    name = "siim_acr_pneumothorax"
    folder = copied(name)
    first, second = (entry["case"] for entry in datalist(name, folder, "train")[:2])
    edit(folder / "train-rle.csv", lambda rows: [row for row in rows if row[0] != first] + [("1.2", " -1")])
    assert findings(name, folder) == [("train-rle.csv", "no image", True), (first, "missing", False)]
    with pytest.raises(FileNotFoundError, match=rf"No label for {first}\.dcm .*expected a row in train-rle\.csv"):
        datalist(name, folder, "train")
    edit(folder / "train-rle.csv", lambda rows: [*rows[:-1], (first, "-1"), (second, "seen")])
    assert findings(name, folder) == [(second, "label range", False)]
    with pytest.raises(ValueError, match=rf"case {second}: EncodedPixels is 'seen'"):
        datalist(name, folder, "train")


@pytest.mark.parametrize("damage", ["half", "text", "gone"])
def test_a_damaged_picture(copied: Callable[[str], Path], damage: str) -> None:
    name = "siim_acr_pneumothorax"
    folder = copied(name)
    entry = datalist(name, folder, "test")[0]
    path = Path(entry["image"])
    if damage == "gone":
        path.unlink()
        assert findings(name, folder) == [
            (entry["case"], "missing", False),  # the phantom's own dataset.json lists it
            ("train-rle.csv", "no image", True),
        ]
        return
    path.write_bytes(path.read_bytes()[:700] if damage == "half" else b"<html>404</html>")
    assert findings(name, folder) == [(entry["case"], "unreadable", False)]


def test_an_indeterminate_exam_is_passed_over(copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    name = "rsna_pulmonary_embolism"
    folder = copied(name)
    entry = datalist(name, folder, "train")[0]
    edit(folder / "train.csv", lambda rows: [(*row[:-1], "1") if row[0] == entry["case"] else row for row in rows])
    report = check_dataset(name, folder, progress=False)
    assert report.ok and findings(name, folder) == [(entry["case"], "passed over", True)]
    assert report.counts["passed_over"] == 1 and "passed over 1" in report.table()
    with caplog.at_level(logging.WARNING):
        assert entry["case"] not in {other["case"] for other in datalist(name, folder, "all")}
    assert "1 cases passed over: indeterminate exam" in caplog.text


def test_a_slice_less_and_a_series_more(copied: Callable[[str], Path]) -> None:
    name = "rsna_pulmonary_embolism"
    folder = copied(name)
    entry = datalist(name, folder, "train")[0]
    series = Path(entry["image"])
    shutil.copytree(series, series.with_name("1.9"))
    assert (entry["case"], "twice", False) in findings(name, folder)
    shutil.rmtree(series.with_name("1.9"))
    sorted(series.iterdir())[5].unlink()
    assert findings(name, folder) == [(entry["case"], "unreadable", False)]


def test_the_labels_are_numbered_as_the_masks_say(copied: Callable[[str], Path]) -> None:
    name = "abdomenatlas_mini"
    folder = copied(name)
    case = datalist(name, folder, "train")[0]["case"]
    masks = folder / case / "segmentations"
    shutil.copy(masks / "liver.nii.gz", masks / "spleen.nii.gz")
    assert findings(name, folder) == [(case, "label order", False)]
    (masks / "spleen.nii.gz").unlink()
    assert findings(name, folder) == [(case, "no mask", True)]


# splits


def test_the_official_test_and_a_share_set_aside() -> None:
    manifest = load_manifest("vindr_cxr")
    assert {manifest.split_of(f"test/{number:032x}") for number in range(200)} == {"test"}
    splits = [manifest.split_of(f"train/{number:032x}") for number in range(2000)]
    assert set(splits) == {"train", "validation"} and 150 < splits.count("validation") < 250
    hearts = load_manifest("acdc")
    splits = [hearts.split_of(f"patient{number:03d}") for number in range(1, 151)]
    assert splits[100:] == ["test"] * 50 and set(splits[:100]) == {"train", "validation"}


def test_all_series_of_a_patient_stay_together(drawn: Callable[[str], Path]) -> None:
    name = "duke_breast_mri"
    entries = datalist(name, drawn(name), "all")
    assert len(entries) == 60 and case_counts(name, drawn(name))["present"] == 20
    manifest = load_manifest(name)
    for patient in {entry["group"] for entry in entries}:
        its = [entry for entry in entries if entry["group"] == patient]
        assert len(its) == 3 and len({(manifest.split_of(entry["case"]), entry["label"]) for entry in its}) == 1


# slices over time


def test_slices_over_time(drawn: Callable[[str], Path]) -> None:
    manifest = load_manifest("acdc")
    entries = datalist("acdc", drawn("acdc"), "train")
    assert [entry["slice"] for entry in entries] == list(range(count_slices(Path(entries[0]["image"]))))
    whole = load(entries[1], manifest)  # times, width, height, slices
    found = TakeTimeSliced("image")({**entries[1], "image": whole})["image"]
    assert isinstance(found, MetaTensor) and found.shape == (1, *whole.shape[1:3], whole.shape[0])
    assert torch.equal(found[0, :, :, 3].as_tensor(), whole[3, :, :, 1].as_tensor())
    np.testing.assert_allclose(found.affine[:3, 2].norm(), 1)
    np.testing.assert_allclose(found.affine[:3, 3], whole.affine[:3, 3] + whole.affine[:3, 2])
    assert entries[0]["label"] == entries[0]["image"], "its own reference"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"image": torch.ones(4, 5, 6, 3)}, "the item has no 'slice'"),
        ({"image": torch.ones(4, 5, 6, 3), "slice": 3}, "has 3 slices, there is no slice 3"),
        ({"image": torch.ones(1, 5, 6), "slice": 0}, "has 2 spatial dimensions"),
    ],
)
def test_slices_that_are_not_there(item: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TakeTimeSliced("image")(item)


# rows of HDF5


def test_rows_of_hdf5(copied: Callable[[str], Path]) -> None:
    name = "patchcamelyon"
    folder = copied(name)
    manifest = load_manifest(name)
    entry = datalist(name, folder, "test")[1]
    assert entry["image"].endswith("camelyonpatch_level_2_split_test_x.h5::x[1]") and entry["label"] == 1
    import h5py

    with h5py.File(folder / "camelyonpatch_level_2_split_test_x.h5") as file:
        expected = file["x"][1]
    np.testing.assert_array_equal(load(entry, manifest).numpy(), expected.transpose(2, 1, 0))
    with pytest.raises(ValueError, match=r"has no row 9 in x: it holds 2"):
        load({"image": entry["image"].replace("[1]", "[9]")}, manifest)
    with pytest.raises(ValueError, match="there is no array 'z' in it, it holds x"):
        load({"image": entry["image"].replace("::x", "::z")}, manifest)
    (folder / "camelyonpatch_level_2_split_valid_y.h5").unlink()
    assert findings(name, folder) == [("camelyonpatch_level_2_split_valid_x_0000", "missing", False)]
    (folder / "camelyonpatch_level_2_split_valid_x.h5").unlink()  # only two parts were fetched
    assert findings(name, folder) == []
    damaged = folder / "camelyonpatch_level_2_split_test_x.h5"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert {kind for _, kind, _ in findings(name, folder)} == {"unreadable"}
