"""Bad images are told in one sentence that names file, value and way out; good ones go through MONAI as ever."""

from __future__ import annotations

import gzip
import re
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd, SaveImaged, Spacingd

from monai_ext.data.transforms import CheckVolumed, LoadVolumed, VolumeSpacingd, check_datalist

AFFINE = np.array([[0, 1.5, 0, -10], [-1.5, 0, 0, 4], [0, 0, 2.0, 3], [0, 0, 0, 1.0]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def item(tmp_path: Path) -> dict[str, str]:
    random = np.random.default_rng(0)
    image = random.normal(size=(7, 6, 5)).astype(np.float32)
    label = random.integers(0, 3, (7, 6, 5)).astype(np.uint8)
    return {
        "image": save(tmp_path / "image.nii.gz", image),
        "label": save(tmp_path / "label.nii", label),
        "image_path": "a string that MONAI Label adds",
    }


def test_it_loads_as_monai_does(item: dict[str, str]) -> None:
    keys = ["image", "label"]
    ours, monais = LoadVolumed(keys)(item), LoadImaged(keys)(item)
    assert ours["image_path"] == item["image_path"]
    for key in keys:
        assert torch.equal(ours[key], monais[key]) and ours[key].dtype == monais[key].dtype
        assert torch.equal(ours[key].affine, monais[key].affine)
        assert list(ours[key].meta) == list(monais[key].meta)
        assert ours[key].meta["filename_or_obj"] == item[key]


def test_invert_and_save(item: dict[str, str], tmp_path: Path) -> None:
    """A prediction comes back to the grid of the file, with its name."""
    before = Compose(
        [
            LoadVolumed("image", ensure_channel_first=True),
            CheckVolumed("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            VolumeSpacingd("image", pixdim=(1.0, 1.0, 1.0)),
        ]
    )
    data = before(item)
    assert data["image"].shape[1:] != (7, 6, 5)
    data["pred"] = MetaTensor(torch.ones(1, *data["image"].shape[1:]), meta=data["image"].meta)
    after = Compose(
        [
            Invertd("pred", before, orig_keys="image", nearest_interp=True, to_tensor=True),
            SaveImaged(
                "pred", output_dir=tmp_path / "out", output_postfix="seg", output_dtype=np.uint8, print_log=False
            ),
        ]
    )
    after(data)
    written = nib.load(tmp_path / "out" / "image" / "image_seg.nii.gz")
    assert written.shape == (7, 6, 5) and written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)


def test_monais_spacing_trips_over_other_keys_and_ours_does_not(item: dict[str, str]) -> None:
    data = LoadVolumed(["image", "label"], ensure_channel_first=True)(item)
    options = {"keys": ["image", "label"], "pixdim": (1.0, 1.0, 1.0), "mode": ("bilinear", "nearest")}
    with pytest.raises(AttributeError):
        Spacingd(**options)(data)
    del data["image_path"]
    expected = Spacingd(**options)(data)
    found = VolumeSpacingd(**options)({**data, "image_path": "x", "other": 3})
    assert torch.equal(found["image"], expected["image"]) and torch.equal(found["label"], expected["label"])
    assert found["image_path"] == "x" and found["other"] == 3
    with pytest.raises(KeyError):
        VolumeSpacingd(**options)({"image": data["image"]})
    assert "label" not in VolumeSpacingd(**options, allow_missing_keys=True)({"image": data["image"]})


def test_several_files_are_channels(item: dict[str, str]) -> None:
    data = LoadVolumed("image", ensure_channel_first=True)({"image": [item["image"], item["image"]]})
    assert data["image"].shape == (2, 7, 6, 5)


def test_missing_files(item: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*/none\.nii\.gz \(the item's 'label'\); check dataset_dir"):
        LoadVolumed(["image", "label"])({**item, "label": str(tmp_path / "none.nii.gz")})
    with pytest.raises(ValueError, match="the item's 'image' must be a path, got Tensor"):
        LoadVolumed("image")({"image": torch.zeros(3)})
    with pytest.raises(KeyError):
        LoadVolumed(["image", "label"])({"image": item["image"]})
    assert set(LoadVolumed(["image", "label"], allow_missing_keys=True)({"image": item["image"]})) == {"image"}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.nii.gz", lambda content: content[: len(content) // 2]),
        ("a.nii.gz", lambda content: content[:20]),
        ("a.nii.gz", lambda content: b""),
        ("a.nii.gz", lambda content: b"<html>not found</html>" * 50),
        ("a.nii", lambda content: gzip.decompress(content)[:-50]),
        ("a.nii", lambda content: gzip.decompress(content)[:100]),
        ("a.nii", lambda content: b""),
        ("a.nii", lambda content: b"<html>not found</html>" * 50),
        ("a.dcm", lambda content: b"no DICOM"),
        ("a.png", lambda content: b"no picture"),
        ("a.txt", lambda content: b"text"),
    ],
)
def test_files_that_are_no_images(item: dict[str, str], tmp_path: Path, name: str, damage) -> None:
    path = tmp_path / name
    path.write_bytes(damage(Path(item["image"]).read_bytes()))
    with pytest.raises(ValueError) as caught:
        LoadVolumed("image")({"image": str(path)})
    message = str(caught.value)
    assert message.startswith(f"{path} (the item's 'image') cannot be read as an image: it is truncated, damaged")
    assert message.endswith("fetch it again or take it out of the data list.")
    assert "\n" not in message and len(message) < 400


CHECK = {"keys": ["image", "label"], "num_classes": 3}


def bad_items() -> dict[str, tuple]:
    """What is wrong, the options, and what the sentence says."""
    image = np.random.default_rng(1).normal(size=(7, 6, 5)).astype(np.float32)
    label = (image > 0).astype(np.uint8)
    holed = image.copy()
    holed[1, 2, 3] = np.nan
    endless = image.copy()
    endless[0, 0, :2] = np.inf
    halves = label.astype(np.float32)
    halves[3, 3, 3] = 1.5
    moved = AFFINE.copy()
    moved[0, 3] += 1.5
    other = np.where(label > 0, 7, 0).astype(np.uint8)
    negative = -label.astype(np.int16)
    time_series = np.stack([image] * 4, -1)
    return {
        "NaN": (holed, label, {}, r"image\.nii has 1 voxels that are NaN or infinite; repair"),
        "infinite": (endless, label, {}, r"image\.nii has 2 voxels that are NaN or infinite; repair"),
        "constant": (np.full_like(image, 3), label, {}, r"image\.nii is constant \(every voxel is 3\)"),
        "channels": (time_series, label, {}, r"image\.nii has 4 channels, this bundle takes 1"),
        "wanted channels": (image, label, {"num_channels": 2}, r"image\.nii has 1 channels, this bundle takes 2"),
        "dimensions": (image[..., 0], label, {}, r"image\.nii has 2 spatial dimensions \(shape \(7, 6\)\)"),
        "2D bundle": (image, label, {"spatial_dims": 2}, r"image\.nii has 3 spatial dimensions .* takes 2"),
        "grids": (
            image,
            label[:, :-1],
            {},
            r"image\.nii and the label .*label\.nii have different grids: .*\(7, 5, 5\)",
        ),
        "class": (image, other, {}, r"label\.nii has the label value 7, the classes are 0 to 2"),
        "negative": (image, negative, {}, r"label\.nii has the label value -1, the classes are 0 to 2"),
        "halves": (image, halves, {}, r"label\.nii has the label value 1\.5, labels must be whole numbers"),
        "places": (image, (label, moved), {}, r"lie at different places: .* up to 1\.00 voxels apart"),
    }


@pytest.mark.parametrize("case", bad_items())
def test_volumes_that_are_stopped(tmp_path: Path, case: str) -> None:
    image, label, options, expected = bad_items()[case]
    label, affine = label if isinstance(label, tuple) else (label, AFFINE)
    item = {"image": save(tmp_path / "image.nii", image), "label": save(tmp_path / "label.nii", label, affine)}
    data = LoadVolumed(["image", "label"], ensure_channel_first=True)(item)
    with pytest.raises(ValueError) as caught:
        CheckVolumed(**{**CHECK, **options})(data)
    message = str(caught.value)
    assert re.search(expected, message), message
    assert str(tmp_path) in message and "\n" not in message and message.endswith(".")


def test_good_volumes_go_through_untouched(item: dict[str, str]) -> None:
    data = LoadVolumed(["image", "label"], ensure_channel_first=True)(item)
    found = CheckVolumed(**CHECK)(data)
    assert found.keys() == data.keys() and all(found[key] is data[key] for key in data)


def test_affines_that_differ_by_rounding_are_the_same(item: dict[str, str], tmp_path: Path) -> None:
    far = AFFINE.copy()
    far[:3, 3] += 400
    rounded = far.copy()
    rounded[:3, :3] *= 1 + 1e-4
    image = nib.load(item["image"]).get_fdata().astype(np.float32)
    item = {
        "image": save(tmp_path / "a.nii", image, far),
        "label": save(tmp_path / "b.nii", (image > 0) * 1.0, rounded),
    }
    CheckVolumed(**CHECK)(LoadVolumed(["image", "label"], ensure_channel_first=True)(item))


def test_labels_are_optional_and_empty_ones_are_warned_of(item: dict[str, str], tmp_path: Path) -> None:
    image = LoadVolumed("image", ensure_channel_first=True)({"image": item["image"]})
    with pytest.raises(KeyError):
        CheckVolumed(**CHECK)(image)
    CheckVolumed(**CHECK, allow_missing_keys=True)(image)
    empty = save(tmp_path / "empty.nii", np.zeros((7, 6, 5), np.uint8))
    data = LoadVolumed(["image", "label"], ensure_channel_first=True)({**item, "label": empty})
    with pytest.warns(UserWarning, match=r"empty\.nii has no foreground voxel"):
        CheckVolumed(**CHECK)(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CheckVolumed(**CHECK, warn_empty_label=False)(data)


def test_check_datalist(item: dict[str, str]) -> None:
    items = [{"image": item["image"], "label": item["label"]}]
    assert check_datalist(items) is items
    with pytest.raises(
        FileNotFoundError, match=r"2 of 4 files of the data list are missing, the first is /none/a\.nii;"
    ):
        check_datalist([*items, {"image": "/none/a.nii", "label": "/none/b.nii"}])
    with pytest.raises(ValueError, match="the data list is empty"):
        check_datalist([])
    with pytest.raises(ValueError, match=r"item 0 of the data list has no 'label'; it has \['image'\]"):
        check_datalist([{"image": item["image"]}])
    check_datalist([{"image": item["image"]}], allow_missing_keys=True)
    check_datalist([{"image": [item["image"], item["label"]]}], keys="image")
