"""Grey, colour, classes, and what of a picture is stopped."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from monai_ext.data.picture_transforms import ChannelsOfd, ClassesOfd, FullScaled
from monai_ext.data.transforms import CheckVolumed, LoadVolumed

SHAPE = (5, 7)  # rows, columns


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def noise(*channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, (*SHAPE, *channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
@pytest.mark.parametrize("wanted", [1, 3])
def test_grey_and_colour(tmp_path: Path, channels: tuple[int, ...], wanted: int) -> None:
    array = noise(*channels)
    path = save(tmp_path / "a.png", array)
    load = Compose([LoadVolumed("image", ensure_channel_first=True), ChannelsOfd("image", wanted)])
    found = load({"image": path})["image"]
    plain = {(): array, (2,): array[..., 0] if channels else array, (3,): array, (4,): array[..., :3]}[channels]
    picture = Image.fromarray(plain)
    expected = np.asarray(picture.convert("L" if wanted == 1 else "RGB")).reshape(*SHAPE, wanted)
    # Pillow's luminance is that of 8 bits
    np.testing.assert_allclose(found.numpy(), expected.transpose(2, 1, 0), atol=0.6 if wanted == 1 else 0)
    assert isinstance(found, MetaTensor) and found.meta["filename_or_obj"] == str(path)


def test_channels_that_are_no_colours() -> None:
    with pytest.raises(ValueError, match=r"the image has 4 channels, neither grey \(1\) nor colour \(3\)"):
        ChannelsOfd("image")({"image": torch.zeros(4, *SHAPE)})  # four modalities and no alpha
    with pytest.raises(ValueError, match="channels must be 1"):
        ChannelsOfd("image", 4)
    assert "x" not in ChannelsOfd("x", allow_missing_keys=True)({})


@pytest.mark.parametrize("kind", ["1 bit", "8 bits", "colour", "alpha", "classes"])
def test_masks_become_classes(tmp_path: Path, kind: str) -> None:
    mask = noise() > 128
    eight = np.where(mask, 255, 0).astype(np.uint8)
    array = {
        "1 bit": mask,
        "8 bits": eight,
        "colour": np.stack([eight] * 3, -1),
        "alpha": np.stack([*[eight] * 3, np.full_like(eight, 200)], -1),
        "classes": mask.astype(np.uint8),
    }[kind]
    path = save(tmp_path / "a.png", array)
    found = ClassesOfd("label")(LoadVolumed("label", ensure_channel_first=True)({"label": path}))["label"]
    np.testing.assert_array_equal(found.numpy()[0], mask.T)
    assert found.meta["filename_or_obj"] == str(path)


def test_values_of_more_classes() -> None:
    found = ClassesOfd("label", values=(0, 2, 1, 40))({"label": torch.tensor([[[0.0, 1, 2, 40]]])})
    assert found["label"].tolist() == [[[0, 2, 1, 3]]]
    found = ClassesOfd("label", values=(0, 2, 1))({"label": torch.tensor([[[0.0, 1]]])})
    assert found["label"].tolist() == [[[0, 2]]], "here 1 is a value of its own"


def test_masks_that_are_none(tmp_path: Path) -> None:
    load = LoadVolumed("label", ensure_channel_first=True)
    lossy = np.where(noise() > 128, 255, 0).astype(np.uint8)
    lossy[2, 3] = 254
    with pytest.raises(ValueError, match=r"a\.png holds the value 254, the classes are stored as 0, 255; .* losses"):
        ClassesOfd("label")(load({"label": save(tmp_path / "a.png", lossy)}))
    with pytest.raises(ValueError, match=r"b\.png has 3 different channels, a mask has one"):
        ClassesOfd("label")(load({"label": save(tmp_path / "b.png", noise(3))}))
    with pytest.raises(ValueError, match="hold one value twice"):
        ClassesOfd("label", values=(0, 0))


STOPPED = {
    "dimensions": (np.stack([noise(), noise(seed=1)]), None, "2 spatial", r"has 3 spatial dimensions .* takes 2"),
    "colour": (noise(3), None, "1 channel", r"has 3 channels, this bundle takes 1; put ChannelsOfd before"),
    "constant": (np.full(SHAPE, 9, np.uint8), None, "", r"is constant \(every voxel is 9\)"),
    "NaN": (np.full(SHAPE, np.nan, np.float32), None, "", r"has 35 voxels that are NaN or infinite"),
    "sizes": (noise(), np.zeros((4, 7), np.uint8), "", r"different grids: \(7, 5\) and \(7, 4\)"),
    "255": (noise(), np.full(SHAPE, 255, np.uint8), "", r"label value 255, the classes are 0 to 1; map .*ClassesOfd"),
}


@pytest.mark.parametrize("case", STOPPED)
def test_pictures_that_are_stopped(tmp_path: Path, case: str) -> None:
    image, label, _, expected = STOPPED[case]
    pages = [Image.fromarray(page) for page in image] if case == "dimensions" else [Image.fromarray(image)]
    pages[0].save(tmp_path / "image.tif", save_all=True, append_images=pages[1:])
    label = np.zeros(SHAPE, np.uint8) if label is None else label
    item = {"image": tmp_path / "image.tif", "label": save(tmp_path / "label.png", label)}
    data = LoadVolumed(["image", "label"], ensure_channel_first=True)(item)
    with pytest.raises(ValueError, match=expected) as caught:
        CheckVolumed(["image", "label"], num_classes=2, spatial_dims=2)(data)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_good_pictures_go_through(tmp_path: Path) -> None:
    item = {
        "image": save(tmp_path / "a.png", noise(3)),
        "label": save(tmp_path / "b.png", noise() > 99),
    }
    keys = ["image", "label"]
    run = Compose(
        [
            LoadVolumed(keys, ensure_channel_first=True, spatial_dims=2),
            ClassesOfd("label"),
            CheckVolumed(keys, num_classes=2, num_channels=3, spatial_dims=2),
        ]
    )
    data = run(item)
    assert data["image"].shape == (3, 7, 5) and data["label"].unique().tolist() == [0, 1]
    pair = {"image": item["image"], "label": save(tmp_path / "clean.png", noise(3, seed=1))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check = CheckVolumed(keys, label_keys=(), num_channels=3, spatial_dims=2)  # denoising: both are images
        check(LoadVolumed(keys, ensure_channel_first=True)(pair))


# full scale


@pytest.mark.parametrize(
    ("name", "dtype", "scale"),
    [("a.png", np.uint8, 255), ("a.png", np.uint16, 65535), ("a.tif", np.uint16, 65535), ("a.tif", np.float32, 1)],
)
def test_full_scale_of_pictures(tmp_path: Path, name: str, dtype: type, scale: int) -> None:
    """What the file can hold counts, not what this picture holds: a dark one stays dark."""
    array = (noise() / 255 * (1 if scale == 1 else 200)).astype(dtype)
    item = LoadVolumed("image", ensure_channel_first=True)({"image": save(tmp_path / name, array)})
    found = FullScaled("image")(item)["image"]
    np.testing.assert_allclose(found.numpy()[0], array.T / scale, rtol=1e-6)
    assert found.meta["filename_or_obj"] == str(tmp_path / name) and found.max() < 1


@pytest.mark.parametrize(
    ("high", "scale"),
    [(0.0, 1), (0.7, 1), (1.0, 1), (1.5, 255), (255, 255), (256, 4095), (4095, 4095), (4096, 65535), (65535, 65535)],
)
def test_full_scale_of_files_that_do_not_say(tmp_path: Path, high: float, scale: int) -> None:
    array = np.linspace(min(0.0, high), high, 12, dtype=np.float32).reshape(3, 4)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    load = LoadVolumed("image", ensure_channel_first=True)
    for image in (load({"image": tmp_path / "a.nii"})["image"], torch.from_numpy(array)[None]):
        found = FullScaled("image")({"image": image})["image"]
        np.testing.assert_allclose(found.numpy().reshape(3, 4), array / scale, rtol=1e-6)


def test_full_scale_that_no_picture_has() -> None:
    beyond = MetaTensor(torch.full((1, 2, 2), 300.0), meta={"full_scale": 255.0, "filename_or_obj": "a.png"})
    assert float(FullScaled("image")({"image": beyond})["image"].max()) == pytest.approx(300 / 4095), "changed since"
    for high in (65536.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"the image holds {high:g}, beyond 16 bits"):
            FullScaled("image")({"image": torch.full((1, 2, 2), high)})
    assert FullScaled("x", allow_missing_keys=True)({}) == {}
