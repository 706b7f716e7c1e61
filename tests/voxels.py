"""Whether a random crop keeps the voxels of the image that it was made from."""

from __future__ import annotations

from typing import Any

import torch


def keeps_voxels(image: torch.Tensor, made: dict[str, Any], patch: list[int]) -> bool:
    """Whether every voxel is the image's or padding, and every label is of one class alone.

    Either both hold or neither; always the crop has the size of the patch, and three probabilities add up to 1.
    """
    assert list(made["image"].shape) == [1, *patch]
    assert list(made["label"].shape) == [3, *patch]
    torch.testing.assert_close(made["label"].sum(0).as_tensor(), torch.ones(patch))
    kept = torch.isin(made["image"].as_tensor(), torch.cat([torch.zeros(1), image.flatten()])).all()
    sharp = torch.isin(made["label"].as_tensor(), torch.tensor([0.0, 1.0])).all()
    assert kept == sharp
    return bool(kept)
