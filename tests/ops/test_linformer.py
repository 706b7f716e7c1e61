"""Linformer attention against its definition."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.linformer import linformer_attention, linformer_attention_plain
from monai_ext.ops.softmax import softmax_attention_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves


@pytest.mark.parametrize("heads", [(), (3,)], ids=["shared", "own"])
@pytest.mark.parametrize(("n", "rank"), [(7, 3), (1, 1), (5, 5), (3, 8)])
def test_definition(n: int, rank: int, heads: tuple[int, ...]) -> None:
    inputs = leaves(*[(2, 3, n, 4)] * 3, *[(*heads, n, rank)] * 2)
    assert_same(linformer_attention, linformer_attention_plain, inputs)
    # as views of a joint projection
    joint, *matrices = leaves((2, n, 3, 3, 4), *[(*heads, n, rank)] * 2)

    def split(function):
        return lambda qkv, *rest: function(*qkv.permute(2, 0, 3, 1, 4).unbind(0), *rest)

    assert_same(split(linformer_attention), split(linformer_attention_plain), [joint, *matrices])


def test_identity_is_softmax() -> None:
    q, k, v = (t.detach() for t in leaves(*[(2, 3, 6, 4)] * 3))
    one = torch.eye(6, dtype=q.dtype)
    torch.testing.assert_close(linformer_attention(q, k, v, one, one), softmax_attention_plain(q, k, v))


def test_bf16() -> None:
    assert_bf16_close(linformer_attention, [t / 8 for t in leaves(*[(2, 2, 65, 8)] * 3, (65, 9), (65, 9))])


def test_autocast_keeps_float32() -> None:
    inputs = leaves(*[(1, 2, 33, 4)] * 3, (33, 7), (33, 7), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = linformer_attention(*inputs)
    torch.testing.assert_close(out, linformer_attention(*inputs))


def test_errors() -> None:
    q = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match="share one shape"):
        linformer_attention(q, q[:, :, :3], q, torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"value_projection must be .* \(2, 5\), got \(3, 5, 3\)"):
        linformer_attention(q, q, q, torch.zeros(5, 3), torch.zeros(3, 5, 3))
    with pytest.raises(ValueError, match=r"key_projection must be .* got \(6, 3\)"):
        linformer_attention(q, q, q, torch.zeros(6, 3), torch.zeros(5, 3))
