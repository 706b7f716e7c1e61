"""What inference makes has the file's kind, size, orientation and place."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import AsDiscreted, Compose, DivisiblePadd, Invertd, Orientationd, SaveImaged, ScaleIntensityd
from PIL import Image

from monai_ext.data.image_list import ImagesIn
from monai_ext.data.picture_files import picture_bytes
from monai_ext.data.picture_transforms import ChannelsOfd
from monai_ext.data.pictures import picture_info, read_picture
from monai_ext.data.save import SaveLikeInputd, distinct_names
from monai_ext.data.transforms import CheckVolumed, LoadVolumed, VolumeSpacingd
from tests.data.test_readers import made_up_volume, write_series

UPRIGHT = (7, 5)  # width and height
AFFINE = np.array([[0, 1.5, 0, -10], [-1.5, 0, 0, 4], [0, 0, 2.0, 3], [0, 0, 0, 1.0]])


def picture(path: Path, dtype: type = np.uint8, orientation: int = 1, colour: bool = False) -> Path:
    array = np.random.default_rng(0).integers(0, 255, (*UPRIGHT, *[3] * colour)).astype(dtype)
    if path.suffix in (".png", ".tif"):
        path.write_bytes(picture_bytes([array], orientation, path.suffix))
    else:
        Image.fromarray(np.swapaxes(array, 0, 1)).save(path)
    return path


def loaded(path: Path, **options) -> dict:
    return LoadVolumed("image", ensure_channel_first=True, **options)({"image": path})


def prediction(item: dict, array: np.ndarray | torch.Tensor) -> dict:
    """As a network gives it: with the image's meta data."""
    image = item["image"]
    return {**item, "pred": MetaTensor(torch.as_tensor(array), meta=dict(image.meta), affine=image.affine)}


