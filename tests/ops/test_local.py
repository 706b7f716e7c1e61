"""Local attention over zero-padded windows, tile by tile, against its definition."""

from __future__ import annotations

import math
import re

import pytest
import torch

from monai_ext.ops import tiled_attention
from monai_ext.ops.local import local_attention, local_attention_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves

# grid, window, dilation: several kinds of tile, fewer tokens than a window, classes of two sizes or empty
CASES = [
    ((19, 10), (7, 3), (1, 1)),
    ((11, 9), (3, 5), (2, 3)),
    ((1, 3), (7, 7), (1, 1)),
    ((3, 4), (3, 3), (5, 2)),
    ((9, 1, 6), (3, 3, 5), (2, 1, 1)),
    ((5, 6), (1, 1), (1, 1)),
]


@pytest.mark.parametrize("block", [1, 2**18], ids=["tile_by_tile", "one_block"])
@pytest.mark.parametrize(("grid", "kernel", "dilation"), CASES, ids=str)
def test_definition(
    grid: tuple[int, ...],
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiled_attention, "BLOCK_CPU", block)
    inputs = leaves(*[(2, 2, math.prod(grid), 3)] * 3)
    assert_same(
        lambda *t: local_attention(*t, grid, kernel, dilation),
        lambda *t: local_attention_plain(*t, grid, kernel, dilation),
        inputs,
    )
    with torch.no_grad():
        torch.testing.assert_close(
            local_attention(*inputs, grid, kernel, dilation), local_attention_plain(*inputs, grid, kernel, dilation)
        )


@pytest.mark.parametrize("function", [local_attention, local_attention_plain])
def test_padding_takes_part(function) -> None:
    """One token with a score of 0 in a 3 x 3 window: a ninth of its value, the rest is padding."""
    one, zero = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    torch.testing.assert_close(function(zero, one, one, (1, 1), (3, 3), (1, 1)), one / 9)


def test_bf16() -> None:
    inputs = leaves(*[(2, 2, 90, 4)] * 3)
    assert_bf16_close(lambda *t: local_attention(*t, (9, 10), (5, 3), (1, 2)), inputs)


def test_errors() -> None:
    q, k, v = leaves(*[(1, 1, 12, 2)] * 3)
    for arguments, message in [
        (((5, 3), (3, 3), (1, 1)), "12 tokens do not fill a grid of (5, 3)"),
        (((4, 3), (3, 4), (1, 1)), "must be odd and dilation at least 1, got (3, 4)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            local_attention(q, k, v, *arguments)
    with pytest.raises(ValueError, match="share one shape"):
        local_attention(q, k[:, :, 1:], v, (4, 3), (3, 3), (1, 1))
