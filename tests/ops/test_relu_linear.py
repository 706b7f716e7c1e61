"""ReLU linear attention against its definition."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.relu_linear import relu_linear_attention, relu_linear_attention_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves


@pytest.mark.parametrize("bound", [1e-3, 2.0, 100.0])
@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 2, 3, 5), (2, 1, 1, 3)], ids=str)
def test_definition(shape: tuple[int, ...], bound: float) -> None:
    inputs = leaves(shape, shape, shape, (shape[1], 1, 1))
    assert_same(lambda *t: relu_linear_attention(*t, bound), lambda *t: relu_linear_attention_plain(*t, bound), inputs)


def test_weights() -> None:
    """They sum to one above the bound, to less below it, and to nothing for a query without a positive channel."""
    q, k = torch.rand(2, 1, 1, 50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q[..., 3, :] *= -1
    ones, one = torch.ones_like(q), torch.ones(1)
    sums = relu_linear_attention(q, k, ones, one, 1e-6)[0, 0, :, 0]
    torch.testing.assert_close(sums, torch.arange(50).ne(3).to(sums))
    sums = relu_linear_attention(q, k, ones, one, 100.0)[0, 0, :, 0]
    torch.testing.assert_close(sums, (q @ k.transpose(-2, -1)).clamp_min(0).sum(-1)[0, 0] / 100)
    assert sums.max() < 1


def test_temperature_scales_the_output_of_its_head() -> None:
    q, k, v = (t.detach() for t in leaves(*[(1, 2, 9, 4)] * 3))
    one, two = (relu_linear_attention(q, k, v, torch.tensor([1.0, t])) for t in (1.0, 2.0))
    torch.testing.assert_close(two, torch.stack([one[:, 0], 2 * one[:, 1]], 1))


@pytest.mark.parametrize("shape", [(2, 2, 65, 8), (2, 2, 5, 8)], ids=str)
def test_bf16(shape: tuple[int, ...]) -> None:
    assert_bf16_close(relu_linear_attention, leaves(shape, shape, shape, (2,)))


def test_autocast_keeps_float32() -> None:
    inputs = leaves(*[(1, 2, 33, 4)] * 3, (2,), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = relu_linear_attention(*inputs)
    torch.testing.assert_close(out, relu_linear_attention(*inputs))


def test_errors() -> None:
    q = torch.zeros(1, 2, 5, 4)
    with pytest.raises(ValueError, match="share one shape"):
        relu_linear_attention(q, q[:, :, :3], q, torch.ones(2))
    with pytest.raises(ValueError, match=r"hold 2 numbers, one a head, got \(3,\)"):
        relu_linear_attention(q, q, q, torch.ones(3))
