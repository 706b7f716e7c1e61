"""The Hyena operator along a sequence against direct sums in float64."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops.hyena import hyena, hyena_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves

each_side = pytest.mark.parametrize("causal", [False, True], ids=["both_sides", "causal"])


def tensors(order: int, n: int, causal: bool) -> list[torch.Tensor]:
    shapes = [(2, 3, n)] * (order + 1) + [(order - 1, 3, n if causal else 2 * n - 1), (order - 1, 3)]
    return leaves(*shapes)


def loops(causal: bool, *inputs: torch.Tensor) -> torch.Tensor:
    *gates, v, kernels, skip = inputs
    n = v.shape[-1]
    for gate, kernel, d in zip(gates, kernels, skip):
        z = gate * v
        rows = []
        for p in range(n):
            total = d * z[:, :, p]
            for s in range(p + 1 if causal else n):
                total = total + kernel[:, p - s + (0 if causal else n - 1)] * z[:, :, s]
            rows.append(total)
        v = torch.stack(rows, -1)
    return gates[-1] * v


@each_side
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_definition(n: int, order: int, causal: bool) -> None:
    for function in (hyena, hyena_plain):
        assert_same(
            lambda *t, f=function: f(t[:order], *t[order:], causal),
            lambda *t: loops(causal, *t),
            tensors(order, n, causal),
        )


def test_bf16() -> None:
    assert_bf16_close(lambda *t: hyena(t[:2], *t[2:]), tensors(2, 9, False), tol=0.03)


def test_wrong_shapes() -> None:
    x, kernels, skip = torch.zeros(1, 2, 5), torch.zeros(1, 2, 9), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="two gates or more"):
        hyena([x], x, kernels, skip)
    with pytest.raises(ValueError, match=r"\(1, 2, 4\)\] and \(1, 2, 5\)"):
        hyena([x, x[..., :4]], x, kernels, skip)
    with pytest.raises(ValueError, match=r"\(O - 1, C\) = \(2, 2\), got \(1, 2, 9\)"):
        hyena([x, x, x], x, kernels, torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"\(9,\) taps or fewer, an odd number, got \(8,\)"):
        hyena([x, x], x, kernels[..., :8], skip)
