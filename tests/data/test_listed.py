"""Data lists that a bundle carries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_ext.data.listed import ImagesOfList, folder_of, listed


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    content = {
        "folder": str(folder),
        "training": [{"image": "a.png", "label": "a_seg.png", "case": "a"}],
        "validation": [{"image": ["b_0000.png", "b_0001.png"], "label": 1, "case": "b"}],
        "test": [],
        "unlabelled": [{"image": "c.png", "case": "c"}],
    }
    (tmp_path / "list.json").write_text(json.dumps(content))
    return tmp_path / "list.json"


def test_paths_start_where_the_data_are_now(data: Path) -> None:
    (entry,) = listed(data, "/elsewhere", "train")
    assert entry == {"image": str(Path("/elsewhere/a.png")), "label": str(Path("/elsewhere/a_seg.png")), "case": "a"}
    (entry,) = listed(data, folder_of(data), "validation")
    assert entry["image"] == [str(data.parent / "data" / f"b_000{n}.png") for n in (0, 1)] and entry["label"] == 1
    assert [entry["case"] for entry in listed(data, "x", "all")] == ["a", "b"]


def test_what_is_wrong_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no case in the split 'test' .*train 1"):
        listed(data, "x", "test")
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        listed(data, "x", "tset")
    with pytest.raises(FileNotFoundError, match="no data list"):
        folder_of(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(ValueError, match="no 'folder'"):
        folder_of(tmp_path / "bad.json")


def test_inference_runs_on_what_has_no_label_or_on_a_folder(data: Path, tmp_path: Path) -> None:
    assert list(ImagesOfList(data, folder_of(data), 2)) == [str(tmp_path / "data" / "c.png")]
    other = tmp_path / "other"
    other.mkdir()
    for name in ("x_0000.png", "x_0001.png"):
        (other / name).touch()
    assert len(ImagesOfList(data, other, 2)) == 2
    assert list(ImagesOfList(data, other, 2, channel_files=2)) == [[str(other / f"x_000{n}.png") for n in (0, 1)]]
    (other / "y_0000.png").touch()
    with pytest.raises(ValueError, match="an image needs 2, one a channel"):
        len(ImagesOfList(data, other, 2, channel_files=2))
