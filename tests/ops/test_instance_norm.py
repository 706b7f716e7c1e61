"""Norm, residual and activation in one step, against the definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import monai_ext.ops.instance_norm as op
from monai_ext.ops.instance_norm import instance_norm_leaky_relu, instance_norm_leaky_relu_plain
from tests.ops.compare import assert_bf16_close, assert_same, leaves

KINDS = {"alone": (1, False), "residual": (2, False), "both": (2, True)}
each_kind = pytest.mark.parametrize(("inputs", "both"), KINDS.values(), ids=KINDS)


@each_kind
@pytest.mark.parametrize("size", [(5, 3), (1, 7), (3, 2, 5)], ids=str)
@pytest.mark.parametrize("block", [1, 40, 2**18])
def test_same_as_the_definition(monkeypatch, inputs: int, both: bool, size: tuple[int, ...], block: int) -> None:
    monkeypatch.setattr(op, "BLOCK_CPU", block)
    tensors = leaves(*[(2, 3, *size)] * inputs)

    def run(function):
        return lambda x, residual=None: function(x, residual, both, 1e-5, 0.1)

    assert_same(run(instance_norm_leaky_relu), run(instance_norm_leaky_relu_plain), tensors)
    with torch.no_grad():
        torch.testing.assert_close(
            run(instance_norm_leaky_relu)(*tensors), run(instance_norm_leaky_relu_plain)(*tensors)
        )


def test_same_as_pytorch() -> None:
    x, residual = (torch.randn(2, 3, 6, 5) for _ in range(2))
    wanted = F.leaky_relu(F.instance_norm(x) + F.instance_norm(residual), 0.01)
    torch.testing.assert_close(instance_norm_leaky_relu(x, residual, True), wanted)


@each_kind
def test_bf16(inputs: int, both: bool) -> None:
    assert_bf16_close(lambda x, r=None: instance_norm_leaky_relu(x, r, both), leaves(*[(2, 3, 9, 8)] * inputs), 0.03)


@each_kind
def test_constant_maps(inputs: int, both: bool) -> None:
    """Air: no spread, so nothing to divide by, and finite gradients."""
    tensors = [torch.full((1, 2, 4, 4), 3.0, requires_grad=True) for _ in range(inputs)]
    out = instance_norm_leaky_relu(tensors[0], tensors[1] if inputs > 1 else None, both)
    out.sin().sum().backward()
    assert out.isfinite().all() and all(t.grad.isfinite().all() for t in tensors)


def test_keeps_the_output_and_the_residual_alone() -> None:
    x, residual = (torch.randn(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = instance_norm_leaky_relu(x * 1, residual, True)
    large = [t for t in kept if t.numel() == x.numel()]
    assert {t.data_ptr() for t in large} <= {out.data_ptr(), residual.data_ptr()}


def test_errors() -> None:
    x = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3, 3\), got \(1, 2, 3, 4\)"):
        instance_norm_leaky_relu(x, torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="slope must be above 0, got 0"):
        instance_norm_leaky_relu(x, slope=0)
