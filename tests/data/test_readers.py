"""A DICOM series and a NIfTI of one volume are the same to the network."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import Compose, Orientation

from monai_ext.data.readers import DicomSeriesReader, NiftiReader, is_dicom, is_nifti
from monai_ext.data.transforms import LoadVolumed

# not numbers that a network takes
COMPLEX = np.zeros((3, 4, 5), np.complex64)
COLOURS = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
SPACING = (0.7, 1.3, 2.6)  # mm
SHAPE = (6, 5, 4)


def oblique() -> np.ndarray:
    """A proper rotation far from the axes."""
    a, b, c = 0.3, -0.5, 0.2
    turn_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turn_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turn_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return turn_z @ turn_y @ turn_x


def made_up_volume(direction: np.ndarray | None = None, seed: int = 0) -> sitk.Image:
    random = np.random.default_rng(seed)
    image = sitk.GetImageFromArray(random.integers(-1000, 1000, SHAPE[::-1]).astype(np.int16))
    image.SetSpacing(SPACING)
    image.SetOrigin((-12.5, 30.25, 7.75))
    image.SetDirection((oblique() if direction is None else direction).ravel().tolist())
    return image


def write_series(image: sitk.Image, folder: Path, uid: str = "1.2.826.0.1.3680043.2.1125.1", skip: tuple = ()) -> None:
    """One file a slice, named so that the order of names is not that of places."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    for index in range(image.GetDepth()):
        if index in skip:
            continue
        piece = image[:, :, index]
        origin = image.TransformIndexToPhysicalPoint((0, 0, index))
        tags = {
            "0008|0008": "DERIVED\\SECONDARY",
            "0008|0060": "MR",
            "0020|000d": f"{uid}.1",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{100 + index}",
            "0020|0013": str(index + 1),
            "0020|0032": "\\".join(f"{value:.10f}" for value in origin),
            "0020|0037": "\\".join(f"{value:.12f}" for value in (*direction[:, 0], *direction[:, 1])),
            "0018|0050": str(image.GetSpacing()[2]),
        }
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{(7 * index) % 11:02d}_{uid[-1]}.dcm"))
        writer.Execute(piece)


def write_nifti(image: sitk.Image, path: Path) -> None:
    """By nibabel, so that the two ways share no code."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine = np.diag([-1, -1, 1, 1]) @ affine  # LPS to RAS
    nib.save(nib.Nifti1Image(sitk.GetArrayFromImage(image).T, affine), path)


@pytest.mark.parametrize("direction", [oblique(), np.eye(3), np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])])
def test_series_and_nifti_are_the_same(tmp_path: Path, direction: np.ndarray) -> None:
    image = made_up_volume(direction.astype(float))
    write_series(image, tmp_path / "series")
    write_nifti(image, tmp_path / "volume.nii.gz")
    one_file = sorted((tmp_path / "series").iterdir())[2]
    load = Compose([LoadVolumed("image", ensure_channel_first=True), lambda d: d["image"], Orientation(axcodes="RAS")])
    nifti = load({"image": str(tmp_path / "volume.nii.gz")})
    for path in (tmp_path / "series", one_file, f"{tmp_path / 'series'}/"):
        dicom = load({"image": str(path)})
        assert dicom.shape == nifti.shape == (1, *dicom.shape[1:])
        np.testing.assert_array_equal(dicom.numpy(), nifti.numpy())
        np.testing.assert_allclose(dicom.affine, nifti.affine, atol=1e-5)
        assert dicom.pixdim.sort().values.numpy() == pytest.approx(SPACING, abs=1e-5)
        assert dicom.dtype == nifti.dtype
        assert dicom.meta["filename_or_obj"] == str(Path(path))


def test_it_reads_what_simpleitk_wrote_as_nifti(tmp_path: Path) -> None:
    """ITK's own idea of the affine is the one here."""
    image = made_up_volume()
    sitk.WriteImage(image, str(tmp_path / "itk.nii.gz"))
    write_series(image, tmp_path / "series")
    array, meta = (reader := DicomSeriesReader()).get_data(reader.read(tmp_path / "series"))
    by_itk = nib.load(tmp_path / "itk.nii.gz")
    np.testing.assert_array_equal(array, np.asarray(by_itk.dataobj))
    np.testing.assert_allclose(meta["affine"], by_itk.affine, atol=1e-4)


