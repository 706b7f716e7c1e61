"""What is found in the files, and what is wrong with them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_ext.bundle.new import Source, bundle_name, find_cases, new_bundle
from monai_ext.bundle.normalise import is_ct
from monai_ext.bundle.survey import Survey, survey
from tests.bundle import own_data


def look(task: str, source: Source) -> Survey:
    return survey(find_cases(task, source).cases, task, source.dims, progress=False)


def _replace(
    path: str, array: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None
) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        image = nib.load(folder / path)
        own_data.save_volume(folder / path, array(np.asarray(image.dataobj)), affine)

    return change


def _cut(folder: Path) -> None:
    path = folder / "imagesTr/case_01.nii.gz"
    path.write_bytes(path.read_bytes()[:900])


def _picture(folder: Path) -> None:
    image, mask = own_data.blob((20, 20), 0)
    own_data.save_picture(folder / "imagesTr/flat.png", image.astype(np.uint8))
    own_data.save_picture(folder / "labelsTr/flat.png", mask)


LABEL, IMAGE = "labelsTr/case_01.nii.gz", "imagesTr/case_01.nii.gz"
WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (_cut, "case_01.nii.gz cannot be read"),
    "misaligned": (_replace(LABEL, lambda a: a, np.diag([1, 1, 2, 1])), "voxels apart"),
    "other size": (_replace(LABEL, lambda a: a[:-1]), "the image has 18 x 20 x 16 voxels"),
    "fractions": (_replace(LABEL, lambda a: a * np.float32(0.5)), "holds 0.5: labels are whole numbers"),
    "no label map": (
        _replace(LABEL, lambda a: np.arange(a.size, dtype=np.int16).reshape(a.shape)),
        "which is no map of classes",
    ),
    "overlap": (_replace(LABEL, lambda a: np.stack([a, 2 * a], -1)), "different channels"),
    "not finite": (_replace(IMAGE, lambda a: np.where(a > 100, np.nan, a)), "NaN or infinity"),
    "constant": (_replace(IMAGE, lambda a: np.full_like(a, 7)), "every voxel of the image is 7"),
    "channels": (_replace(IMAGE, lambda a: np.stack([a, a], -1)), "it has 2 channels, most images have 1"),
    "mixed dimensions": (_picture, "3 images have three dimensions and 1 have two"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_prevents_training_is_named_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    damage, message = WRONG[name]
    data = own_data.volumes(tmp_path / "data", 3)
    damage(data)
    made = new_bundle("mine", "segmentation", Source(str(data)), str(tmp_path / "out"), "8GB", progress=False)
    assert made.root is None and not (tmp_path / "out").exists()
    assert made.report.startswith("problem") and message in made.report, made.report


def test_one_class(tmp_path: Path) -> None:
    data = own_data.volumes(tmp_path / "data", 2)
    for path in (data / "labelsTr").iterdir():
        own_data.save_volume(path, np.zeros((18, 20, 16), np.uint8))
    made = new_bundle("mine", "segmentation", Source(str(data)), str(tmp_path), "8GB", progress=False)
    assert made.root is None and "one class only (0)" in made.report
    folders = own_data.classes(tmp_path / "classes")
    shutil.rmtree(folders / "dark")
    made = new_bundle("mine", "classification", Source(str(folders)), str(tmp_path), "8GB", progress=False)
    assert made.root is None and "one class only (bright)" in made.report


def test_clean_images_with_negative_values(tmp_path: Path) -> None:
    image = own_data.blob((16, 16, 16), 0)[0] - 100
    for number in range(3):
        own_data.save_volume(tmp_path / "data" / f"{number}.nii.gz", image.astype(np.int16))
    made = new_bundle("mine", "denoising", Source(str(tmp_path / "data")), str(tmp_path), "8GB", progress=False)
    assert made.root is None and "clean images go down to -" in made.report, made.report


def test_axes_are_those_of_the_body(tmp_path: Path) -> None:
    """A file that stores superior first, and an oblique one."""
    image, _ = own_data.blob((10, 12, 14), 0)
    turned = np.array([[0, 0, 3, 0], [0, 2, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1.0]])
    own_data.save_volume(tmp_path / "a.nii.gz", image.astype(np.float32), turned)
    found = look("denoising", Source(str(tmp_path)))
    assert found.headers[0].shape == (14, 12, 10) and found.headers[0].spacing == (3, 2, 5)
    angle = np.radians(20)
    oblique = np.eye(4)
    oblique[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    own_data.save_volume(tmp_path / "a.nii.gz", image.astype(np.float32), oblique)
    found = look("denoising", Source(str(tmp_path)))
    assert found.headers[0].spacing == (1, 1, 1)
    assert [finding.kind for finding in found.findings] == ["oblique"] and "20 degrees" in found.findings[0].message


def test_hounsfield_units_are_recognised(tmp_path: Path) -> None:
    data = own_data.volumes(tmp_path / "data", 2)
    assert not is_ct(look("segmentation", Source(str(data))))
    for path in (data / "imagesTr").iterdir():
        own_data.save_volume(path, (np.asarray(nib.load(path).dataobj) * 8 - 1024).astype(np.int16))
    found = look("segmentation", Source(str(data)))
    assert is_ct(found)
    assert found.intensity["least"] < found.intensity["foreground_low"] < found.intensity["foreground_high"]


def test_grey_saved_as_colour_is_grey_and_alpha_is_dropped(tmp_path: Path) -> None:
    grey = own_data.blob((20, 24), 0)[0].astype(np.uint8)
    own_data.save_picture(tmp_path / "a.png", np.stack([grey] * 3, -1))
    assert look("denoising", Source(str(tmp_path))).channels == 1
    own_data.save_picture(tmp_path / "a.png", np.stack([grey, grey // 2, grey, np.full_like(grey, 255)], -1))
    assert look("denoising", Source(str(tmp_path))).channels == 3
    own_data.save_picture(tmp_path / "a.png", grey.astype(np.uint16) * 200)
    found = look("denoising", Source(str(tmp_path)))
    assert found.channels == 1 and found.headers[0].dtype == "uint16" and found.intensity["most"] > 255


def test_the_background_comes_first() -> None:
    assert Survey(values=Counter({-1: 3, 0: 9, 1: 4})).class_values == [0, -1, 1]
    assert Survey(values=Counter({3: 3, 1: 9})).class_values == [1, 3]


def test_tables_and_lists(tmp_path: Path) -> None:
    data = own_data.classes(tmp_path / "data", 4)
    rows = [f"{name}/{number}.png;{name};p{number // 2}" for name in ("bright", "dark") for number in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["file;diagnosis;patient", *rows, "lost.png;dark;p9"]), encoding="utf-8")
    pairs = find_cases("classification", Source(str(data), labels_csv=str(tmp_path / "t.csv")))
    assert {(case.label, case.group) for case in pairs.cases} == {
        (c, f"p{n}") for c in ("bright", "dark") for n in (0, 1)
    }
    assert "no image is called so" in pairs.findings[0].message
    table = [f"{row};{'test' if number % 2 else 'holdout'}" for number, row in enumerate(rows)]
    (tmp_path / "s.csv").write_text("\n".join(["file;diagnosis;patient;split", *table]), encoding="utf-8")
    found = find_cases("classification", Source(str(data), labels_csv=str(tmp_path / "s.csv"))).findings
    assert len(found) == 4 and not found[0].warning
    assert found[0].message.startswith("s.csv row 2: the split 'holdout' is none of train")
    table = [f"{row};{number % 3}" for number, row in enumerate(rows)]
    (tmp_path / "f.csv").write_text("\n".join(["file;diagnosis;patient;fold", *table]), encoding="utf-8")
    pairs = find_cases("classification", Source(str(data), labels_csv=str(tmp_path / "f.csv")))
    assert pairs.findings[0].warning and "cases are split anew" in pairs.findings[0].message
    assert {case.split for case in pairs.cases} == {None}
    folder = own_data.volumes(tmp_path / "volumes", 3)
    entries = [{"image": f"imagesTr/case_0{n}.nii.gz", "label": f"labelsTr/case_0{n}.nii.gz"} for n in range(3)]
    content = {"labels": {"0": "background", "1": "lesion"}, "training": entries[:2], "test": [entries[2]["image"]]}
    (folder / "dataset.json").write_text(json.dumps(content))
    pairs = find_cases("segmentation", Source(None, datalist=str(folder / "dataset.json")))
    assert [case.label is None for case in pairs.cases] == [False, False, True]
    assert pairs.class_names == {0: "background", 1: "lesion"}
    with pytest.raises(FileNotFoundError, match="1 files of the data list"):
        (folder / "imagesTr/case_00.nii.gz").unlink()
        find_cases("segmentation", Source(None, datalist=str(folder / "dataset.json")))


def test_the_task_is_part_of_the_name() -> None:
    assert bundle_name("liver_segmentation", "segmentation") == ("liver_segmentation", "")
    assert bundle_name("liver", "segmentation")[0] == "liver_segmentation"
    with pytest.raises(ValueError, match="the name 'my liver'"):
        bundle_name("my liver", "segmentation")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "detection"}, "--task detection is unknown"),
        ({"mixer": "foo"}, "--mixer foo is unknown"),
        ({"device": "tpu"}, "--device tpu is unknown"),
        ({"source": Source(None)}, "--images DIR is missing"),
        ({"source": Source("x", labels="y", datalist="z")}, "give one"),
        ({"source": Source("x", labels_csv="y")}, "classes of whole images"),
        ({"source": Source("x", dims=4)}, "neither 2 nor 3"),
        ({"sample": 0}, "--sample must be at least 1 image, got 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], message: str, tmp_path: Path) -> None:
    settings = {"task": "segmentation", "source": Source(str(tmp_path)), "out": str(tmp_path / "out")} | options
    with pytest.raises(ValueError, match=message):
        new_bundle("mine", **settings)  # type: ignore[arg-type]
