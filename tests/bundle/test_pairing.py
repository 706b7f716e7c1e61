"""Images find their labels, however people name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_ext.bundle.pairing import Pairs, pair_files


def files(root: Path, *names: str) -> Path:
    """Empty files: pairing goes by names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(pairs: Pairs) -> dict[str, str]:
    return {case.images[0].name: case.label.name for case in pairs.cases if isinstance(case.label, Path)}


WAYS = {
    "the same names in two folders": (
        ("imagesTr/a_1.nii.gz", "imagesTr/a_2.nii.gz", "labelsTr/a_1.nii.gz", "labelsTr/a_2.nii.gz"),
        {"a_1.nii.gz": "a_1.nii.gz", "a_2.nii.gz": "a_2.nii.gz"},
    ),
    "another kind of file": (("images/x y.jpg", "masks/x y.png"), {"x y.jpg": "x y.png"}),
    "a word behind, beside the image": (
        ("a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "b_seg.nii.gz"),
        {"a.nii.gz": "a_seg.nii.gz", "b.nii.gz": "b_seg.nii.gz"},
    ),
    "an ending that no one knows": (
        ("I_1.jpg", "I_1_1stHO.png", "I_2.jpg", "I_2_1stHO.png", "I_10.jpg", "I_10_1stHO.png"),
        {"I_1.jpg": "I_1_1stHO.png", "I_2.jpg": "I_2_1stHO.png", "I_10.jpg": "I_10_1stHO.png"},
    ),
    "words in the middle": (
        ("noisy/a-low-x.png", "noisy/b-low-x.png", "clean/a-high-x.png", "clean/b-high-x.png"),
        {"a-low-x.png": "a-high-x.png", "b-low-x.png": "b-high-x.png"},
    ),
    "a folder a case": (
        ("p1/image.nii", "p1/label.nii", "p2/image.nii", "p2/label.nii"),
        {"image.nii": "label.nii"},
    ),
    "accents stored in two ways": (
        ("images/caf\u00e9.png", "masks/cafe\u0301.png"),
        {"caf\u00e9.png": "cafe\u0301.png"},
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways(way: str, tmp_path: Path) -> None:
    names, expected = WAYS[way]
    pairs = pair_files(files(tmp_path, *names), None, None, must="noisy" not in names[0])
    assert found(pairs) == expected
    assert all(case.label is not None for case in pairs.cases)
    assert not pairs.findings


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    names = [f"imagesTr/c_{case}_{channel:04d}.nii.gz" for case in "ab" for channel in range(2)]
    pairs = pair_files(files(tmp_path, *names, "labelsTr/c_a.nii.gz", "labelsTr/c_b.nii.gz"), None, None, must=True)
    assert [case.name for case in pairs.cases] == ["c_a", "c_b"]
    assert [path.name for path in pairs.cases[0].images] == ["c_a_0000.nii.gz", "c_a_0001.nii.gz"]
    assert pairs.cases[1].label == (tmp_path / "labelsTr/c_b.nii.gz").resolve()


def test_a_case_that_lacks_a_channel_stays_a_case(tmp_path: Path) -> None:
    names = [f"imagesTr/c_{case}_{channel:04d}.nii.gz" for case in "ab" for channel in range(2)]
    labels = [f"labelsTr/c_{case}.nii.gz" for case in "abc"]
    pairs = pair_files(files(tmp_path, *names, "imagesTr/c_c_0001.nii.gz", *labels), None, None, must=True)
    assert {case.name: len(case.images) for case in pairs.cases} == {"c_a": 2, "c_b": 2, "c_c": 1}
    assert all(case.label for case in pairs.cases) and not pairs.findings


def test_numbers_of_cases_are_no_channels(tmp_path: Path) -> None:
    names = [f"{folder}/img_{number:04d}.png" for folder in ("images", "masks") for number in range(3)]
    pairs = pair_files(files(tmp_path, *names), None, None, must=True)
    assert len(pairs.cases) == 3 and all(len(case.images) == 1 for case in pairs.cases)


def test_several_labels_an_image(tmp_path: Path) -> None:
    names = [f"{case}{end}.png" for case in ("a", "b") for end in ("", "_first", "_second")]
    pairs = pair_files(files(tmp_path, *names), None, None, must=True)
    assert found(pairs) == {"a.png": "a_first.png", "b.png": "b_first.png"}
    assert "--label_suffix chooses another" in pairs.findings[0].message
    other = pair_files(tmp_path, None, "_second", must=True)
    assert found(other) == {"a.png": "a_second.png", "b.png": "b_second.png"}


def test_what_does_not_pair_is_named(tmp_path: Path) -> None:
    files(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/c.png", "images/notes.xyz")
    pairs = pair_files(tmp_path, None, None, must=True)
    assert {case.name for case in pairs.cases if case.label is None} == {"b"}
    messages = " ".join(finding.message for finding in pairs.findings)
    assert "c.png has no image" in messages and ".xyz" in messages
    assert all(finding.warning for finding in pairs.findings)


def test_label_maps_are_no_clean_images(tmp_path: Path) -> None:
    files(tmp_path, "imagesTr/a.nii", "labelsTr/a.nii")
    pairs = pair_files(tmp_path / "imagesTr", None, None, must=False)
    assert [case.label for case in pairs.cases] == [None]


def test_two_images_of_one_name(tmp_path: Path) -> None:
    files(tmp_path, "images/a.png", "images/a.jpg", "masks/a.png")
    with pytest.raises(ValueError, match=r"just one label.*: 2 images have one name, a[.]jpg, a[.]png; keep one"):
        pair_files(tmp_path, None, None, must=True)
    files(tmp_path, "images/b.png", "masks/b.png")
    (problem, *_) = [f for f in pair_files(tmp_path, None, None, must=True).findings if not f.warning]
    assert "2 images have one name, a.jpg, a.png" in problem.message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no image in"),
        (["a.png", "b.png"], "no label in"),
        (["images/a.png", "images/b.png", "masks/c.png", "masks/d.png"], "no label belongs to any image"),
    ],
)
def test_nothing_to_train_on(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pair_files(files(tmp_path, *names), None, None, must=True)
