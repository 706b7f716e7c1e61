"""Attention among the bins of sorted tokens."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.histogram import (
    histogram_attention,
    histogram_attention_plain,
    softmax_1,
    sort_axes,
    unsort_axes,
)
from tests.ops.compare import assert_bf16_close, assert_same, leaves

each_kind = pytest.mark.parametrize("frequency", [False, True], ids=["neighbours", "every_fth"])


@each_kind
@pytest.mark.parametrize("heads", [1, 3])
# divided; the last bin shorter; two bins of zeros only; fewer tokens than bins; one bin
@pytest.mark.parametrize(("n", "bins"), [(12, 3), (13, 3), (7, 6), (2, 5), (11, 1)])
def test_definition(n: int, bins: int, heads: int, frequency: bool) -> None:
    inputs = leaves(*[(2, 6, n)] * 3, (heads, 1, 1))
    assert_same(
        lambda *t: histogram_attention(*t, bins, frequency),
        lambda *t: histogram_attention_plain(*t, bins, frequency),
        inputs,
    )


@each_kind
def test_bf16(frequency: bool) -> None:
    q, k, v, _ = leaves(*[(2, 6, 61)] * 3, (3, 1, 1))
    temperature = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    assert_bf16_close(lambda *t: histogram_attention(*t, 4, frequency), [q, k, v, temperature])


def test_autocast_keeps_float32() -> None:
    inputs = leaves(*[(1, 4, 33)] * 3, (2, 1, 1), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = histogram_attention(*inputs, 3, True)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, histogram_attention(*inputs, 3, True))


def test_softmax_1() -> None:
    (x,) = leaves((3, 7))
    assert_same(softmax_1, lambda x: x.exp() / (x.exp().sum(-1, keepdim=True) + 1), [x])
    # far above: a softmax; far below: nothing
    big = torch.tensor([[800.0, 799.0], [-800.0, -799.0]], requires_grad=True)
    out = softmax_1(big)
    torch.testing.assert_close(out[0], big[0].softmax(0))
    assert (out[1] == 0).all()
    (grad,) = torch.autograd.grad(out[0, 0], big)
    assert grad.isfinite().all()


def test_large_temperature() -> None:
    q, k, v, _ = leaves(*[(1, 2, 9)] * 3, (1, 1, 1), dtype=torch.float32)
    assert histogram_attention(q, k, v, torch.tensor([1000.0]), 3, False).isfinite().all()


@pytest.mark.parametrize("grid", [(5, 3), (1, 4), (3, 2, 4)], ids=str)
def test_sorting_axes(grid: tuple[int, ...]) -> None:
    (x,) = leaves((2, 3, *grid))
    y, orders = sort_axes(x)
    # the last axis is sorted; the earlier ones stay so
    for axis in range(2, x.ndim):
        assert (y.diff(dim=axis) >= 0).all()
    assert torch.equal(y.flatten(2).sort(-1).values, x.flatten(2).sort(-1).values)
    assert torch.equal(unsort_axes(y, orders), x)
    assert_same(lambda x: unsort_axes(sort_axes(x)[0] ** 2, orders), lambda x: x**2, [x])


def test_equal_values_keep_their_order() -> None:
    x = torch.zeros(1, 1, 4, 70)
    _, orders = sort_axes(x)
    assert (orders[1] == torch.arange(70)).all() and (orders[0] == torch.arange(4).unsqueeze(1)).all()


def test_errors() -> None:
    x = torch.zeros(1, 6, 5)
    with pytest.raises(ValueError, match=r"\(1, 6, 4\)"):
        histogram_attention(x, x[..., :4], x, torch.ones(3), 2, False)
    with pytest.raises(ValueError, match="4 temperatures, one a head, do not divide 6"):
        histogram_attention(x, x, x, torch.ones(4), 2, False)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        histogram_attention(x, x, x, torch.ones(3), 0, False)
    with pytest.raises(ValueError, match="N >= 1"):
        histogram_attention(*[x[..., :0]] * 3, torch.ones(3), 2, False)