def labels(*shape: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(2).integers(0, classes, (1, *shape)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "tif", "TIFF"])
@pytest.mark.parametrize("colour", [False, True])
def test_labels_of_a_picture(tmp_path: Path, suffix: str, colour: bool) -> None:
    path = picture(tmp_path / f"Äuge 1.x.{suffix}", colour=colour)
    array = labels(*UPRIGHT)
    SaveLikeInputd("pred", tmp_path / "out")(prediction(loaded(path), array))
    (written,) = (tmp_path / "out").iterdir()
    assert written.name == "Äuge 1.x_seg.png"
    with Image.open(written) as image:
        assert image.mode == "L" and image.size == UPRIGHT
        np.testing.assert_array_equal(np.asarray(image).T, array[0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_turned_camera_stays_turned(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = picture(tmp_path / f"a.{suffix}", orientation=orientation)
    item = loaded(path)
    assert item["image"].shape[1:] == UPRIGHT
    save = SaveLikeInputd("pred", tmp_path / "out", content="image", output_postfix="")
    save(prediction(item, item["image"].numpy()))
    written = tmp_path / "out" / "a.png"
    with Image.open(written) as result, Image.open(path) as source:
        assert result.size == (picture_info(path).width, picture_info(path).height)
        if suffix == "png":  # Pillow turns a TIFF by itself
            np.testing.assert_array_equal(np.asarray(result), np.asarray(source))
    np.testing.assert_array_equal(read_picture(written)[0], item["image"][0])
    assert picture_info(written).orientation == orientation


@pytest.mark.parametrize(
    ("suffix", "dtype", "channels", "expected"),
    [
        ("jpg", np.uint8, 1, (".png", np.uint8)),
        ("bmp", np.uint8, 3, (".png", np.uint8)),
        ("png", np.uint16, 1, (".png", np.uint16)),
        ("png", np.uint16, 3, (".tif", np.uint16)),
        ("tif", np.uint16, 1, (".png", np.uint16)),
        ("tif", np.float32, 1, (".tif", np.float32)),
        ("tif", np.float32, 3, (".tif", np.float32)),
        ("tif", np.int32, 1, (".tif", np.int32)),
    ],
)
def test_images_keep_their_depth(tmp_path: Path, suffix: str, dtype: type, channels: int, expected: tuple) -> None:
    path = picture(tmp_path / f"a.{suffix}", dtype)
    array = np.random.default_rng(1).normal(100, 90, (channels, *UPRIGHT)).astype(np.float32)
    SaveLikeInputd("pred", tmp_path / "out", content="image", output_postfix="clean")(prediction(loaded(path), array))
    (written,) = (tmp_path / "out").iterdir()
    found, info = read_picture(written)
    assert written.name == f"a_clean{expected[0]}" and info.dtype == expected[1]
    wanted = array
    if expected[1] is not np.float32:
        limits = np.iinfo(expected[1])
        wanted = np.clip(np.round(array), limits.min, limits.max)
        assert (wanted != array.round()).any() == (limits.min == 0), "values below black are cut off"
    np.testing.assert_array_equal(found.reshape(*UPRIGHT, channels), np.moveaxis(wanted, 0, -1))


def test_black_and_white_of_a_networks_range(tmp_path: Path) -> None:
    array = np.linspace(-1.2, 1.2, 35, dtype=np.float32).reshape(1, *UPRIGHT)
    for suffix, dtype, white in (("png", np.uint8, 255), ("tif", np.uint16, 65535)):
        item = loaded(picture(tmp_path / f"a.{suffix}", dtype))
        save = SaveLikeInputd("pred", tmp_path / "out", content="image", value_range=(-1, 1), print_log=False)
        save(prediction(item, array))
        found, _ = read_picture(tmp_path / "out" / "a_seg.png")
        np.testing.assert_allclose(found, np.clip((array[0] + 1) / 2, 0, 1) * white, atol=0.51)


def test_pixel_values_of_classes(tmp_path: Path) -> None:
    item = loaded(picture(tmp_path / "a.png"))
    array = labels(*UPRIGHT, classes=2)
    SaveLikeInputd("pred", tmp_path / "out", values=(0, 255))(prediction(item, array))
    np.testing.assert_array_equal(read_picture(tmp_path / "out/a_seg.png")[0], array[0] * 255)
    with pytest.raises(ValueError, match=r"a\.png holds the class 2, values has 2 classes"):
        SaveLikeInputd("pred", tmp_path / "out", values=(0, 255))(prediction(item, labels(*UPRIGHT)))
    many = labels(*UPRIGHT, classes=1000)
    SaveLikeInputd("pred", tmp_path / "out")(prediction(item, many))
    np.testing.assert_array_equal(read_picture(tmp_path / "out/a_seg.png")[0], many[0])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((0, 255), np.uint8), ((0, 1000), np.uint16), ((0, 70000), np.int32), ((0, -1), np.int32)],
    ids=str,
)
def test_values_come_back_whatever_they_are(tmp_path: Path, values: tuple[int, int], dtype: type) -> None:
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((4, 5, 6), np.float32), AFFINE), tmp_path / "b.nii.gz")
    array = labels(4, 5, 6, classes=2)
    save = SaveLikeInputd("pred", tmp_path / "out", values=values, volume_values=values)
    save(prediction(loaded(tmp_path / "b.nii.gz"), array))
    written = np.asarray(nib.load(tmp_path / "out/b_seg.nii.gz").dataobj)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, np.asarray(values)[array[0].astype(int)])
    flat = labels(*UPRIGHT, classes=2)
    save(prediction(loaded(picture(tmp_path / "a.png")), flat))
    (written_picture,) = (tmp_path / "out").glob("a_seg.*")
    np.testing.assert_array_equal(read_picture(written_picture)[0], np.asarray(values)[flat[0].astype(int)])


