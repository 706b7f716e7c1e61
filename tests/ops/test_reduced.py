"""Attention on fewer keys, and the convolution of whole blocks."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.reduced import (
    block_convolution,
    block_convolution_plain,
    reduced_attention,
    reduced_attention_plain,
)
from tests.ops.compare import assert_bf16_close, assert_same, leaves

# queries, keys, channels of a key, channels of a value
SIZES = [(7, 3, 5, 5), (9, 4, 2, 5), (5, 6, 6, 3), (1, 1, 1, 4)]
# grid, block: divided, not divided, shorter than the block
BLOCKS = [((4, 6), (2, 3)), ((5, 7), (2, 3)), ((1, 3), (4, 4)), ((3, 2, 5), (2, 2, 2)), ((1, 4, 1), (2, 1, 3))]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_attention(size: tuple[int, ...], scale: float | None) -> None:
    n, m, e, d = size
    inputs = leaves((2, 3, n, e), (2, 3, m, e), (2, 3, m, d))
    assert_same(
        lambda *t: reduced_attention(*t, scale=scale), lambda *t: reduced_attention_plain(*t, scale=scale), inputs
    )
    assert reduced_attention(*inputs).shape == (2, 3, n, d)


def test_attention_bf16() -> None:
    assert_bf16_close(reduced_attention, leaves((2, 2, 33, 4), (2, 2, 5, 4), (2, 2, 5, 8)))


@pytest.mark.parametrize("width", [4, 16], ids=["as_wide", "narrower"])
def test_attention_keeps_no_scores(width: int) -> None:
    n, m = 512, 256
    q, k, v = leaves((1, 1, n, width), (1, 1, m, width), (1, 1, m, 16), dtype=torch.float32)
    kept: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = reduced_attention(q, k, v)
    assert out.requires_grad and max(kept.values()) < n * m


@pytest.mark.parametrize("shapes", [((5, 4), (6, 4), (5, 4)), ((5, 4), (6, 3), (6, 4)), ((5, 4), (0, 4), (0, 4))])
def test_attention_wrong_shapes(shapes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="M >= 1, got"):
        reduced_attention(*[torch.zeros(1, 2, *shape) for shape in shapes])


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize(("grid", "block"), BLOCKS, ids=str)
def test_blocks(grid: tuple[int, ...], block: tuple[int, ...], depthwise: bool) -> None:
    inputs = leaves((2, 4, *grid), (4, 1 if depthwise else 4, *block), (4,))
    assert_same(
        lambda *t: block_convolution(*t, block=block), lambda *t: block_convolution_plain(*t, block=block), inputs
    )
    without = [lambda x, w, f=f: f(x, w, None, block) for f in (block_convolution, block_convolution_plain)]
    assert_same(*without, inputs[:2])


@pytest.mark.parametrize("grid", [(3, 1, 5), (4, 3, 1), (1, 1, 1), (1, 6), (5, 1)], ids=str)
def test_blocks_in_bf16_on_flat_grids(grid: tuple[int, ...]) -> None:
    """Maps made from tokens lie channels last, where gradients of strided convolutions have been found wrong."""
    block = (2,) * len(grid)
    shape = (2, *grid, 8)
    assert_bf16_close(
        lambda x, w, b: block_convolution(x.movedim(-1, 1), w, b, block), leaves(shape, (8, 8, *block), (8,))
    )
