"""A pyramid from maps of one size."""

from __future__ import annotations

import pytest
import torch

from monai_ext.blocks.plain_pyramid import PlainPyramid
from monai_ext.blocks.uper_head import NORM
from tests.blocks import uper_reference as plain


@pytest.mark.parametrize("grid", [(5, 4), (3, 5, 2), (1, 1)], ids=str)
def test_definition(grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    pyramid = PlainPyramid(len(grid), 8, 4, (16,) * len(grid), NORM).double()
    for parameter in pyramid.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    maps = [torch.randn(2, 8, *grid, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    state = dict(pyramid.named_parameters())
    results = []
    for found in (pyramid(maps), plain.pyramid_of_four(maps, state)):
        loss = sum(((i + 1) * level).sin().sum() for i, level in enumerate(found))
        results.append([*found, *torch.autograd.grad(loss, [*state.values(), *maps])])
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("patch", "levels", "sizes", "channels"),
    [
        ((16, 16), 4, [(20, 12), (10, 6), (5, 3), (3, 2)], [2, 4, 8, 8]),
        ((4, 7), 4, [(20, 12), (10, 6), (5, 3), (3, 2)], [2, 4, 8, 8]),
        ((2, 3), 4, [(10, 6), (10, 6), (5, 3), (3, 2)], [4, 4, 8, 8]),
        ((1, 16), 4, [(5, 12), (5, 6), (5, 3), (3, 2)], [2, 4, 8, 8]),
        ((1, 1), 4, [(5, 3), (5, 3), (5, 3), (3, 2)], [8, 8, 8, 8]),
        ((16, 16), 1, [(5, 3)], [8]),
        ((16, 16), 2, [(5, 3), (3, 2)], [8, 8]),
        ((16, 16), 3, [(10, 6), (5, 3), (3, 2)], [4, 8, 8]),
        ((16, 4), 5, [(40, 12), (20, 12), (10, 6), (5, 3), (3, 2)], [1, 2, 4, 8, 8]),
    ],
    ids=str,
)
def test_sizes(patch: tuple[int, int], levels: int, sizes: list, channels: list[int]) -> None:
    """Twice as fine from level to level, and never finer than the image."""
    pyramid = PlainPyramid(2, 8, levels, patch, None)
    found = pyramid([torch.randn(1, 8, 5, 3)] * levels)
    assert [tuple(m.shape[2:]) for m in found] == sizes
    assert [m.shape[1] for m in found] == pyramid.out_channels == channels
    assert all(s <= n * p for size in sizes for s, n, p in zip(size, (5, 3), patch))
