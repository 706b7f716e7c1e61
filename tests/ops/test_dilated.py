"""Dilated attention block by block against its definition."""

from __future__ import annotations

import itertools

import pytest
import torch

from monai_ext.ops import tiled_attention
from monai_ext.ops.dilated import OFFSETS, dilated_attention, dilated_attention_plain, offset_of_head
from tests.ops.compare import assert_bf16_close, assert_same, leaves

# tokens, heads, segments, dilations: a shorter last segment, segments longer than the sequence, fewer heads than
# offsets, tokens that nothing reads, dilations that do not divide the segment
CASES = [(37, 3, (8, 16, 64), (1, 2, 4)), (5, 6, (2, 100), (2, 8)), (1, 2, (4,), (3,)), (23, 7, (7, 20), (3, 5))]


@pytest.mark.parametrize("block", [1, 60, 2**18], ids=["query_by_query", "some_queries", "one_block"])
@pytest.mark.parametrize(("n", "heads", "segments", "dilations"), CASES, ids=str)
def test_definition(n: int, heads: int, segments: tuple, dilations: tuple, block: int, monkeypatch) -> None:
    monkeypatch.setattr(tiled_attention, "BLOCK_CPU", block)
    inputs = leaves(*[(2, heads, n, 3)] * 3)
    for options in itertools.product((False, True), OFFSETS, (False, True)):
        assert_same(
            lambda *t, options=options: dilated_attention(*t, segments, dilations, *options),
            lambda *t, options=options: dilated_attention_plain(*t, segments, dilations, *options),
            inputs,
        )
    with torch.no_grad():
        torch.testing.assert_close(
            dilated_attention(*inputs, segments, dilations), dilated_attention_plain(*inputs, segments, dilations)
        )


def test_offsets() -> None:
    assert [offset_of_head(j, 6, 4, "cyclic") for j in range(6)] == [0, 1, 2, 3, 0, 1]
    assert [offset_of_head(j, 6, 4, "blocks") for j in range(6)] == [0, 0, 1, 1, 2, 2]
    assert [offset_of_head(j, 2, 4, "blocks") for j in range(2)] == [0, 1]


@pytest.mark.parametrize("function", [dilated_attention, dilated_attention_plain])
def test_by_hand(function) -> None:
    """All scores 0: means of values, weighted by the number of keys of each branch."""
    v = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).view(1, 1, 5, 1)
    q = torch.zeros_like(v)
    # segments [0 1] [2 3] [4], and every second token of all five: 0 2 4
    wanted = [(1 + 2 + 1 + 4 + 16) / 5, 1.5, (4 + 8 + 1 + 4 + 16) / 5, 6.0, (16 + 1 + 4 + 16) / 4]
    torch.testing.assert_close(function(q, q, v, (2, 5), (1, 2)).flatten(), torch.tensor(wanted))
    # no head begins at 1 where there is only one
    assert function(q, q, v, (5,), (2,)).flatten()[1::2].eq(0).all()


def test_large_scores() -> None:
    """The share of a branch may vanish, and single weights with it, but nothing is divided by zero."""
    q = torch.randn(1, 2, 24, 4) * 30
    inputs = [(q * factor).requires_grad_() for factor in (1, 3, 1)]
    out = dilated_attention(*inputs, (4, 12, 24), (1, 2, 4))
    wanted = dilated_attention_plain(*(t.double() for t in inputs), (4, 12, 24), (1, 2, 4))
    torch.testing.assert_close(out.double(), wanted, rtol=1e-3, atol=1e-3)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), inputs))


@pytest.mark.parametrize("weight_gradient", [False, True])
def test_bf16(weight_gradient: bool) -> None:
    inputs = leaves(*[(2, 3, 50, 4)] * 3)
    assert_bf16_close(lambda *t: dilated_attention(*t, (8, 32), (1, 2), weight_gradient=weight_gradient), inputs)


def test_autocast_keeps_float32() -> None:
    inputs = leaves(*[(1, 2, 33, 4)] * 3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = dilated_attention(*inputs, (8, 32), (1, 2))
    grads = torch.autograd.grad(out.sum(), inputs)
    wanted = dilated_attention(*inputs, (8, 32), (1, 2))
    assert out.dtype == torch.float32
    torch.testing.assert_close((out, *grads), (wanted, *torch.autograd.grad(wanted.sum(), inputs)))


def test_errors() -> None:
    q, k, v = leaves(*[(1, 1, 12, 2)] * 3)
    for segments, dilations, offsets, message in [
        ((4, 8), (1,), "cyclic", r"as there are branches, got \[4, 8\] and \[1\]"),
        ((), (), "cyclic", r"got \[\] and \[\]"),
        ((4, 0), (1, 2), "cyclic", r"at least 1 .* got \[4, 0\]"),
        ((4,), (1,), "random", "'cyclic', 'blocks', got 'random'"),
    ]:
        with pytest.raises(ValueError, match=message):
            dilated_attention(q, k, v, segments, dilations, offsets=offsets)
    with pytest.raises(ValueError, match="share one shape"):
        dilated_attention(q, k[:, :, 1:], v, (4,), (1,))
