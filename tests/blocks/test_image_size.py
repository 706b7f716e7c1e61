"""Padding, cropping, resizing and the check of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.blocks.image_size import check_image, crop_to, pad_to_multiple, resize_to


@pytest.mark.parametrize(
    ("size", "multiple", "wanted"),
    [
        ((5, 6), (4, 3), (8, 6)),
        ((1, 1), (16, 8), (16, 8)),
        ((4, 8), (4, 4), (4, 8)),
        ((3, 5, 7), (2, 5, 4), (4, 5, 8)),
        ((1, 2, 1), (8, 8, 8), (8, 8, 8)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pad_and_crop(size: tuple[int, ...], multiple: tuple[int, ...], wanted: tuple, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, *size).to(dtype)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[2:] == wanted and padded.dtype == dtype
    edges = [(0, 0), (0, 0), *((0, b - a) for a, b in zip(size, wanted))]
    assert np.array_equal(padded.float().numpy(), np.pad(x.float().numpy(), edges, mode="edge"))
    assert torch.equal(crop_to(padded, size), x)
    if size == wanted:
        assert padded is x and crop_to(x, size) is x


@pytest.mark.parametrize(
    ("shape", "dims", "message"),
    [
        ((1, 2, 4), 2, r"Net with spatial_dims=2 takes \(B, C, H, W\), got the shape \(1, 2, 4\)"),
        ((2, 4, 4, 4), 3, r"Net with spatial_dims=3 takes \(B, C, D, H, W\), got the shape \(2, 4, 4, 4\)"),
        ((1, 1, 4, 4), 2, "Net was built for in_channels=2, got 1 channels"),
    ],
    ids=str,
)
def test_check_image(shape: tuple[int, ...], dims: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_image(torch.zeros(shape), 2, dims, "Net")


@pytest.mark.parametrize("dims", [2, 3])
def test_resize(dims: int) -> None:
    """A cell of a map stands for its part of the image: a ramp keeps its slope and place, but for half a cell."""
    x = torch.arange(4.0).reshape(4, *[1] * (dims - 1)).expand(1, 2, 4, *(3, 2)[: dims - 1])
    out = resize_to(x, (16, *x.shape[3:]))
    wanted = ((torch.arange(16) + 0.5) / 4 - 0.5).clamp(0, 3)
    assert torch.allclose(out, wanted.reshape(16, *[1] * (dims - 1)).expand_as(out))
    assert resize_to(x, x.shape[2:]) is x
