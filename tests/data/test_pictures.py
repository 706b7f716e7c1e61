"""Pictures come in with the values that their files store, upright, or not at all."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from monai.data import PILReader
from PIL import Image

from monai_ext.data.picture_files import picture_bytes
from monai_ext.data.pictures import PictureError, is_picture, picture_info, read_picture
from monai_ext.data.transforms import LoadVolumed

HEIGHT, WIDTH = 5, 7


def rows(dtype: type = np.uint8, *channels: int) -> np.ndarray:
    """Made-up rows [H, W(, C)] that use the whole range of their type."""
    random = np.random.default_rng(1)
    if np.issubdtype(dtype, np.floating):
        return random.normal(size=(HEIGHT, WIDTH, *channels)).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, (HEIGHT, WIDTH, *channels), dtype=dtype, endpoint=True)


def by_pillow(path: Path, array: np.ndarray, **options) -> None:
    Image.fromarray(array).save(path, **options)


def by_itk(path: Path, array: np.ndarray) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 3), str(path))


KINDS: dict[str, tuple[str, np.ndarray, Callable]] = {
    "grey PNG": ("png", rows(), by_pillow),
    "colour PNG": ("png", rows(np.uint8, 3), by_pillow),
    "PNG with alpha": ("png", rows(np.uint8, 4), by_pillow),
    "grey PNG with alpha": ("PNG", rows(np.uint8, 2), by_pillow),
    "PNG of 16 bits": ("png", rows(np.uint16), by_pillow),
    "colour PNG of 16 bits": ("png", rows(np.uint16, 3), by_itk),
    "grey BMP": ("bmp", rows(), by_pillow),
    "colour BMP": ("bmp", rows(np.uint8, 3), by_pillow),
    "grey TIFF": ("tif", rows(), by_pillow),
    "colour TIFF": ("TIFF", rows(np.uint8, 3), by_pillow),
    "TIFF of 16 bits": ("tif", rows(np.uint16), by_pillow),
    "TIFF of signed 16 bits": ("tif", rows(np.int16), by_itk),
    "TIFF of 32 bits": ("tif", rows(np.int32) // 256, by_pillow),  # as many digits as float32 has
    "float TIFF": ("tiff", rows(np.float32), by_pillow),
    "colour TIFF of 16 bits": ("tif", rows(np.uint16, 3), by_itk),
    "colour float TIFF": ("tif", rows(np.float32, 3), by_itk),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_header_are_the_files(tmp_path: Path, kind: str) -> None:
    suffix, array, write = KINDS[kind]
    path = tmp_path / f"Bild é ü.{suffix}"
    write(path, array)
    found, info = read_picture(path)
    assert is_picture(path) and info == picture_info(path)
    np.testing.assert_array_equal(found, np.swapaxes(array, 0, 1))
    assert (info.width, info.height, info.pages, info.orientation) == (WIDTH, HEIGHT, 1, 1)
    assert info.shape == (WIDTH, HEIGHT) and found.dtype == info.dtype
    loaded = LoadVolumed("image", ensure_channel_first=True)({"image": path})["image"]
    assert loaded.shape == (array.shape[2] if array.ndim == 3 else 1, WIDTH, HEIGHT)
    np.testing.assert_array_equal(loaded.numpy()[0], np.swapaxes(array, 0, 1).reshape(WIDTH, HEIGHT, -1)[..., 0])
    np.testing.assert_array_equal(loaded.affine, np.eye(4))
    assert loaded.meta["filename_or_obj"] == str(path)


@pytest.mark.parametrize("array", [rows(), rows(np.uint8, 3)])
def test_jpeg_is_read_as_monai_reads_it(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "a.jpeg"
    by_pillow(path, array)
    expected, meta = (reader := PILReader()).get_data(reader.read(path))
    found, info = read_picture(path)
    np.testing.assert_array_equal(found, expected)
    assert info.shape == tuple(meta["spatial_shape"]) and info.format == "JPEG"


def test_white_of_one_bit_is_255(tmp_path: Path) -> None:
    mask = rows() > 100
    by_pillow(tmp_path / "a.png", mask)
    assert Image.open(tmp_path / "a.png").mode == "1"
    found, _ = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(found, np.where(mask, 255, 0).T)


def test_a_palette_gives_what_it_means(tmp_path: Path) -> None:
    index, steps = rows(), np.arange(256, dtype=np.uint8)

    def write(palette: np.ndarray) -> Path:
        picture = Image.frombytes("P", (WIDTH, HEIGHT), index.tobytes())
        picture.putpalette(palette.astype(np.uint8).tobytes())
        picture.save(tmp_path / "a.png")
        return tmp_path / "a.png"

    for hue in ((0, 1, 0), (1, 0, 0), (1, 1, 0)):  # a microscope's single hue: the index is the intensity
        for labels in (False, True):
            np.testing.assert_array_equal(read_picture(write(steps[:, None] * hue), labels)[0], index.T)
    greys = np.stack([255 - steps] * 3, -1)
    for labels in (False, True):
        np.testing.assert_array_equal(read_picture(write(greys), labels)[0], 255 - index.T)
    colours = np.stack([steps, 255 - steps, steps // 2], -1)
    np.testing.assert_array_equal(read_picture(write(colours))[0], colours[index.T])
    np.testing.assert_array_equal(read_picture(write(colours), labels=True)[0], index.T)
    path = write(colours)
    data = LoadVolumed(["image", "label"], ensure_channel_first=True)({"image": path, "label": path})
    assert data["image"].shape[0] == 3 and data["label"].shape[0] == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_turned_camera(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    by_pillow(path, np.repeat(np.repeat(rows(), 8, 0), 8, 1), exif=exif)
    stored = np.repeat(np.repeat(rows(), 8, 0), 8, 1)
    if suffix == "jpg":
        stored = np.asarray(Image.open(path))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }[orientation]
    found, info = read_picture(path)
    np.testing.assert_array_equal(found, upright.T)
    assert info.orientation == orientation and info.shape == found.shape
    assert (info.width, info.height) == (8 * WIDTH, 8 * HEIGHT), "as the rows are stored"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_writing_is_the_inverse_of_reading(tmp_path: Path, suffix: str, orientation: int) -> None:
    for upright in (rows(), rows(np.uint8, 3), rows(np.uint16)):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(picture_bytes([upright], orientation, suffix))
        found, info = read_picture(path)
        np.testing.assert_array_equal(found, upright)
        assert found.dtype == upright.dtype and info.orientation == orientation


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_pages_are_slices(tmp_path: Path, kind: type) -> None:
    pages = [rows(kind), rows(kind)[::-1], rows(kind)[:, ::-1]]
    (tmp_path / "a.tif").write_bytes(picture_bytes([page.T for page in pages], suffix=".tif"))
    found, info = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, np.stack([page.T for page in pages], -1))
    assert info.shape == (WIDTH, HEIGHT, 3)
    loaded = LoadVolumed("image", ensure_channel_first=True)({"image": tmp_path / "a.tif"})["image"]
    assert loaded.shape == (1, WIDTH, HEIGHT, 3)


def test_small_copies_of_a_page_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    first, second = Image.fromarray(rows()), Image.fromarray(rows()[::2, ::2])
    first.save(path, tiffinfo={0x00FE: 1}, save_all=True, append_images=[second])  # each marked as a small copy
    with pytest.raises(PictureError, match="nothing but reduced copies"):
        read_picture(path)
    content = path.read_bytes()
    marks = [content.find(struct.pack("<HHL", 0x00FE, kind, 1)) for kind in (3, 4)]  # as a short or long number
    mended = bytearray(content)
    mended[max(marks) + 8] = 0
    path.write_bytes(mended)
    found, info = read_picture(path)
    np.testing.assert_array_equal(found, rows().T)
    assert info.pages == 1


def test_pages_that_make_no_volume(tmp_path: Path) -> None:
    first, second = Image.fromarray(rows()), Image.fromarray(rows()[::2])
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(PictureError, match=r"a\.tif has 2 pages of different sizes or kinds \(7 x 3, 7 x 5\)"):
        LoadVolumed("image")({"image": tmp_path / "a.tif"})


def test_several_files_are_channels(tmp_path: Path) -> None:
    by_pillow(tmp_path / "a.png", rows())
    by_pillow(tmp_path / "b.png", rows()[::-1].copy())
    by_pillow(tmp_path / "c.png", rows(np.uint8, 3))
    load = LoadVolumed("image", ensure_channel_first=True)
    found = load({"image": [tmp_path / "a.png", tmp_path / "b.png"]})["image"]
    np.testing.assert_array_equal(found, np.stack([rows().T, rows()[::-1].T]))
    with pytest.raises(PictureError, match=r"a\.png and .*c\.png cannot be stacked as channels"):
        load({"image": [tmp_path / "a.png", tmp_path / "c.png"]})


def flipped(content: bytes) -> bytes:
    damaged = bytearray(content)
    damaged[len(damaged) * 2 // 3] ^= 16
    return bytes(damaged)


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *[(suffix, lambda content: content[: len(content) // 2]) for suffix in ("png", "jpg", "bmp", "tif")],
        *[(suffix, lambda content: content[:20]) for suffix in ("png", "jpg", "bmp", "tif")],
        *[(suffix, lambda content: b"") for suffix in ("png", "jpg", "bmp", "tif")],
        *[(suffix, lambda content: b"<html>not found</html>" * 9) for suffix in ("png", "jpg", "bmp", "tif")],
        ("png", flipped),  # only the checksum tells
    ],
)
def test_damaged_files_end_in_one_sentence(tmp_path: Path, suffix: str, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"a.{suffix}"
    buffer = io.BytesIO()
    big = np.random.default_rng(0).integers(0, 255, (64, 65), dtype=np.uint8)
    Image.fromarray(big).save(buffer, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    path.write_bytes(buffer.getvalue())
    read_picture(path)
    path.write_bytes(damage(buffer.getvalue()))
    with pytest.raises((ValueError, OSError)):
        read_picture(path)
    with pytest.raises(ValueError) as caught:
        LoadVolumed("image")({"image": path})
    message = str(caught.value)
    assert message.startswith(f"{path} (the item's 'image') cannot be read as an image") and "\n" not in message


def test_real_pictures(real_data: Path) -> None:
    folder = real_data / "hagen2021"
    if not folder.is_dir():
        pytest.skip(f"no hagen2021 in {real_data}")
    path = folder / "low_snr_images/nucleus-lowsnr-sample.png"
    found, info = read_picture(path)
    assert info.mode == "P" and found.shape == (512, 512) and found.dtype == np.uint8
    colours = np.asarray(Image.open(path).convert("RGB"))  # red and green are the intensity
    np.testing.assert_array_equal(found.T, colours[..., 0])
