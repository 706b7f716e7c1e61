"""What the HyenaPixel mixer promises beyond the contract."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.mixers.hyena_pixel import HyenaPixelMixer, PixelFilter, sine_features


def test_positions() -> None:
    """Each feature against its formula; those of the last axis come first."""
    z = PixelFilter(3, 2, 5, 4, 8, True).z.detach()
    assert z.shape == (8, 5, 5)
    for row in range(5):
        for column in range(5):
            wanted = [f(at * rate) for at in (column, row) for rate in (1, 0.01) for f in (math.sin, math.cos)]
            torch.testing.assert_close(z[:, row, column], torch.tensor(wanted))


@pytest.mark.parametrize("train_positions", [True, False])
def test_kernel_of_a_small_grid_is_the_middle(train_positions: bool) -> None:
    filter_ = PixelFilter(3, 2, 9, 4, 8, train_positions)
    whole = filter_((20, 5))
    assert whole.shape == (3, 9, 9)
    torch.testing.assert_close(filter_((2, 3)), whole[:, 3:6, 2:7])


@pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
def test_reach(dims: int) -> None:
    """On a grid larger than the kernel a token reaches (K - 1) / 2 tokens in every direction, and no more."""
    mixer = HyenaPixelMixer(4, 1, dims, kernel_size=5, short_kernel=1).double()
    grid = (9, 8, 7)[:dims]
    x = torch.randn(1, *grid, 4, dtype=torch.float64)
    changed = x.clone()
    changed[(0, *[3] * dims)] += 1
    outs = [mixer(t.reshape(1, -1, 4), grid).reshape(*grid, 4) for t in (x, changed)]
    reached = (outs[0] - outs[1]).abs().amax(-1) > 1e-13
    wanted = torch.zeros(grid, dtype=torch.bool)
    wanted[tuple(slice(1, 6) for _ in grid)] = True
    assert torch.equal(reached, wanted)


def test_features_of_one_axis() -> None:
    assert sine_features(7, 6).shape == (6, 7)
    assert HyenaPixelMixer(4, 1, 3).filter.z.shape == (48, 31, 31, 31)
    assert HyenaPixelMixer(4, 1, 2).filter.z.shape == (32, 111, 111)
    assert HyenaPixelMixer(4, 1, 2, train_positions=False).filter.z is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 10}, "kernel_size must be an odd number of taps, got 10"),
        ({"short_kernel": 0}, "short_kernel must be an odd number of taps, got 0"),
        ({"emb_dim": 3}, "even number of features of an axis, got 3"),
        ({"filter_order": 0}, "at least 1, got 0"),
    ],
    ids=str,
)
def test_bad_values(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HyenaPixelMixer(12, 3, 2, **options)
