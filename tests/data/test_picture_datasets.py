"""Data sets of pictures: phantom, data list, check, and the real ones where they are."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.data import case_counts, datalist, load_manifest
from monai_ext.data.check import check_dataset
from monai_ext.data.image_list import images_in
from monai_ext.data.phantom import PHANTOMS, choose_cases, draw_phantom
from monai_ext.data.pictures import read_picture

FUNDUS, EXPOSURES = "chase_db1", "hagen2021"
SPLITS = ("train", "validation", "test")


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def fundus(fundus_phantom: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(fundus_phantom, tmp_path / "chasedb1")


@pytest.fixture
def exposures(exposures_phantom: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exposures_phantom, tmp_path / "hagen2021")


# manifests


def test_no_child_stands_in_two_splits_and_the_test_is_the_official_one() -> None:
    manifest = load_manifest(FUNDUS)
    assert manifest.labels == (0, 1) and manifest.values == (0, 255)
    assert len(manifest.listed) == manifest.cases == 28
    by_child: dict[str, set] = {}
    for case, split in manifest.listed.items():
        by_child.setdefault(case[:-1], set()).add(split)
    assert all(len(splits) == 1 for splits in by_child.values()) and len(by_child) == 14
    cases = sorted(manifest.listed)
    assert [case for case in cases if manifest.split_of(case) == "test"] == cases[20:]
    assert [case for case in cases if manifest.split_of(case) == "validation"] == [
        "Image_05L",
        "Image_05R",
        "Image_10L",
        "Image_10R",
    ]
    assert manifest.split_of("Image_15L") is None


def test_the_test_shows_what_training_never_sees() -> None:
    manifest = load_manifest(EXPOSURES)
    assert manifest.labels == manifest.values == () and len(manifest.listed) == manifest.cases == 8
    shown = {split: {case.split("-")[0] for case, its in manifest.listed.items() if its == split} for split in SPLITS}
    assert shown["test"] == {"membrane", "nucleus"} and not shown["test"] & (shown["train"] | shown["validation"])
    assert manifest.unpaired == {"actin-60x-noise2", "actin-confocal"}


# phantoms


def test_photographs_look_as_the_official_ones(fundus_phantom: Path) -> None:
    report = check_dataset(FUNDUS, fundus_phantom, progress=False)
    assert report.phantom and not report.findings, report.table()
    assert {split: len(datalist(FUNDUS, fundus_phantom, split)) for split in SPLITS} == dict(zip(SPLITS, (3, 1, 1)))
    for entry in datalist(FUNDUS, fundus_phantom.parent, "all"):
        assert Path(entry["image"]).name == f"{entry['case']}.jpg"
        assert Path(entry["label"]).name == f"{entry['case']}_1stHO.png"
        assert Path(entry["second_label"]).name == f"{entry['case']}_2ndHO.png"
        image, first, second = (Image.open(entry[kind]) for kind in ("image", "label", "second_label"))
        assert (image.mode, first.mode, second.mode) == ("RGB", "1", "1")
        assert image.size == first.size == second.size == (160, 154)
        first, second = np.asarray(first), np.asarray(second)
        assert 0.04 < first.mean() < 0.16 and 0.02 < second.mean() < 0.16
        agreement = 2 * (first & second).sum() / (first.sum() + second.sum())
        assert 0.5 < agreement < 0.97, "two observers, not one twice"
        corners = np.asarray(image)[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.max() < 16 and not first[np.asarray(image).max(-1) < 16].any()


def test_the_usual_size_is_the_official_one(tmp_path: Path) -> None:
    from monai_ext.data.phantom_chase import HEIGHT, WIDTH, draw_fundus

    assert (WIDTH, HEIGHT) == (999, 960)
    shapes = {array.shape[:2] for array in draw_fundus(np.random.default_rng(0), "Image_01L", 333)}
    assert shapes == {(320, 333)}, "height and width keep their ratio"


def test_no_window_of_green_finds_the_vessels(fundus_phantom: Path) -> None:
    """Even the best window, chosen with the answer known, per picture: the task is not thresholding."""
    best, contrast = [], []
    for entry in datalist(FUNDUS, fundus_phantom, "all"):
        green, vessels = pixels(entry["image"])[..., 1].ravel().astype(int), pixels(entry["label"]).ravel()
        hits, sizes = np.bincount(green[vessels], minlength=256), np.bincount(green, minlength=256)
        hits, sizes = np.append(0, hits.cumsum()), np.append(0, sizes.cumsum())
        inside, chosen = hits[None] - hits[:, None], sizes[None] - sizes[:, None]
        best.append((2 * inside / (chosen + vessels.sum()).clip(1)).max())
        # learnable: beside a vessel it is brighter than on it
        picture, mask = pixels(entry["image"])[..., 1].astype(float), pixels(entry["label"])
        beside = np.zeros_like(mask)
        for axis in (0, 1):
            for step in (-4, 4):
                beside |= np.roll(mask, step, axis)
        beside &= ~mask & (pixels(entry["image"])[..., 0] > 60)
        contrast.append(picture[beside].mean() - picture[mask].mean())
    assert np.mean(best) < 0.45
    assert np.min(contrast) > 3


def test_exposures_are_pairs(exposures_phantom: Path) -> None:
    report = check_dataset(EXPOSURES, exposures_phantom, progress=False)
    assert report.phantom and not report.findings, report.table()
    entries = datalist(EXPOSURES, exposures_phantom, "all")
    assert [entry["case"] for entry in entries] == sorted(load_manifest(EXPOSURES).listed)
    for entry in entries:
        (low, info), (high, _) = (read_picture(entry[kind]) for kind in ("image", "label"))
        assert info.mode == "P" and low.shape == high.shape == (96, 96)
        low, high = low.astype(float), high.astype(float)
        assert np.corrcoef(low.ravel(), high.ravel())[0, 1] > 0.3, "one scene"
        gain, offset = np.polyfit(high.ravel(), low.ravel(), 1)
        assert abs(gain - 1) > 0.02 or abs(offset) > 2, "each stretched on its own"

        def roughness(picture: np.ndarray) -> float:
            return float(np.abs(np.diff(picture, axis=0)).mean() / picture.std())

        assert roughness(low) > 1.5 * roughness(high), "the low exposure is noisier"


@pytest.mark.parametrize("name", [FUNDUS, EXPOSURES])
def test_same_seed_same_picture_whatever_the_number(name: str, tmp_path: Path) -> None:
    def drawn(cases: int, seed: int) -> dict[str, bytes]:
        folder = draw_phantom(name, tmp_path, cases=cases, seed=seed, size=48, progress=False)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.[jp][pn]g")}

    few, many, other = drawn(3, 0), drawn(4, 0), drawn(3, 1)
    assert len(few) < len(many) and few.items() <= many.items()
    assert few.keys() == other.keys() and not any(few[path] == other[path] for path in few)


def test_every_official_name_can_be_drawn(tmp_path: Path) -> None:
    manifest = load_manifest(FUNDUS)
    splits = [manifest.split_of(case) for _, case in choose_cases(manifest, PHANTOMS[FUNDUS], 28)]
    assert tuple(splits.count(split) for split in SPLITS) == (16, 4, 8)
    with pytest.raises(ValueError, match=r"--cases 29 is too many: Image_14R is the last of 28 names"):
        draw_phantom(FUNDUS, tmp_path, cases=29, progress=False)


@pytest.mark.parametrize("size", [8, -1, 2.5, True])
def test_sizes_that_cannot_be(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="--size"):
        draw_phantom(FUNDUS, tmp_path, size=size, progress=False)
    with pytest.raises(ValueError, match="--size"):
        draw_phantom("task04_hippocampus", tmp_path, size=64, progress=False)


# data lists


def test_a_missing_second_observer_leaves_the_case(fundus: Path) -> None:
    (fundus / "Image_01L_2ndHO.png").unlink()
    first, *others = datalist(FUNDUS, fundus, "train")
    assert first["case"] == "Image_01L" and "second_label" not in first
    assert all("second_label" in entry for entry in others)
    (finding,) = check_dataset(FUNDUS, fundus, progress=False).findings
    assert (finding.case, finding.kind, finding.warning) == ("Image_01L", "no second observer", True)


def test_halves_that_the_manifest_names_are_passed_over_aloud(
    exposures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    low, high = exposures / "low_snr_images", exposures / "high_snr_images"
    shutil.copy(low / "mito-confocal-lowsnr-sample.png", low / "actin-60x-noise2-lowsnr-sample.png")
    shutil.copy(high / "mito-confocal-highsnr-sample.png", high / "actin-confocal-highsnr-sample.png")
    with caplog.at_level(logging.WARNING):
        entries = datalist(EXPOSURES, exposures, "all")
    assert len(entries) == 8 and "actin-60x-noise2, actin-confocal" in caplog.text
    report = check_dataset(EXPOSURES, exposures, progress=False)
    assert report.ok and [(f.case, f.kind) for f in report.findings] == [
        ("actin-60x-noise2", "unpaired"),
        ("actin-confocal", "unpaired"),
    ]
    (high / "nucleus-highsnr-sample.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"No label for nucleus-lowsnr-sample\.png"):
        datalist(EXPOSURES, exposures, "train")


def test_a_case_in_no_list_is_told_and_in_no_split(fundus: Path) -> None:
    for ending in (".jpg", "_1stHO.png", "_2ndHO.png"):
        shutil.copy(fundus / f"Image_01L{ending}", fundus / f"Image_77L{ending}")
    assert "Image_77L" not in {entry["case"] for split in SPLITS for entry in datalist(FUNDUS, fundus, split)}
    (finding,) = check_dataset(FUNDUS, fundus, progress=False).findings
    assert (finding.case, finding.kind, finding.warning) == ("Image_77L", "no split", True)


def test_a_flat_folder_under_any_name(fundus: Path, tmp_path: Path) -> None:
    renamed = fundus.rename(tmp_path / "meine Daten")
    assert len(datalist(FUNDUS, renamed, "all")) == 5
    with pytest.raises(FileNotFoundError, match=r"no chasedb1/\*\.jpg\): how to get it is told by .*data fetch"):
        datalist(FUNDUS, tmp_path, "all")
    (tmp_path / "chasedb1").mkdir()
    (tmp_path / "chasedb1/holiday.jpg").touch()
    with pytest.raises(FileNotFoundError):
        case_counts(FUNDUS, tmp_path)


def test_images_without_their_labels(fundus: Path, exposures: Path) -> None:
    names = [Path(path).name for path in images_in(fundus, 2, FUNDUS)]
    assert names == [f"{entry['case']}.jpg" for entry in datalist(FUNDUS, fundus, "all")]
    assert len(images_in(fundus, 2)) == 15
    for root in (exposures, exposures / "low_snr_images"):
        assert {Path(path).parent.name for path in images_in(root, 2, EXPOSURES)} == {"low_snr_images"}


# check

Damage = Callable[[Path], object]


def repainted(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return lambda folder: Image.fromarray(change(pixels(folder / name))).save(folder / name)


def with_value(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(mask: np.ndarray) -> np.ndarray:
        mask = np.where(mask, 255, 0).astype(np.uint8)
        mask[3, 4] = value
        return mask

    return change


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "no image": (lambda folder: (folder / "Image_01L.jpg").unlink(), "missing", "the image is missing"),
    "no mask": (lambda folder: (folder / "Image_01L_1stHO.png").unlink(), "missing", "the label is missing"),
    "half a picture": (
        lambda folder: (folder / "Image_01L.jpg").write_bytes((folder / "Image_01L.jpg").read_bytes()[:900]),
        "unreadable",
        "image Image_01L.jpg",
    ),
    "text": (
        lambda folder: (folder / "Image_01L_2ndHO.png").write_bytes(b"<html>" * 99),
        "unreadable",
        "second label Image_01L_2ndHO.png: no picture",
    ),
    "empty": (lambda folder: (folder / "Image_01L.jpg").write_bytes(b""), "unreadable", "the file is empty"),
    "grey photograph": (repainted("Image_01L.jpg", lambda a: a[..., 1]), "channels", "has 1 channels: expected 3"),
    "constant": (repainted("Image_01L.jpg", lambda a: a * 0), "constant", "every voxel of the image is 0"),
    "other size": (repainted("Image_01L_1stHO.png", lambda a: a[:-1]), "grids differ", "label 160 x 153"),
    "turned second mask": (
        repainted("Image_01L_2ndHO.png", lambda a: np.ascontiguousarray(a.T)),
        "grids differ",
        "second label 154 x 160",
    ),
    "strange value": (
        repainted("Image_01L_1stHO.png", with_value(7)),
        "label range",
        "the label holds 7: the classes are stored as 0, 255",
    ),
    "classes for values": (
        repainted("Image_01L_1stHO.png", lambda a: a.astype(np.uint8)),
        "label range",
        "holds 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_the_one_thing_reported(fundus: Path, damage: str) -> None:
    act, kind, message = DAMAGES[damage]
    act(fundus)
    report = check_dataset(FUNDUS, fundus, progress=False)
    assert [(f.case, f.kind, f.warning) for f in report.findings] == [("Image_01L", kind, False)]
    assert message in report.findings[0].message and not report.ok


def test_a_mask_of_8_bits_is_as_good(fundus: Path) -> None:
    repainted("Image_01L_1stHO.png", lambda mask: np.where(mask, 255, 0).astype(np.uint8))(fundus)
    assert not check_dataset(FUNDUS, fundus, progress=False).findings
    repainted("Image_01L_1stHO.png", lambda mask: mask * 0)(fundus)
    (finding,) = check_dataset(FUNDUS, fundus, progress=False).findings
    assert (finding.kind, finding.warning) == ("empty label", True)


def test_a_clean_image_is_checked_as_an_image(exposures: Path) -> None:
    path = exposures / "high_snr_images/nucleus-highsnr-sample.png"
    Image.fromarray(np.full((96, 96), 7, np.uint8)).save(path)
    (finding,) = check_dataset(EXPOSURES, exposures, progress=False).findings
    assert (finding.case, finding.kind) == ("nucleus", "constant") and "of the label" in finding.message


# the real ones


@pytest.mark.parametrize(("name", "folder"), [(FUNDUS, "chasedb1"), (EXPOSURES, "hagen2021")])
def test_the_real_pictures_are_in_order(real_data: Path, name: str, folder: str) -> None:
    if not (real_data / folder).is_dir():
        pytest.skip(f"no {folder} in {real_data}")
    report = check_dataset(name, real_data, progress=False)
    assert report.ok and not report.phantom, report.table()
    assert {finding.kind for finding in report.findings} <= {"unpaired"}, report.table()
    assert report.counts["present"] == report.counts["official"]
    entries = datalist(name, real_data, "all")
    if name == FUNDUS:
        assert all("second_label" in entry for entry in entries)
        assert read_picture(entries[0]["label"])[0].shape == (999, 960)
