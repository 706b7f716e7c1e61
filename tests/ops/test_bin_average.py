"""Averages over bins of a grid."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.bin_average import bin_average, bin_average_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("grid", [(12, 18), (7, 5), (1, 4), (1, 1), (7, 11, 5), (1, 2, 13)], ids=str)
def test_against_pytorch(grid: tuple[int, ...], bins: int) -> None:
    """Bins that divide the grid, that overlap, and more of them than places."""
    inputs = leaves((2, 3, *grid))
    assert_same(lambda x: bin_average(x, bins), lambda x: bin_average_plain(x, bins), inputs)


def test_by_hand() -> None:
    x = torch.arange(5.0).reshape(1, 1, 5, 1)
    assert bin_average(x, 2)[0, 0, :, 0].tolist() == [1.0, 3.0]  # 0 1 2 and 2 3 4
    assert bin_average(x[:, :, :2], 3)[0, 0, :, 2].tolist() == [0.0, 0.5, 1.0]


def test_bf16() -> None:
    assert_bf16_close(lambda x: bin_average(x, 3), leaves((2, 3, 16, 11)))
