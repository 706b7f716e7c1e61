"""The low block of the cosine transform."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.ops.dct import dct_low, dct_low_inverse, dct_low_inverse_plain, dct_low_plain, kept_block
from tests.ops.compare import assert_bf16_close, assert_same, leaves

# grid, kept block
CASES = [((5, 3), (2, 3)), ((1, 7), (1, 4)), ((4, 6), (4, 6)), ((3, 2, 5), (2, 1, 3)), ((1, 1, 1), (1, 1, 1))]


@pytest.mark.parametrize(("grid", "kept"), CASES, ids=str)
def test_definition(grid: tuple[int, ...], kept: tuple[int, ...]) -> None:
    (x,) = leaves((2, math.prod(grid), 3))
    assert_same(lambda x: dct_low(x, grid, kept), lambda x: dct_low_plain(x, grid, kept), [x])
    (y,) = leaves((2, math.prod(kept), 3))
    assert_same(lambda y: dct_low_inverse(y, grid, kept), lambda y: dct_low_inverse_plain(y, grid, kept), [y])


@pytest.mark.parametrize("grid", [(6, 5), (3, 4, 2)], ids=str)
def test_orthonormal(grid: tuple[int, ...]) -> None:
    (x,) = leaves((1, math.prod(grid), 2))
    y = dct_low(x, grid, grid)
    torch.testing.assert_close(dct_low_inverse(y, grid, grid), x)
    torch.testing.assert_close(y.norm(), x.norm())


def test_constant_image_is_its_first_coefficient() -> None:
    y = dct_low(torch.full((1, 35, 1), 2.0, dtype=torch.float64), (5, 7), (3, 3))
    torch.testing.assert_close(y[0, 0, 0].item(), 2 * math.sqrt(35))
    assert y[0, 1:].abs().max() < 1e-12


def test_float32_of_a_long_axis() -> None:
    """Angles are reduced before they are rounded: the last frequency is as exact as the first."""
    n = 2048
    x = torch.randn(1, n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = dct_low(x, (n, 1), (n, 1))
    assert (dct_low(x.float(), (n, 1), (n, 1)) - wanted).abs().max() < 2e-6 * wanted.norm()


def test_bf16() -> None:
    assert_bf16_close(lambda x: dct_low(x, (9, 7), (4, 4)), leaves((2, 63, 4)))
    assert_bf16_close(lambda y: dct_low_inverse(y, (9, 7), (4, 4)), leaves((2, 16, 4)))


def test_autocast_keeps_float32() -> None:
    (x,) = leaves((2, 63, 4), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = dct_low(x, (9, 7), (4, 4))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, dct_low(x, (9, 7), (4, 4)))


@pytest.mark.parametrize(
    ("grid", "keep", "wanted"),
    [
        ((30, 7), (0.1, 0.5), (3, 4)),  # 0.1 * 30 is a little more than 3 in floating point
        ((5, 4), (0.01, 1.0), (1, 4)),
        ((1, 3, 8), (0.5, 0.5, 0.26), (1, 2, 3)),
    ],
    ids=str,
)
def test_kept_block(grid: tuple[int, ...], keep: tuple[float, ...], wanted: tuple[int, ...]) -> None:
    assert kept_block(grid, keep) == wanted


def test_wrong_shapes() -> None:
    for function in (dct_low, dct_low_inverse):
        with pytest.raises(ValueError, match=r"got \(1, 11, 2\)"):
            function(torch.zeros(1, 11, 2), (3, 4), (2, 2))
    with pytest.raises(ValueError, match=r"block \(5, 2\) does not fit into a grid of \(3, 4\)"):
        dct_low(torch.zeros(1, 12, 2), (3, 4), (5, 2))
