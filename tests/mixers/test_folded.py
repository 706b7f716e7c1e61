"""Set-like mixers fold projections into small matrices where there are many tokens: nothing but the time changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from monai_ext.mixers import build_mixer
from monai_ext.mixers.base import Mixer

SPECS: list[dict[str, Any]] = [
    {"name": "linear"},
    {"name": "linear", "qkv_bias": True},
    {"name": "relu_linear", "qkv_bias": True},
    {"name": "relu_linear", "min_denominator": 1e-3},
    {"name": "sima"},
    {"name": "sima", "qkv_bias": True},
    {"name": "seqnorm"},
    {"name": "seqnorm", "scale": "sqrt_n"},
]


def results(mixer: Mixer, x: torch.Tensor, grid: tuple[int, ...], folded: bool) -> list[torch.Tensor]:
    mixer.folds = lambda x: folded  # type: ignore[method-assign]
    out = mixer(x, grid)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    return [out, *torch.autograd.grad((out * weights).sum(), [x, *mixer.parameters()])]


@pytest.mark.parametrize("grid", [(7, 9), (5, 3, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_same(spec: dict[str, Any], grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mixer = build_mixer(spec, 12, 3, len(grid)).double()
    x = (torch.randn(2, math.prod(grid), 12, dtype=torch.float64) + 0.5).requires_grad_()
    for fast, plain in zip(results(mixer, x, grid, True), results(mixer, x, grid, False)):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-11)
    wanted = results(mixer, x, grid, True)[0]
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, grid), wanted)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_mostly_constant_tokens(spec: dict[str, Any]) -> None:
    """As the air around a patient makes them: float32 keeps its digits."""
    torch.manual_seed(0)
    mixer = build_mixer(spec, 12, 3, 2)
    x = torch.randn(12).expand(1, 1024, 12) * 10
    x = (x + torch.randn(1, 1024, 12) * (torch.rand(1, 1024, 1) < 0.05)).requires_grad_()
    single = results(mixer, x, (32, 32), True)
    double = results(mixer.double(), x.detach().double().requires_grad_(), (32, 32), False)
    largest = max(t.norm() for t in double[2:])
    for fast, exact in zip(single, double):
        assert (fast - exact).norm() <= 1e-3 * max(exact.norm(), 0.01 * largest)


@pytest.mark.parametrize("n", [256, 257, 259, 330])
def test_bound_in_float32(n: int) -> None:
    """Where the bound acts nothing flows through the denominator, whatever the rounding of its reciprocal."""
    torch.manual_seed(0)
    mixer, x = build_mixer("relu_linear", 16, 2, 2), torch.randn(1, n, 16, requires_grad=True)
    for fast, plain in zip(results(mixer, x, (n, 1), True), results(mixer, x, (n, 1), False)):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_where() -> None:
    """With many tokens in full precision, and nowhere else."""
    mixer = build_mixer("linear", 12, 3, 2)
    assert mixer.folds(torch.randn(1, 48, 12)) and not mixer.folds(torch.randn(1, 47, 12))
    assert not mixer.folds(torch.randn(1, 48, 12, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        assert not mixer.folds(torch.randn(1, 48, 12))
