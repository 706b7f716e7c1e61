"""What inference finds below a path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_ext.data.image_list import ImagesIn, images_in, items_in


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(bytes(128) + b"DICM" if name.startswith("IM") else b"")
    return folder


def names(found: list[str], root: Path) -> list[str]:
    return [str(Path(path).relative_to(root)) for path in found]


def test_one_file(tmp_path: Path) -> None:
    fill(tmp_path, "b.nii.gz", "a.nii")
    assert images_in(tmp_path / "b.nii.gz") == [str(tmp_path / "b.nii.gz")]
    assert images_in(str(tmp_path / "a.nii")) == [str(tmp_path / "a.nii")]


def test_a_folder_of_nifti_files(tmp_path: Path) -> None:
    fill(tmp_path, "b.nii.gz", "a.nii", "C.NII.GZ", "notes.txt", "._a.nii", ".hidden.nii.gz")
    fill(tmp_path / "folder.nii")
    assert names(images_in(tmp_path), tmp_path) == ["C.NII.GZ", "a.nii", "b.nii.gz"]


@pytest.mark.parametrize("name", ["IM0001", "slice.dcm", "slice.IMA"])
def test_a_series(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "series", name, "DICOMDIR.txt")
    assert images_in(tmp_path / "series") == [str(tmp_path / "series")]
    fill(tmp_path / "another", name)
    fill(tmp_path / "empty")
    fill(tmp_path / "papers", "paper.pdf")
    fill(tmp_path / ".cache", name)
    assert names(images_in(tmp_path), tmp_path) == ["another", "series"]


def test_a_data_set_of_the_decathlon(tmp_path: Path) -> None:
    fill(tmp_path, "dataset.json")
    fill(tmp_path / "imagesTr", "b.nii.gz", "a.nii.gz", "._a.nii.gz")
    fill(tmp_path / "labelsTr", "a.nii.gz", "b.nii.gz")
    fill(tmp_path / "imagesTs")
    assert names(images_in(tmp_path), tmp_path) == ["imagesTr/a.nii.gz", "imagesTr/b.nii.gz"]
    fill(tmp_path / "imagesTs", "c.nii.gz")
    assert names(images_in(tmp_path), tmp_path) == ["imagesTs/c.nii.gz"]


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    fill(tmp_path / "scans", "a.nii")
    assert images_in("~/scans") == [str(tmp_path / "scans" / "a.nii")]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no file or folder {tmp_path}/x; give dataset_dir the path"):
        images_in(tmp_path / "x")
    fill(tmp_path / "papers", "paper.pdf")
    with pytest.raises(FileNotFoundError, match=rf"no image in {tmp_path}; give dataset_dir a NIfTI file"):
        images_in(tmp_path)


def test_pictures(tmp_path: Path) -> None:
    fill(tmp_path, "Äuge 2.PNG", "a b.jpg", "c.tiff", "d.bmp", "notes.txt", "._a.png", ".hidden.png")
    expected = ["a b.jpg", "c.tiff", "d.bmp", "Äuge 2.PNG"]
    assert names(images_in(tmp_path), tmp_path) == names(images_in(tmp_path, 2), tmp_path) == expected
    assert images_in(tmp_path / "a b.jpg", 2) == [str(tmp_path / "a b.jpg")]
    fill(tmp_path / "one", "x.png")
    assert names(images_in(tmp_path, 2), tmp_path) == expected, "folders below count where there is nothing above"
    fill(tmp_path / "above" / "left", "x.png")
    fill(tmp_path / "above" / "right", "x.png", "IM0001")
    found = names(images_in(tmp_path / "above", 2), tmp_path / "above")
    assert found == ["left/x.png", "right/IM0001", "right/x.png"]


def test_kinds_that_are_mixed(tmp_path: Path) -> None:
    fill(tmp_path, "scan.nii.gz", "screenshot.png", "IM0001", "IM0002", "DICOMDIR")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert names(images_in(tmp_path), tmp_path) == ["scan.nii.gz"]
    assert names(images_in(tmp_path, 2), tmp_path) == ["IM0001", "IM0002", "scan.nii.gz", "screenshot.png"]
    (tmp_path / "scan.nii.gz").unlink()
    assert images_in(tmp_path) == [str(tmp_path)], "one series"
    assert names(images_in(tmp_path, 2), tmp_path) == ["IM0001", "IM0002", "screenshot.png"]


def test_labels_told_by_their_folder_only(tmp_path: Path) -> None:
    fill(tmp_path / "imagesTr", "hippocampus_001.nii.gz")
    fill(tmp_path / "labelsTr", "hippocampus_001.nii.gz")
    for root in (tmp_path, tmp_path / "imagesTr"):
        (found,) = images_in(root, dataset="task04_hippocampus")
        assert found == str(tmp_path / "imagesTr/hippocampus_001.nii.gz")


# what to classify


def boxed(path: Path, *corners: tuple[int, int, int, int]) -> None:
    names = ("xmin", "ymin", "xmax", "ymax")
    objects = [
        f"<object><bndbox>{''.join(f'<{n}>{value}</{n}>' for n, value in zip(names, box))}</bndbox></object>"
        for box in corners
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation>{''.join(objects)}</annotation>")


@pytest.mark.parametrize("where", ["beside", "in the data set's folder"])
def test_boxes_of_pictures(tmp_path: Path, where: str) -> None:
    """Whatever they are called; an empty one is passed over and counts, a picture without boxes is taken whole."""
    pictures = fill(tmp_path / "JPEGImages", "a.jpg", "b.jpg", "c.png")
    boxes = pictures if where == "beside" else tmp_path / "Annotations"
    boxed(boxes / "a.xml", (1, 2, 3, 4), (5, 5, 5, 9), (0, 0, 8, 8))
    boxed(boxes / "c.xml", (4, 5, 6, 7))
    for path in (pictures, tmp_path):
        assert items_in(path, 2, "bccd") == [
            {"image": str(pictures / "a.jpg"), "box": [1, 2, 3, 4], "case": "a_001", "group": "a"},
            {"image": str(pictures / "a.jpg"), "box": [0, 0, 8, 8], "case": "a_003", "group": "a"},
            {"image": str(pictures / "b.jpg")},
            {"image": str(pictures / "c.png"), "box": [4, 5, 6, 7], "case": "c_001", "group": "c"},
        ]
    assert items_in(pictures, 2) == [{"image": str(pictures / name)} for name in ("a.jpg", "b.jpg", "c.png")]
    assert items_in(pictures / "c.png", 2, "bccd")[0]["box"] == [4, 5, 6, 7]


def test_boxes_that_leave_nothing(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    boxed(tmp_path / "a.xml", (5, 5, 5, 9))
    with pytest.raises(ValueError, match=rf"no picture in {tmp_path} has a box with an area"):
        items_in(tmp_path, 2, "bccd")
    (tmp_path / "a.xml").write_text("no xml")
    with pytest.raises(ValueError, match=r"a\.xml is no XML"):
        items_in(tmp_path, 2, "bccd")


def test_rows_of_an_archive(tmp_path: Path) -> None:
    """With or without labels, whatever it is called; what is no archive stays an image."""
    name, folder = "adrenalmnist3d_64.npz", tmp_path / "adrenalmnist3d"
    folder.mkdir()
    np.savez(folder / name, test_images=np.zeros((2, 3, 3, 3)), val_images=np.zeros((1, 3, 3, 3)), other=np.zeros(9))
    mine = tmp_path / "mine.NPZ"
    mine.write_bytes((folder / name).read_bytes())
    for path, archive in ((folder, folder / name), (tmp_path, folder / name), (mine, mine)):
        assert items_in(path, dataset="adrenalmnist3d") == [
            {"image": f"{archive}::{array}[{row}]", "case": f"{array}_{row:04d}"}
            for array, row in (("val_images", 0), ("test_images", 0), ("test_images", 1))
        ]
    address = f"{mine}::test_images[1]"
    assert items_in(address, dataset="adrenalmnist3d") == [{"image": address}]
    scans = fill(tmp_path / "scans", "a.nii.gz")
    assert items_in(scans, dataset="adrenalmnist3d") == [{"image": str(scans / "a.nii.gz")}]


def test_archives_without_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 3, 3)), test_images=np.zeros((0, 3, 3, 3)))
    with pytest.raises(ValueError, match=r"a\.npz has no row in any of train_images, .*; it holds images, test_im"):
        items_in(tmp_path / "a.npz", dataset="adrenalmnist3d")
    (tmp_path / "a.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.npz is no NumPy archive"):
        items_in(tmp_path / "a.npz", dataset="adrenalmnist3d")
    for missing in ("b.npz", "b.npz::test_images[0]"):
        with pytest.raises(FileNotFoundError, match=r"no file or folder .*b\.npz"):
            items_in(tmp_path / missing, dataset="adrenalmnist3d")


def test_they_can_be_looked_for_later(tmp_path: Path) -> None:
    later = ImagesIn(tmp_path / "scans")
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list(later)
    fill(tmp_path / "scans", "b.nii", "a.nii")
    assert list(later) == images_in(tmp_path / "scans") and len(later) == 2
    assert later[-1].endswith("b.nii") and later[:1] == [str(tmp_path / "scans" / "a.nii")]
