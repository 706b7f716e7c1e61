"""Nystroem attention against its definition, and what it approximates."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.nystrom import (
    SEGMENTS,
    nystrom_attention,
    nystrom_attention_plain,
    pseudo_inverse,
    segment_means,
)
from monai_ext.ops.softmax import softmax_attention_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves


@pytest.mark.parametrize("segments", SEGMENTS)
@pytest.mark.parametrize("n", [1, 5, 6, 7, 24, 29])
def test_definition(n: int, segments: str) -> None:
    inputs = leaves(*[(2, 3, n, 4)] * 3)
    assert_same(
        lambda *t: nystrom_attention(*t, 6, segments), lambda *t: nystrom_attention_plain(*t, 6, segments), inputs
    )


def test_start_of_the_batch() -> None:
    inputs = leaves(*[(2, 3, 24, 4)] * 3)
    ops = nystrom_attention, nystrom_attention_plain
    fast, plain = (lambda *t, op=op: op(*t, 6, "even", 6, "batch") for op in ops)
    assert_same(fast, plain, inputs)
    # that of one head and sample is its own
    alone = [t[:1, :1] for t in inputs]
    torch.testing.assert_close(fast(*alone), nystrom_attention(*alone, 6))
    assert (fast(*inputs) - nystrom_attention(*inputs, 6)).abs().max() > 1e-6


def test_segments() -> None:
    x = torch.arange(11.0).reshape(1, 1, 11, 1)
    # 11 tokens: 3, 3, 3, 2
    assert segment_means(x, 4).flatten().tolist() == [1, 4, 7, 9.5]
    assert segment_means(x, 11).equal(x)


def test_exact_up_to_the_landmarks() -> None:
    q, k, v = leaves(*[(2, 2, 9, 4)] * 3)
    torch.testing.assert_close(nystrom_attention(q, k, v, 9), softmax_attention_plain(q, k, v))
    # and the landmarks' way leads there, too, given the steps
    torch.testing.assert_close(nystrom_attention(q, k, v, 9, "padded", 30), softmax_attention_plain(q, k, v))


def test_exact_where_segments_are_constant() -> None:
    q, k = (t.detach().repeat_interleave(5, -2) for t in leaves(*[(2, 2, 6, 4)] * 2))
    (v,) = leaves((2, 2, 30, 4))
    torch.testing.assert_close(nystrom_attention(q, k, v, 6, iterations=30), softmax_attention_plain(q, k, v))


def test_pseudo_inverse() -> None:
    a = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(pseudo_inverse(a, 30), torch.linalg.pinv(a), rtol=1e-6, atol=1e-6)
    a = a[..., :1] @ a[..., :1, :]  # rank one; more steps would bring up the rounding of the zero values
    torch.testing.assert_close(pseudo_inverse(a, 12), torch.linalg.pinv(a), rtol=1e-6, atol=1e-6)


def test_samples_do_not_see_each_other() -> None:
    q, k, v = (t.detach() for t in leaves(*[(3, 2, 20, 4)] * 3))
    out = nystrom_attention(q, k, v, 4)
    for scale in (0.1, 10.0):
        q2, k2 = (torch.cat([t[:1], scale * t[1:]]) for t in (q, k))
        torch.testing.assert_close(nystrom_attention(q2, k2, v, 4)[:1], out[:1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [300, 9])
def test_bf16(n: int) -> None:
    assert_bf16_close(lambda *t: nystrom_attention(*t, 16), leaves(*[(2, 2, n, 8)] * 3))


def test_constant_tokens() -> None:
    # air: all segments are equal, the matrix between them has rank one
    tokens = torch.full((1, 1, 200, 8), 3.0, requires_grad=True)
    out = nystrom_attention(tokens, tokens, tokens, 16)
    (grad,) = torch.autograd.grad(out.sum(), tokens)
    torch.testing.assert_close(out, torch.full_like(out, 3.0), rtol=1e-4, atol=1e-4)
    assert grad.isfinite().all()


def test_autocast_keeps_float32() -> None:
    inputs = leaves(*[(1, 2, 33, 4)] * 3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = nystrom_attention(*inputs, 8)
    grads = torch.autograd.grad(out.sum(), inputs)
    wanted = nystrom_attention(*inputs, 8)
    torch.testing.assert_close(out, wanted)
    for a, b in zip(grads, torch.autograd.grad(wanted.sum(), inputs)):
        torch.testing.assert_close(a, b)


def test_errors() -> None:
    q = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match="share one shape"):
        nystrom_attention(q, q[:, :, :3], q, 4)
    with pytest.raises(ValueError, match="at least 1, got 0 and 6"):
        nystrom_attention(q, q, q, 0)
    with pytest.raises(ValueError, match="'even', 'padded', got 'odd'"):
        nystrom_attention(q, q, q, 4, "odd")
    with pytest.raises(ValueError, match="'own', 'batch', got 'mean'"):
        nystrom_attention(q, q, q, 4, inverse_start="mean")
