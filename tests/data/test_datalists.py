from __future__ import annotations

import logging
from pathlib import Path

import pytest

from monai_ext.data import case_counts, datalist

NAME = "task04_hippocampus"
ABSENT = "240 of the 260 official cases"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Cases 1 to 20, as empty files, with the debris of a macOS archive."""
    for kind in ("imagesTr", "labelsTr"):
        folder = tmp_path / "Task04_Hippocampus" / kind
        folder.mkdir(parents=True)
        for number in range(1, 21):
            (folder / f"hippocampus_{number:03d}.nii.gz").touch()
        (folder / "._hippocampus_001.nii.gz").touch()
        (folder / "._hippocampus_021.nii.gz").touch()
    return tmp_path


def test_the_splits_share_out_the_cases_in_order(root: Path) -> None:
    parts = {split: datalist(NAME, root, split) for split in ("train", "validation", "test", "all")}
    assert [entry["case"] for entry in parts["validation"]] == ["hippocampus_014", "hippocampus_020"]
    assert [entry["case"] for entry in parts["test"]] == ["hippocampus_018"]
    cases = [entry["case"] for entry in parts["all"]]
    assert cases == [f"hippocampus_{n:03d}" for n in range(1, 21)]
    assert sorted(e["case"] for split in ("train", "validation", "test") for e in parts[split]) == cases
    entry = parts["test"][0]
    assert Path(entry["image"]) == root / "Task04_Hippocampus/imagesTr/hippocampus_018.nii.gz"
    assert Path(entry["label"]) == root / "Task04_Hippocampus/labelsTr/hippocampus_018.nii.gz"


def test_a_case_keeps_its_split_when_others_are_absent(root: Path) -> None:
    before = datalist(NAME, root, "test")
    for number in (1, 2, 14):
        for kind in ("imagesTr", "labelsTr"):
            (root / "Task04_Hippocampus" / kind / f"hippocampus_{number:03d}.nii.gz").unlink()
    assert datalist(NAME, root, "test") == before


def test_root_may_be_the_folder_itself_under_any_name(root: Path) -> None:
    expected = [entry["case"] for entry in datalist(NAME, root, "train")]
    folder = root / "Task04_Hippocampus"
    assert [entry["case"] for entry in datalist(NAME, folder, "train")] == expected
    renamed = folder.rename(root / "mine")
    assert [entry["case"] for entry in datalist(NAME, renamed, "train")] == expected


def test_absent_cases_are_counted_aloud(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        datalist(NAME, root, "train")
    assert ABSENT in caplog.text
    expected = {"official": 260, "present": 20, "absent": 240, "train": 17, "validation": 2, "test": 1}
    assert case_counts(NAME, root) == expected


def test_a_missing_folder_names_the_way_out(tmp_path: Path) -> None:
    missing = tmp_path / "not here"
    with pytest.raises(FileNotFoundError) as caught:
        datalist(NAME, missing, "train")
    message = str(caught.value)
    assert f"python -m monai_ext data fetch {NAME} --root '{missing}'" in message
    assert f"python -m monai_ext data phantom {NAME} --root '{missing}'" in message
    with pytest.raises(FileNotFoundError, match=f"--root {tmp_path}`"):  # not ...Task04_Hippocampus/Task04_Hippocampus
        datalist(NAME, tmp_path / "Task04_Hippocampus", "train")


def test_an_image_without_its_label_is_named(root: Path) -> None:
    (root / "Task04_Hippocampus/labelsTr/hippocampus_007.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"hippocampus_007\.nii\.gz"):
        datalist(NAME, root, "validation")


def test_an_empty_or_unknown_split_is_an_error(root: Path) -> None:
    for kind in ("imagesTr", "labelsTr"):
        (root / "Task04_Hippocampus" / kind / "hippocampus_018.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"'test'.*19 cases are present"):
        datalist(NAME, root, "test")
    with pytest.raises(ValueError, match=r"'val'.*train, validation, test and all"):
        datalist(NAME, root, "val")


def test_the_real_cases(real_data: Path) -> None:
    counts = case_counts(NAME, real_data)
    assert counts["official"] - counts["absent"] == counts["present"] == len(datalist(NAME, real_data, "all"))
    splits = (counts["train"], counts["validation"], counts["test"])
    assert sum(splits) == counts["present"]
    if counts["present"] == 220:
        assert splits == (174, 21, 25)
