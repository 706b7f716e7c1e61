"""What is done to predictions for MONAI Label, and that nothing is done to them elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.data.monai_label import MonaiLabelAnswerd
from monai_ext.data.transforms import LoadVolumed


def answered(path: str, prediction: torch.Tensor, shape: tuple[int, ...], **more: Any) -> dict[Any, Any]:
    image = MetaTensor(torch.zeros(1, *shape[: prediction.ndim - 1]), meta={"spatial_shape": np.array(shape)})
    item = {"image": image, "image_meta_dict": {}, "image_path": path, "pred": prediction, **more}
    return MonaiLabelAnswerd("pred")(item)


def test_nothing_happens_in_another_program() -> None:
    item = {"image": torch.zeros(1, 5, 4), "pred": torch.zeros(1, 5, 4)}
    assert MonaiLabelAnswerd("pred")(item) == item


def test_classes_go_without_the_image() -> None:
    found = answered("scan.nii.gz", torch.tensor([0.25, 0.75]), (5, 4, 3))
    assert not {"image", "image_meta_dict"} & set(found)
    assert isinstance(found["pred"], MetaTensor) and found["pred"].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("path", "channels", "shape", "expected"),
    [
        ("eye.png", 1, (5, 4), (5, 4)),
        ("slice.nii.gz", 1, (5, 4, 1), (5, 4, 1)),
        ("eye.png", 3, (5, 4), (3, 5, 4)),  # probabilities, for MONAI Label's scores
    ],
)
def test_a_picture_has_no_channel(path: str, channels: int, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert answered(path, torch.zeros(channels, 5, 4), shape)["pred"].shape == expected


def test_a_volume_stays_as_it_is() -> None:
    prediction = torch.rand(1, 5, 4, 3)
    found = answered("scan.nii.gz", prediction, (5, 4, 3))
    assert found["pred"] is prediction and "result_extension" not in found


@pytest.mark.parametrize(
    ("path", "dtype", "expected"),
    [
        ("eye.jpg", torch.uint8, ".png"),
        ("eye.tif", torch.uint8, ".png"),
        ("cells.png", torch.float32, ".tif"),
        ("scan.dcm", torch.uint8, ".nii.gz"),
        ("scan.nii", torch.uint8, None),
    ],
)
def test_the_kind_of_file(path: str, dtype: torch.dtype, expected: str | None) -> None:
    prediction = torch.zeros(1, 5, 4, dtype=dtype)
    assert answered(path, prediction, (5, 4)).get("result_extension") == expected
    assert answered(path, prediction, (5, 4), result_extension=".nrrd")["result_extension"] == ".nrrd"


def test_the_loader_gives_the_meta_data_that_monai_label_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((5, 4, 3), np.float32), np.diag([1, 2, 3, 1])), path)
    loader = LoadVolumed("image", ensure_channel_first=True)
    alone = loader({"image": str(path)})
    loader._loader.image_only = False  # as it does to every LoadImaged
    found = loader({"image": str(path), "image_path": str(path)})
    assert torch.equal(found["image"], alone["image"]) and set(found) == {"image", "image_path", "image_meta_dict"}
    np.testing.assert_array_equal(found["image_meta_dict"]["affine"], np.diag([1, 2, 3, 1]))