def test_several_series(tmp_path: Path) -> None:
    uids = "1.2.826.0.1.3680043.2.1125.1", "1.2.826.0.1.3680043.2.1125.2"
    for number, uid in enumerate(uids):
        write_series(made_up_volume(seed=number), tmp_path, uid, skip=(3,) * number)
    with pytest.raises(ValueError) as caught:
        DicomSeriesReader().read(tmp_path)
    assert f"{uids[0]} (4 slices)" in str(caught.value) and f"{uids[1]} (3 slices)" in str(caught.value)
    assert "series_id" in str(caught.value)
    volume = LoadVolumed("image", series_id=uids[1])({"image": str(tmp_path)})["image"]
    assert volume.shape == (6, 5, 3)
    array, _ = (reader := DicomSeriesReader()).get_data(reader.read(tmp_path / "00_2.dcm"))
    assert array.shape == (6, 5, 3), "a file stands for its series"
    with pytest.raises(ValueError, match=r"no series '9' in .* it holds: 1\.2"):
        DicomSeriesReader("9").read(tmp_path)


def test_a_missing_slice(tmp_path: Path) -> None:
    write_series(made_up_volume(), tmp_path, skip=(1,))
    with pytest.raises(ValueError, match=r"misses slices .* 1 of 2 distances .* is 5\.200 mm between"):
        LoadVolumed("image")({"image": str(tmp_path)})


def test_two_slices_at_one_place(tmp_path: Path) -> None:
    write_series(made_up_volume(), tmp_path)
    other = tmp_path / "copy"
    write_series(made_up_volume(seed=1), other)
    next(other.iterdir()).rename(tmp_path / "copy.dcm")
    with pytest.raises(ValueError, match=r"two slices at one position \(.*\.dcm, .*\.dcm\)"):
        DicomSeriesReader().read(tmp_path)


def test_mixed_slices(tmp_path: Path) -> None:
    write_series(made_up_volume(), tmp_path, skip=(3,))
    image = made_up_volume()
    image.SetSpacing((0.9, 1.3, 2.6))
    write_series(image, tmp_path, skip=(0, 1, 2))
    with pytest.raises(ValueError, match="mixes slices of different size, pixel spacing or direction"):
        DicomSeriesReader().read(tmp_path)


def test_no_dicom(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no DICOM file in the folder"):
        LoadVolumed("image")({"image": str(tmp_path)})


def test_a_single_slice(tmp_path: Path) -> None:
    write_series(made_up_volume(), tmp_path, skip=(1, 2, 3))
    assert LoadVolumed("image")({"image": str(tmp_path)})["image"].shape == (6, 5, 1)


def test_kinds(tmp_path: Path) -> None:
    write_series(made_up_volume(), tmp_path)
    nameless = tmp_path / "IM000001"
    (tmp_path / "00_1.dcm").rename(nameless)
    assert is_dicom(nameless) and is_dicom(tmp_path) and is_dicom("x/y.DCM")
    assert not is_dicom(tmp_path / "volume.nii.gz") and not is_dicom("nothing")
    assert is_nifti("a/b.NII.GZ") and not is_nifti("b.nii.txt")
    assert LoadVolumed("image")({"image": str(nameless)})["image"].shape == SHAPE


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_flipped_bit_in_gzip_is_noticed(tmp_path: Path, kind: type) -> None:
    random = np.random.default_rng(0)
    array = random.integers(0, 255, (80, 81, 82), dtype=np.uint8)
    assert array.size > 2**18, "longer than what is read at once"
    image = kind(array, np.diag([1.0, 2.0, 3.0, 1.0]))
    path = tmp_path / "a.nii.gz"
    content = gzip.compress(image.to_bytes(), 0)  # stored, not packed: the damage breaks no code
    path.write_bytes(content)
    read, meta = (reader := NiftiReader()).get_data(reader.read(path))
    np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(meta["affine"], image.affine)
    damaged = bytearray(content)
    damaged[-100] ^= 4
    path.write_bytes(damaged)
    assert nib.load(path).get_fdata().shape == array.shape, "nibabel takes it"
    with pytest.raises(ValueError, match=r"a\.nii\.gz .* is truncated, damaged or no image \(CRC check failed"):
        LoadVolumed("image")({"image": str(path)})


@pytest.mark.parametrize(("voxels", "word"), [(COMPLEX, "complex numbers"), (COLOURS, "colours in one number")])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_that_are_no_numbers(tmp_path: Path, voxels: np.ndarray, word: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    with pytest.raises(ValueError, match=f"^the voxels of .*a{suffix} are {word}"):
        LoadVolumed("image")({"image": str(path)})