def test_probabilities(tmp_path: Path) -> None:
    array = torch.softmax(torch.randn(3, *UPRIGHT), 0)
    save = SaveLikeInputd("pred", tmp_path / "out", content="probabilities", output_postfix="prob")
    save(prediction(loaded(picture(tmp_path / "a.jpg")), array))
    np.testing.assert_array_equal(read_picture(tmp_path / "out/a_prob.tif")[0], np.moveaxis(array.numpy(), 0, -1))
    path = tmp_path / "b.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((4, 5, 6), np.float32), AFFINE), path)
    volume = torch.softmax(torch.randn(3, 4, 5, 6), 0)
    save(prediction(loaded(path), volume))
    written = nib.load(tmp_path / "out/b_prob.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), np.moveaxis(volume.numpy(), 0, -1))


def test_pages_give_pages(tmp_path: Path) -> None:
    pages = [np.random.default_rng(n).integers(0, 255, UPRIGHT, dtype=np.uint8) for n in range(3)]
    (tmp_path / "a.tif").write_bytes(picture_bytes(pages, suffix=".tif"))
    array = labels(*UPRIGHT, 3)
    SaveLikeInputd("pred", tmp_path / "out")(prediction(loaded(tmp_path / "a.tif"), array))
    np.testing.assert_array_equal(read_picture(tmp_path / "out/a_seg.tif")[0], array[0])


def test_a_volume_through_the_usual_chain(tmp_path: Path) -> None:
    """Loader, batches, Invertd: the way of a bundle."""
    image = np.random.default_rng(0).normal(size=(7, 6, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "scan.nii.gz")
    before = Compose(
        [
            LoadVolumed("image", ensure_channel_first=True),
            Orientationd("image", axcodes="RAS", labels=None),
            VolumeSpacingd("image", pixdim=(1.0, 1.0, 1.0)),
        ]
    )
    (batch,) = DataLoader(Dataset([{"image": str(tmp_path / "scan.nii.gz")}], before), batch_size=1)
    batch["pred"] = (batch["image"] > 0).float()
    save = SaveLikeInputd("pred", tmp_path / "out")
    with pytest.raises(ValueError, match=r"voxels, the file 7 x 6 x 5; put Invertd before"):
        save(decollate_batch(batch)[0])
    after = Compose([Invertd("pred", before, orig_keys="image", nearest_interp=True, to_tensor=True), save])
    after(decollate_batch(batch)[0])
    written = nib.load(tmp_path / "out/scan_seg.nii.gz")
    assert written.shape == (7, 6, 5) and written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    assert written.header.get_xyzt_units()[0] == "mm"
    assert (np.asarray(written.dataobj) == (image > 0)).mean() > 0.6


@pytest.mark.parametrize("kind", ["jpg", "turned png", "dicom"])
def test_a_picture_through_the_usual_chain(tmp_path: Path, kind: str) -> None:
    if kind == "dicom":
        write_series(made_up_volume(), tmp_path / "series")
        path = sorted((tmp_path / "series").iterdir())[0]
    else:
        path = picture(tmp_path / f"a.{kind[-3:]}", orientation=6 if "turned" in kind else 1, colour=kind == "jpg")
    before = Compose(
        [
            LoadVolumed("image", ensure_channel_first=True, spatial_dims=2),
            ChannelsOfd("image", 3),
            CheckVolumed("image", num_channels=3, spatial_dims=2),
            ScaleIntensityd("image"),
            DivisiblePadd("image", k=8),
        ]
    )
    (batch,) = DataLoader(Dataset([{"image": str(path)}], before), batch_size=1)
    assert batch["image"].shape == (1, 3, 8, 8)
    batch["pred"] = torch.cat([batch["image"][:, 1:2], 1 - batch["image"][:, 1:2]], 1)
    after = Compose(
        [
            Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True),
            AsDiscreted("pred", argmax=True),
            SaveLikeInputd("pred", tmp_path / "out"),
        ]
    )
    after(decollate_batch(batch)[0])
    (written,) = (tmp_path / "out").iterdir()
    image = before.transforms[1](before.transforms[0]({"image": str(path)}))["image"]
    expected = ScaleIntensityd("image")({"image": image})["image"].numpy()[1] < 0.5
    if kind == "dicom":
        found = np.asarray(nib.load(written).dataobj)[..., 0]
    else:
        found, info = read_picture(written)
        assert (info.width, info.height) == (picture_info(path).width, picture_info(path).height)
    np.testing.assert_array_equal(found, expected)


def test_a_dicom_series_and_a_single_slice(tmp_path: Path) -> None:
    write_series(made_up_volume(), tmp_path / "1.2.840.1")
    item = loaded(tmp_path / "1.2.840.1")
    SaveLikeInputd("pred", tmp_path / "out")(prediction(item, labels(6, 5, 4)))
    written = nib.load(tmp_path / "out/1.2.840.1_seg.nii.gz")
    np.testing.assert_allclose(written.affine, item["image"].affine, atol=1e-5)
    slice_path = sorted((tmp_path / "1.2.840.1").iterdir())[1]
    item = loaded(slice_path, spatial_dims=2)
    assert item["image"].shape == (1, 6, 5), "one slice of the series, and in two dimensions"
    SaveLikeInputd("pred", tmp_path / "out")(prediction(item, labels(6, 5)))
    written = nib.load(tmp_path / "out" / f"{slice_path.stem}_seg.nii.gz")
    assert written.shape == (6, 5, 1)
    np.testing.assert_allclose(written.affine, item["image"].affine, atol=1e-5)


def test_names_never_clash(tmp_path: Path) -> None:
    paths = [
        tmp_path / name
        for name in ("a.png", "a.jpg", "b.nii.gz", "x/c.png", "y/c.png", "x/d.png", "x/d.jpg", "y/d.png")
    ]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = distinct_names(paths)
    assert names == distinct_names(paths[::-1]), "whatever the order"
    told = [names[path] for path in paths]
    assert told == ["a_png", "a_jpg", "b", "x_c", "y_c", "x_d", "d_jpg", "y_d"]
    assert len({*distinct_names([tmp_path / "E.png", tmp_path / "e.png"]).values()}) == 2
    save = SaveLikeInputd("pred", tmp_path / "out", print_log=False)
    first, second = (loaded(picture(tmp_path / name)) for name in ("a.png", "a.jpg"))
    for item in (first, second, first):
        save(prediction(item, labels(*UPRIGHT)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_jpg_seg.png", "a_seg.png"]
    save = SaveLikeInputd("pred", tmp_path / "told", inputs=map(str, paths[:2]), print_log=False)
    save(prediction(first, labels(*UPRIGHT)))
    assert [path.name for path in (tmp_path / "told").iterdir()] == ["a_png_seg.png"]


REFUSED = {
    "another size": ({}, labels(7, 6), r"has 7 x 6 voxels, the file 7 x 5; put Invertd before"),
    "several channels": ({}, np.zeros((2, *UPRIGHT), np.float32), "is no label map .* AsDiscreted"),
    "not whole": ({}, np.full((1, *UPRIGHT), 0.5, np.float32), "is no label map"),
    "NaN": ({"content": "image"}, np.full((1, *UPRIGHT), np.nan, np.float32), "NaN or infinite"),
    "two channels": ({"content": "image"}, np.zeros((2, *UPRIGHT), np.float32), r"has 2 channels, a picture has 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_predictions_that_are_refused(tmp_path: Path, case: str) -> None:
    options, array, expected = REFUSED[case]
    item = loaded(picture(tmp_path / "a.png"))
    with pytest.raises(ValueError, match=expected) as caught:
        SaveLikeInputd("pred", tmp_path / "out", **options)(prediction(item, array))
    assert str(tmp_path / "a.png") in str(caught.value) and not (tmp_path / "out").exists()


def test_a_prediction_that_lies_elsewhere(tmp_path: Path) -> None:
    item = prediction(loaded(picture(tmp_path / "a.png")), labels(*UPRIGHT))
    item["pred"].affine = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    with pytest.raises(ValueError, match="lies elsewhere than the file; put Invertd before"):
        SaveLikeInputd("pred", tmp_path / "out")(item)


def test_the_image_itself_is_not_overwritten(tmp_path: Path) -> None:
    item = loaded(picture(tmp_path / "a.png"))
    content = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match="is the image itself"):
        SaveLikeInputd("pred", tmp_path, output_postfix="")(prediction(item, labels(*UPRIGHT)))
    assert (tmp_path / "a.png").read_bytes() == content


@pytest.mark.parametrize(
    "options", [{"content": "mask"}, {"content": "image", "values": (0, 1)}, {"value_range": (1, 0)}]
)
def test_options_that_cannot_be(tmp_path: Path, options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options)) if len(options) == 1 else "values"):
        SaveLikeInputd("pred", tmp_path, **options)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file in the way")
    with pytest.raises(OSError, match=r"cannot write .*out/a_seg\.png"):
        SaveLikeInputd("pred", tmp_path / "out")(prediction(loaded(picture(tmp_path / "a.png")), labels(*UPRIGHT)))


def test_what_leaves_out_saving_finds_it() -> None:
    """MONAI Label takes every SaveImaged out of a bundle's postprocessing."""
    assert issubclass(SaveLikeInputd, SaveImaged)


def test_the_inputs_are_asked_for_with_the_first_prediction(tmp_path: Path) -> None:
    """A program that leaves the transform out needs no folder of images."""
    saver = SaveLikeInputd("pred", tmp_path / "out", inputs=ImagesIn(tmp_path / "in", spatial_dims=2))
    (tmp_path / "in").mkdir()
    paths = [picture(tmp_path / "in" / name) for name in ("eye.png", "eye.jpg")]
    saver(prediction(loaded(paths[0]), labels(*UPRIGHT)))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["eye_png_seg.png"]
