from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_ext.data.check import check_dataset

NAME = "task04_hippocampus"
BAD = "hippocampus_002"
Damage = Callable[[Path, Path], None]


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("imagesTr", "labelsTr"):
        folder = tmp_path / "Task04_Hippocampus" / kind
        folder.mkdir(parents=True)
        for number in (1, 2, 3):
            array = rng.random((5, 6, 7), np.float32) if kind == "imagesTr" else np.arange(210).reshape(5, 6, 7) % 3
            save(array.astype(np.float32), folder / f"hippocampus_{number:03d}.nii.gz")
        (folder / "._hippocampus_001.nii.gz").write_bytes(b"debris")
    return tmp_path


def with_voxel(which: str, value: float) -> Damage:
    def damage(image: Path, label: Path) -> None:
        path = image if which == "image" else label
        array = nib.load(path).get_fdata(dtype=np.float32)
        array[1, 2, 3] = value
        save(array, path)

    return damage


def rewritten(which: str, shape: tuple[int, ...], value: float, shift: float = 0.0) -> Damage:
    def damage(image: Path, label: Path) -> None:
        affine = np.eye(4)
        affine[1, 3] = shift
        array = np.full(shape, value, np.float32)
        array.flat[0] = 0
        save(array, image if which == "image" else label, affine)

    return damage


def with_bytes(change: Callable[[bytes], bytes]) -> Damage:
    return lambda image, label: image.write_bytes(change(image.read_bytes())) and None


def header_promises_more(raw: bytes) -> bytes:
    plain = bytearray(gzip.decompress(raw))
    plain[42:44] = (30000).to_bytes(2, "little")  # dim[1]
    return gzip.compress(bytes(plain))


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "no image": (lambda image, label: image.unlink(), "missing", "the image is missing"),
    "no label": (lambda image, label: label.unlink(), "missing", "the label is missing"),
    "half a file": (with_bytes(lambda raw: raw[: len(raw) // 2]), "unreadable", "image hippocampus_002"),
    "no checksum at its end": (with_bytes(lambda raw: raw[:-8]), "unreadable", "ended before"),
    "wrong checksum": (with_bytes(lambda raw: raw[:-8] + b"12345678"), "unreadable", "CRC"),
    "too few voxels": (
        with_bytes(lambda raw: gzip.compress(gzip.decompress(raw)[:-4])),
        "unreadable",
        "truncated: 1188 of 1192 bytes",
    ),
    "header promises more": (with_bytes(header_promises_more), "unreadable", "truncated"),
    "empty file": (with_bytes(lambda raw: b""), "unreadable", "empty"),
    "text": (with_bytes(lambda raw: b"<html>404</html>" * 99), "unreadable", "gzip"),
    "gzipped text": (with_bytes(lambda raw: gzip.compress(b"<html>404</html>" * 99)), "unreadable", "not NIfTI"),
    "dangling link": (lambda image, label: (image.unlink(), image.symlink_to("gone"))[0], "unreadable", "No such file"),
    "not a number": (with_voxel("image", np.nan), "not finite", "1 of 210 voxels"),
    "infinite": (with_voxel("image", np.inf), "not finite", "1 of 210 voxels"),
    "constant": (rewritten("image", (5, 6, 7), 0.0), "constant", "every voxel"),
    "4D image": (rewritten("image", (5, 6, 7, 2), 1.0), "dimensions", "5 x 6 x 7 x 2"),
    "2D label": (rewritten("label", (5, 6), 1.0), "dimensions", "5 x 6"),
    "other shape": (rewritten("label", (5, 7, 6), 1.0), "grids differ", "label 5 x 7 x 6"),
    "shifted label": (rewritten("label", (5, 6, 7), 1.0, shift=0.5), "grids differ", "0.5 voxels apart"),
    "class 3": (with_voxel("label", 3), "label range", "holds 3: the classes are 0, 1, 2"),
    "negative label": (with_voxel("label", -1), "label range", "holds -1"),
    "half a label": (with_voxel("label", 1.5), "not an integer", "1.5"),
    "label not a number": (with_voxel("label", np.nan), "not an integer", "nan"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_the_one_thing_reported(root: Path, damage: str) -> None:
    act, kind, message = DAMAGES[damage]
    folder = root / "Task04_Hippocampus"
    act(*(folder / part / f"{BAD}.nii.gz" for part in ("imagesTr", "labelsTr")))
    report = check_dataset(NAME, root, progress=False)
    assert [(finding.case, finding.kind, finding.warning) for finding in report.findings] == [(BAD, kind, False)]
    assert message in report.findings[0].message
    assert not report.ok and BAD in report.table() and "problems: 1" in report.table()


def test_a_rounded_affine_and_an_empty_label_pass(root: Path) -> None:
    label = root / "Task04_Hippocampus/labelsTr" / f"{BAD}.nii.gz"
    rewritten("label", (5, 6, 7), 0.0, shift=1e-4)(label, label)
    report = check_dataset(NAME, root, progress=False)
    assert report.ok and [(f.case, f.kind, f.warning) for f in report.findings] == [(BAD, "empty label", True)]
    written = json.loads(report.dumps())
    assert written["ok"] and written["counts"]["present"] == 3 and written["findings"][0]["case"] == BAD


def test_a_misspelt_case_is_pointed_out(root: Path) -> None:
    folder = root / "Task04_Hippocampus/imagesTr"
    (folder / f"{BAD}.nii.gz").rename(folder / "hippocampus_2.nii.gz")
    findings = check_dataset(NAME, root, progress=False).findings
    assert [(f.case, f.kind, f.warning) for f in findings] == [
        ("hippocampus_2.nii.gz", "foreign", True),
        (BAD, "missing", False),
    ]


def test_cases_that_dataset_json_lists_must_be_there(root: Path) -> None:
    listed = [{"image": f"./imagesTr/hippocampus_{n:03d}.nii.gz"} for n in (1, 2, 3, 4)]
    description = root / "Task04_Hippocampus/dataset.json"
    description.write_text(json.dumps({"training": listed}))
    (finding,) = check_dataset(NAME, root, progress=False).findings
    assert (finding.case, finding.kind) == ("hippocampus_004", "missing")
    description.write_text("{")
    (finding,) = check_dataset(NAME, root, progress=False).findings
    assert (finding.case, finding.kind) == ("dataset.json", "unreadable")


def test_a_folder_without_cases_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "Task04_Hippocampus/imagesTr").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no case"):
        check_dataset(NAME, tmp_path, progress=False)


def test_the_real_volumes_are_in_order(real_data: Path) -> None:
    if not (real_data / "Task04_Hippocampus").is_dir():
        pytest.skip(f"no Task04_Hippocampus in {real_data}")
    report = check_dataset(NAME, real_data, progress=False)
    assert report.ok and not report.phantom, report.table()
