"""The random transforms of a new bundle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from monai_ext.bundle.choose import Plan
from monai_ext.bundle.transforms import random_segmentation
from tests.voxels import keeps_voxels


def crops(size: tuple[int, ...], patch: list[int], crop: bool, affine: float) -> tuple[torch.Tensor, dict[str, Any]]:
    """An image and the patch of it, without changes of intensity."""
    found: Any = SimpleNamespace(dims=len(size), channels=1)
    plan = Plan(patch, {}, 1, crop=crop, class_names=["background", "round", "square"])
    steps = random_segmentation(found, plan)[:-3]
    next(step for step in steps if "RandAffined" in step["_target_"])["prob"] = affine
    parser = ConfigParser({"patch_size": patch, "steps": steps})
    image = 1 + torch.arange(float(torch.tensor(size).prod())).view(1, *size)
    label = (image % 7 == 0).float() + (image % 11 == 0)
    out: Any = Compose(parser.get_parsed_content("steps")).set_random_state(0)({"image": image, "label": label})
    return image, out[0] if isinstance(out, list) else out


@pytest.mark.parametrize("affine", [0.0, 1.0])
@pytest.mark.parametrize(
    ("size", "patch", "crop"),
    [((35, 51, 37), [40, 56, 40], False), ((37, 41), [16, 24], True), ((37, 41, 9), [19, 16, 8], True)],
    ids=str,
)
def test_a_patch_that_is_not_deformed_keeps_its_voxels(
    size: tuple[int, ...], patch: list[int], crop: bool, affine: float
) -> None:
    """Resampling to the size of the patch would put the voxels of odd sizes between two."""
    image, made = crops(size, patch, crop, affine)
    assert keeps_voxels(image, made, patch) == (affine == 0)
