"""The depthwise convolution of tokens against PyTorch's own, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.ops.depthwise import depthwise_convolution, depthwise_convolution_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves

CASES = [
    ((7,), (3,), None),
    ((7,), (4,), 0),
    ((2,), (4,), 2),
    ((5,), (4,), 3),
    ((4, 5), (3, 3), None),
    ((1, 6), (5, 3), None),
    ((4, 8), (3, 7), None),
    ((3, 4), (5, 9), None),
    ((3, 6), (5, 6), 0),
    ((3, 6), (5, 6), 4),
    ((5, 4), (2, 3), 0),
    ((5, 4), (3, 4), 1),
    ((4, 3, 5), (3, 3, 3), None),
    ((1, 2, 6), (5, 5, 5), None),
    ((4, 3, 2), (3, 1, 2), 0),
]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize(("grid", "taps", "ahead"), CASES, ids=str)
def test_as_pytorch(grid: tuple[int, ...], taps: tuple[int, ...], ahead: int | None, bias: bool) -> None:
    inputs = leaves((2, math.prod(grid), 6), (6, 1, *taps), *[(6,)] * bias)

    def run(function, x, w, b=None):
        return function(x, grid, w, b, ahead)

    plain = depthwise_convolution_plain
    assert_same(lambda *t: run(depthwise_convolution, *t), lambda *t: run(plain, *t), inputs)
    with torch.no_grad():
        torch.testing.assert_close(run(depthwise_convolution, *inputs), run(plain, *inputs))


@pytest.mark.parametrize("ahead", [None, 0, 1])
def test_definition(ahead: int | None) -> None:
    x, w = leaves((1, 6, 2), (2, 1, 3))
    behind = 2 - (1 if ahead is None else ahead)
    wanted = torch.zeros_like(x)
    for p in range(6):
        for t in range(3):
            if 0 <= p + t - behind < 6:
                wanted[:, p] += w[:, 0, t] * x[:, p + t - behind]
    torch.testing.assert_close(depthwise_convolution(x, (6,), w, ahead=ahead), wanted)


def test_channels_that_lie_apart() -> None:
    x, w = leaves((2, 20, 12), (6, 1, 3, 3))
    fast, plain = depthwise_convolution, depthwise_convolution_plain
    assert_same(lambda x, w: fast(x[..., 6:], (4, 5), w), lambda x, w: plain(x[..., 6:], (4, 5), w), [x, w])


@pytest.mark.parametrize("grid", [(3, 1, 5), (4, 4, 4), (6, 1)], ids=str)
def test_bf16(grid: tuple[int, ...]) -> None:
    inputs = leaves((2, math.prod(grid), 6), (6, 1, *[5] * len(grid)), (6,))
    assert_bf16_close(lambda *t: depthwise_convolution(t[0], grid, t[1], t[2]), inputs)
    x, w, b = (t.detach().float() for t in inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = depthwise_convolution(x, grid, w, b)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), depthwise_convolution(x, grid, w, b), rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("shape", "ahead", "message"),
    [
        ((6, 1, 3), None, "a grid of (4, 5), got (6, 1, 3)"),
        ((5, 1, 3, 3), None, "for 6 channels"),
        ((6, 1, 3, 4), None, "a middle one"),
        ((6, 1, 3, 3), 3, "fewer than all ahead, got 3"),
    ],
)
def test_errors(shape: tuple[int, ...], ahead: int | None, message: str) -> None:
    with pytest.raises(ValueError) as error:
        depthwise_convolution(torch.randn(1, 20, 6), (4, 5), torch.randn(shape), ahead=ahead)
    assert message in str(error.value)
