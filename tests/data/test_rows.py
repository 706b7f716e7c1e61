"""Images that are rows of arrays: their addresses, what they are to the network, and archives that are none."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Compose, Orientationd

from monai_ext.data.case_name import names_of, stem
from monai_ext.data.rows import Row, array_lengths, file_behind, is_row, parse_row, read_array, read_row
from monai_ext.data.transforms import CheckVolumed, LoadVolumed, check_datalist


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    arrays = {
        "volumes": values(3, 5, 4, 6),
        "grey": values(2, 5, 4),
        "colour": values(2, 5, 4, 3),
        "labels": values(3, 1),
        "number": np.array(7),
        "objects": np.array([{}, []], dtype=object),
    }
    np.savez_compressed(tmp_path / "a b.npz", **arrays)
    return tmp_path / "a b.npz"


# addresses


@pytest.mark.parametrize(
    ("address", "row"),
    [
        ("/x/a.npz::images[0]", Row(Path("/x/a.npz"), "images", 0)),
        ("a.NPZ::train images[0120]", Row(Path("a.NPZ"), "train images", 120)),
        ("a[1].npz::b.npz::c[2]", Row(Path("a[1].npz::b.npz"), "c", 2)),
        (Path("ä b.npz::x[3]"), Row(Path("ä b.npz"), "x", 3)),
        ("a.npz", None),
        ("a.npz::images", None),
        ("a.npz::[0]", None),
        ("a.npz::images[-1]", None),
        ("a.npz::images[0].png", None),
        ("a.nii.gz::images[0]", None),
    ],
)
def test_addresses(address: str | Path, row: Row | None) -> None:
    assert parse_row(address) == row and is_row(address) == (row is not None)
    assert file_behind(address) == Path(address if row is None else row.path)
    if row is not None:
        assert parse_row(str(row)) == row


def test_a_row_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stem("/x/a.npz::val_images[7]") == Row(Path("b.npz"), "val_images", 7).case == "val_images_0007"
    rows = ["/x/a.npz::i[0]", "/x/a.npz::i[1]", "/y/a.npz::i[1]"]
    assert next(iter(names_of(rows).values())) == "i_0000" and len(set(names_of(rows).values())) == 3
    monkeypatch.setenv("HOME", "/home/me")
    assert file_behind("~/a.npz::x[0]") == Path("/home/me/a.npz")


# values


def test_rows_and_lengths(archive: Path) -> None:
    np.testing.assert_array_equal(read_row(f"{archive}::volumes[2]"), values(3, 5, 4, 6)[2])
    np.testing.assert_array_equal(read_array(archive, "labels"), values(3, 1))
    expected = {"volumes": 3, "grey": 2, "colour": 2, "labels": 3, "number": 0}
    assert {name: length for name, length in array_lengths(archive).items() if name != "objects"} == expected
    with pytest.raises(ValueError, match="read-only"):
        read_row(f"{archive}::grey[0]")[0] = 1


def test_a_changed_file_is_read_anew(archive: Path) -> None:
    before = read_array(archive, "grey")
    assert read_array(archive, "grey") is before
    np.savez(archive, grey=values(2, 5, 4) + 1)
    os.utime(archive, (1, 1))
    np.testing.assert_array_equal(read_row(f"{archive}::grey[1]"), (values(2, 5, 4) + 1)[1])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("{}", r"a b\.npz is no address of a row: expected PATH\.npz::ARRAY\[ROW\]"),
        ("{}::grey[2]", r"a b\.npz has no row 2 in grey: it holds 2"),
        ("{}::greys[0]", r"no array 'greys' in it, it holds volumes, grey, colour"),
        ("{}::objects[0]", "Object arrays cannot be loaded"),
        ("{}::number[0]", "'number' in it has no rows"),
    ],
)
def test_rows_that_are_not_there(archive: Path, address: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_row(address.format(archive))


def single_array(_: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values(2, 5, 4))
    return buffer.getvalue()


def zip_of_text(_: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("grey.npy", b"no array")
    return buffer.getvalue()


def flipped(content: bytes) -> bytes:
    """A bit in the middle of what is packed of the array `grey`."""
    at = content.index(b"grey.npy") + 80
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "headers_too"),
    [
        (lambda content: content[: len(content) // 2], True),
        (lambda content: b"", True),
        (lambda content: b"<html>404</html>" * 99, True),
        (single_array, True),
        (zip_of_text, True),
        (flipped, False),
    ],
    ids=["half", "empty", "text", "npy", "zip of text", "bit"],
)
def test_damaged_archives(archive: Path, damage: Callable[[bytes], bytes], headers_too: bool) -> None:
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match=r"a b\.npz cannot be read \(.*\); fetch it again") as caught:
        read_row(f"{archive}::grey[0]")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"a b\.npz cannot be read"):
        LoadVolumed("image")({"image": f"{archive}::grey[0]"})
    if headers_too:
        with pytest.raises(ValueError, match=r"a b\.npz is no NumPy archive \(.*\); fetch it again"):
            array_lengths(archive)


def test_no_archive(tmp_path: Path) -> None:
    for read in (read_row, lambda address: LoadVolumed("image")({"image": address})):
        with pytest.raises(FileNotFoundError, match=r"none\.npz"):
            read(f"{tmp_path}/none.npz::x[0]")


# as images


def test_a_volume_lies_as_dicom_has_it(archive: Path) -> None:
    load = LoadVolumed("image", ensure_channel_first=True)
    address = f"{archive}::volumes[1]"
    image = load({"image": address})["image"]
    row = values(3, 5, 4, 6)[1]
    np.testing.assert_array_equal(image.numpy(), row[None])
    assert image.meta["filename_or_obj"] == address
    np.testing.assert_array_equal(image.affine.numpy(), np.diag([-1, -1, 1, 1]))
    turned = Compose([load, Orientationd("image", axcodes="RAS", labels=None)])({"image": Path(address)})["image"]
    np.testing.assert_array_equal(turned.numpy(), row[None, ::-1, ::-1])
    CheckVolumed("image")({"image": image})


@pytest.mark.parametrize("dims", [2, 3])
def test_pictures_begin_with_their_width(archive: Path, dims: int) -> None:
    load = LoadVolumed("image", ensure_channel_first=True, spatial_dims=dims)
    grey, colour = (load({"image": f"{archive}::{name}[1]"})["image"] for name in ("grey", "colour"))
    np.testing.assert_array_equal(grey.numpy(), values(2, 5, 4)[1].T[None])
    np.testing.assert_array_equal(colour.numpy(), values(2, 5, 4, 3)[1].transpose(2, 1, 0))
    for image in (grey, colour):
        np.testing.assert_array_equal(image.affine.numpy(), np.eye(4))
        assert list(image.meta["spatial_shape"]) == [4, 5]


@pytest.mark.parametrize("name", ["volumes", "grey"])
def test_several_rows_are_channels(archive: Path, name: str) -> None:
    load = LoadVolumed("image", ensure_channel_first=True)
    paths = [f"{archive}::{name}[{row}]" for row in (1, 0)]
    both, (first, second) = load({"image": paths})["image"], [load({"image": path})["image"] for path in paths]
    np.testing.assert_array_equal(both.numpy(), np.concatenate([first.numpy(), second.numpy()]))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["labels[0]"], r"::labels\[0\] is \(1,\), not a volume \[W, H, D\] or a picture"),
        (["volumes[0]", "grey[0]"], r"grey\[0\] cannot be stacked .* not \(5, 4, 6\) and \(5, 4\)"),
        (["colour[0]", "colour[1]"], r"colour\[0\] cannot be stacked as a channel: rows must be grey"),
    ],
)
def test_rows_that_are_no_images(archive: Path, rows: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LoadVolumed("image", ensure_channel_first=True)({"image": [f"{archive}::{row}" for row in rows]})


def test_a_data_list_of_rows_needs_its_archive(archive: Path) -> None:
    items = [{"image": f"{archive}::grey[{row}]"} for row in range(2)]
    assert check_datalist(items, keys="image") == items
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        check_datalist([*items, {"image": f"{archive.parent}/none.npz::grey[0]"}], keys="image")
